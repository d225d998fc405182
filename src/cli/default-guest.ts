// The default guest for a run: from the cache, or prepared now while a person watches.
// The work is that of guests/linux/prepare.ts.
import { existsSync, readFileSync } from 'node:fs';
import { System } from '../kvm/system.js';
import type { DefaultGuest } from './config-from-request.js';
import { chooseGuest, type GuestKind, type GuestWish } from './guest-option.js';
import { ProgressDisplay } from './progress.js';
import { say } from './sentence.js';

const TITLE = 'preparing the default guest';

const STOCK_IS_SLOW =
  "this host's KVM has neither VMX nor SVM and emulates kernel code: the stock kernel takes minutes here, if it boots " +
  'at all; --guest small is made for such hosts';

/** KVM's modules for VMX and SVM. */
const HARDWARE_MODULES = ['kvm_intel', 'kvm_amd'] as const;

/** True where KVM runs guest kernels on the processor itself. */
export function hasHardwareVirtualization(): boolean {
  try {
    // A module that is built into the kernel is in /sys/module on any processor.
    const flags = /^flags\s*:(.*)$/m.exec(readFileSync('/proc/cpuinfo', 'utf8'))?.[1] ?? '';
    return /\b(vmx|svm)\b/.test(flags) && HARDWARE_MODULES.some((name) => existsSync(`/sys/module/${name}`));
  } catch {
    return false;
  }
}

/**
 * @throws Error when a tool or package is missing (the message says which and how to get it), KvmError when there is no
 *   KVM to run the guest with
 */
export async function prepareDefaultGuest(wish: GuestWish, signal: AbortSignal): Promise<DefaultGuest> {
  // Before minutes go into a kernel that could not run.
  System.open().close();
  if (wish.guest === 'stock' && !hasHardwareVirtualization()) say(STOCK_IS_SLOW);
  return prepareGuestVisibly(wish, signal);
}

export async function prepareGuestVisibly(wish: GuestWish, signal: AbortSignal): Promise<DefaultGuest> {
  const { findGuest, prepareGuest } = await import('../../guests/linux/prepare.js');
  const { haveApt } = await import('../../guests/linux/packages.js');
  const hardware = hasHardwareVirtualization();
  const ready: GuestKind[] = [];
  // Only there the answer is not known yet.
  if (hardware && wish.guest === undefined)
    for (const flavour of ['stock', 'small'] as const)
      if ((await findGuest({ flavour })) !== undefined) ready.push(flavour);
  const flavour = chooseGuest(wish, { hardware, apt: haveApt(), ready });
  const { kernelSource } = wish;
  const display = new ProgressDisplay(process.stderr, TITLE);
  try {
    return await prepareGuest({
      flavour,
      onProgress: (progress) => display.update(progress),
      signal,
      ...(kernelSource === undefined ? {} : { kernelSource }),
    });
  } finally {
    display.close();
  }
}
