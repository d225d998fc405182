// The tiers of the exit benchmark: who serves the exit, from the kernel to QEMU. One row each.
import type { ExitCase } from './cases.js';
import { MODE, OP } from './guest.js';
import type { SubjectOptions } from './subject.js';

export type TierOptions = Pick<SubjectOptions, 'thread' | 'statistics' | 'trace' | 'koffi' | 'closure'>;

export interface Tier {
  readonly id: string;
  readonly title: string;
  readonly runs: 'reference' | 'subject' | 'qemu';
  /** Of a subject. */
  readonly options?: TierOptions;
  /** Passes of a batch, as a share of the case's: less for what is slow by design. */
  readonly share: number;
  /** Why it cannot serve that case; undefined when it can. */
  readonly refuses: (each: ExitCase) => string | undefined;
}

const PLAIN: TierOptions = { thread: 'worker', statistics: false, trace: false, koffi: false, closure: false };
const accepts = (): undefined => undefined;
const onOneThread = ({ clock }: ExitCase): string | undefined =>
  clock === 'latency' ? 'needs a second thread' : undefined;

/** The yardstick of every ratio; its own cell comes of two such loops side by side. */
export const C_TIER = 'c';

export const TIERS: readonly Tier[] = [
  {
    id: 'kernel',
    title: 'in the kernel (ioeventfd)',
    runs: 'reference',
    share: 10,
    refuses: ({ op, feature, inKernel }) => {
      if (inKernel) return 'the kernel serves it in every tier';
      if (feature !== 'none') return 'another help of the kernel';
      return op === OP.portWrite || op === OP.mmioWrite ? undefined : 'an ioeventfd takes single writes only';
    },
  },
  { id: C_TIER, title: 'C loop', runs: 'reference', share: 1, refuses: accepts },
  {
    id: 'inline',
    title: 'Microvisor inline',
    runs: 'subject',
    options: { ...PLAIN, thread: 'main' },
    share: 1,
    refuses: onOneThread,
  },
  { id: 'worker', title: 'Microvisor in a worker', runs: 'subject', options: PLAIN, share: 1, refuses: accepts },
  {
    id: 'statistics',
    title: '… with statistics (a machine)',
    runs: 'subject',
    options: { ...PLAIN, statistics: true },
    share: 1,
    refuses: accepts,
  },
  {
    id: 'trace',
    title: '… and the trace',
    runs: 'subject',
    options: { ...PLAIN, statistics: true, trace: true },
    share: 1,
    refuses: accepts,
  },
  {
    id: 'closure',
    title: '… to a closure on the owner',
    runs: 'subject',
    options: { ...PLAIN, statistics: true, closure: true },
    share: 0.1,
    refuses: ({ op, feature }) =>
      op <= OP.mmioRead && feature === 'none' ? undefined : 'a closure serves accesses by exits only',
  },
  {
    id: 'koffi',
    title: 'koffi in place of the addon',
    runs: 'subject',
    options: { ...PLAIN, thread: 'main', koffi: true },
    share: 1,
    refuses: onOneThread,
  },
  {
    id: 'qemu',
    title: 'QEMU, microvm',
    runs: 'qemu',
    share: 1,
    refuses: ({ op, mode, feature, clock }) => {
      if (clock === 'latency') return 'a QEMU guest gets an irqfd behind a device only, and is not kicked';
      if (feature !== 'none') return 'QEMU does not do this for the devices that this guest has';
      return mode === MODE.real && (op === OP.mmioWrite || op === OP.mmioRead)
        ? 'QEMU has RAM where real mode finds MMIO'
        : undefined;
    },
  },
];
