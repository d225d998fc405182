// `--guest`: which default guest runs, and which one it is when nobody says. Pure.
// The guests are those of guests/linux/prepare.ts.
import { UsageError } from './usage-error.js';

const GUESTS = ['stock', 'small'] as const;
export type GuestKind = (typeof GUESTS)[number];

export const GUEST_HELP =
  "which default guest: stock, Debian's cloud kernel (default with VMX or SVM), or small, a kernel built here";

/** @throws UsageError */
export function parseGuest(value: string): GuestKind {
  const found = GUESTS.find((kind) => kind === value);
  if (found === undefined)
    throw new UsageError('--guest', `takes ${GUESTS.join(' or ')}, not ${JSON.stringify(value)}`);
  return found;
}

/** What was asked for. */
export interface GuestWish {
  readonly guest?: GuestKind;
  /** Only the small kernel is built from a source. */
  readonly kernelSource?: string;
}

/** @throws UsageError when the two cannot go together */
export function checkWish({ guest, kernelSource }: GuestWish): void {
  if (guest === 'stock' && kernelSource !== undefined)
    throw new UsageError('--kernel-source', 'is what the small guest is built from; leave it or --guest stock out');
}

/** What decides when nobody says. */
export interface GuestHost {
  /** VMX or SVM: KVM runs guest kernels at full speed. */
  readonly hardware: boolean;
  /** Debian's packages can be had. */
  readonly apt: boolean;
  /** The guests that are in the cache already. */
  readonly ready: readonly GuestKind[];
}

/** The stock guest is there in seconds, the small one after minutes; the stock one wants hardware virtualization. */
export function chooseGuest({ guest, kernelSource }: GuestWish, host: GuestHost): GuestKind {
  if (guest !== undefined) return guest;
  if (kernelSource !== undefined || !host.hardware) return 'small';
  if (host.ready.includes('stock')) return 'stock';
  return host.ready.includes('small') || !host.apt ? 'small' : 'stock';
}
