// The default guest for a run: from the cache, or prepared now while a person watches.
// The work is that of guests/linux/prepare.ts.
import { System } from '../kvm/system.js';
import type { DefaultGuest } from './config-from-request.js';
import { ProgressDisplay } from './progress.js';

const TITLE = 'preparing the default guest';

/**
 * @throws Error when a tool or package is missing (the message says which and how to get it), KvmError when there is no
 *   KVM to run the guest with
 */
export async function prepareDefaultGuest(
  options: { readonly kernelSource?: string },
  signal: AbortSignal,
): Promise<DefaultGuest> {
  // Before minutes go into a kernel that could not run.
  System.open().close();
  return prepareGuestVisibly(options, signal);
}

export async function prepareGuestVisibly(
  { kernelSource }: { readonly kernelSource?: string },
  signal: AbortSignal,
): Promise<DefaultGuest> {
  const { prepareGuest } = await import('../../guests/linux/prepare.js');
  const display = new ProgressDisplay(process.stderr, TITLE);
  try {
    return await prepareGuest({
      flavour: 'small',
      onProgress: (progress) => display.update(progress),
      signal,
      ...(kernelSource === undefined ? {} : { kernelSource }),
    });
  } finally {
    display.close();
  }
}
