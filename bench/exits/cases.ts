// The cases of the exit benchmark: what the guest does, in which mode, with what of KVM's help. One row each.
// KVM API 4.10 (exits), 4.59, 4.75, 4.97, 4.116; bench/exits/guest.S for the loops.
import { MODE, OP } from './guest.js';

/** What is asked of KVM or of the exit's handler beside serving the access. */
export type Feature = 'none' | 'coalesced' | 'ioeventfd' | 'sync-regs' | 'get-regs' | 'msr-filter';

/** How a pass is measured: processor time of the vCPU's thread, or the time until another thread has its answer. */
export type Clock = 'cpu' | 'latency';

export interface ExitCase {
  readonly id: string;
  readonly title: string;
  readonly op: number;
  readonly mode: number;
  readonly feature: Feature;
  readonly clock: Clock;
  /** True where the kernel answers by itself, so that no VMM can be faster than another. */
  readonly inKernel: boolean;
  /** Passes of a batch: two milliseconds where an exit takes eight microseconds, which is often over undisturbed. */
  readonly passes: number;
  /** Passes of a warm-up, as a share of the usual: less where a pass may be many exits. */
  readonly warmUpShare: number;
  /** The C loop serves that case instead, for the ratio. */
  readonly against?: string;
}

const MODES = [
  { id: 'real', title: 'real mode', mode: MODE.real, passes: 250 },
  { id: 'protected', title: 'protected mode', mode: MODE.protected, passes: 250 },
  { id: 'long', title: 'long mode', mode: MODE.long, passes: 250 },
  { id: 'user', title: 'CPL 3', mode: MODE.user, passes: 40 },
] as const;

const ACCESSES = [
  { id: 'port-write', title: 'port write', op: OP.portWrite, share: 1, warmUpShare: 1 },
  { id: 'port-read', title: 'port read', op: OP.portRead, share: 1, warmUpShare: 1 },
  { id: 'rep-outs', title: 'rep outsb of 64 bytes', op: OP.repOuts, share: 0.016, warmUpShare: 0.1 },
  { id: 'mmio-write', title: 'MMIO write', op: OP.mmioWrite, share: 1, warmUpShare: 1 },
  { id: 'mmio-read', title: 'MMIO read', op: OP.mmioRead, share: 1, warmUpShare: 1 },
] as const;

const DEFAULTS = {
  mode: MODE.long,
  feature: 'none',
  clock: 'cpu',
  inKernel: false,
  passes: 250,
  warmUpShare: 1,
} as const;

/** Sixteen of them a pass: for a host that emulates the guest's loop, too. */
const ROWS = [
  { id: 'port-write', title: 'port write', op: OP.portWrites },
  { id: 'mmio-write', title: 'MMIO write', op: OP.mmioWrites },
] as const;
const ROW = { ...DEFAULTS, passes: 128, warmUpShare: 0.1 } as const;

export const CASES: readonly ExitCase[] = [
  ...MODES.flatMap(({ id, title, mode, passes }) =>
    ACCESSES.map((access) => ({
      ...DEFAULTS,
      id: `${access.id}-${id}`,
      title: `${access.title}, ${title}`,
      op: access.op,
      mode,
      passes: Math.ceil(passes * access.share),
      warmUpShare: access.warmUpShare,
    })),
  ),
  ...ROWS.flatMap(({ id, title, op }) => [
    { ...ROW, id: `${id}s`, title: `16 ${title}s in a row, long mode`, op, passes: 16 },
    {
      ...ROW,
      id: `${id}s-coalesced`,
      title: `16 coalesced ${title}s`,
      op,
      feature: 'coalesced',
      against: `${id}s`,
    } as const,
  ]),
  {
    ...DEFAULTS,
    id: 'get-regs',
    title: 'port write, KVM_GET_REGS',
    op: OP.portWrite,
    feature: 'get-regs',
    passes: 125,
  },
  { ...DEFAULTS, id: 'sync-regs', title: 'port write, SYNC_REGS', op: OP.portWrite, feature: 'sync-regs' },
  { ...DEFAULTS, id: 'rdmsr-filter', title: 'RDMSR by filter', op: OP.rdmsr, feature: 'msr-filter' },
  { ...DEFAULTS, id: 'cpuid', title: 'CPUID', op: OP.cpuid, inKernel: true, passes: 1250 },
  { ...DEFAULTS, id: 'timer', title: 'timer interrupt', op: OP.timer, inKernel: true, passes: 50 },
  { ...DEFAULTS, id: 'halt-irqfd', title: 'HLT to wake-up by irqfd', op: OP.waitHalted, clock: 'latency', passes: 40 },
  { ...DEFAULTS, id: 'irqfd', title: 'irqfd to guest handler', op: OP.waitSpinning, clock: 'latency', passes: 40 },
  { ...DEFAULTS, id: 'kick', title: 'kick to run() returned', op: OP.spin, clock: 'latency', passes: 40 },
];

/** Those of a quick run. */
export const QUICK_CASES = ['port-write-long', 'port-read-long', 'mmio-write-long', 'mmio-read-long'] as const;
