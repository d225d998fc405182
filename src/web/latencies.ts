// Latency histograms of exits by kind: from exit to the next entry, in powers of two of nanoseconds. Pure.
// What it needs of an exit is what the trace's ring, or a file of it, has.
import { deviceNames, exitName, registerName, type DeviceNames } from '../machine/trace/trace-summary.js';
import type { TraceDevice } from '../machine/trace/trace-format.js';
import type { TracedExit } from '../vcpu/observe/trace-reader.js';
import type { ExitRow, LatencyRow } from './protocol.js';

/** 2^30 ns is a second; longer ones count there. */
const BUCKETS = 31;
/** More kinds than a person looks at; the rest share one. */
const KINDS_MAX = 400;
const NAMES_MAX = 10_000;
const OTHERS = 'others';

type Exit = Omit<TracedExit, 'words'>;

/** Takes the exits of all vCPUs, each vCPU's in order. */
export class Latencies {
  readonly #kinds = new Map<string, { count: number; readonly buckets: number[] }>();
  readonly #last = new Map<number, ExitRow & { readonly exit: Exit }>();
  readonly #nameDevice: DeviceNames;
  /** Names of kinds, by a number that tells them apart: they are asked for with every exit. */
  readonly #names = new Map<number, string>();

  constructor(
    private readonly devices: readonly TraceDevice[],
    /** TSC cycles a millisecond. */
    private readonly tscKhz: () => number,
  ) {
    this.#nameDevice = deviceNames(devices);
  }

  /** Exits of this vCPU were not seen. */
  gap(vcpu: number): void {
    this.#last.delete(vcpu);
  }

  /** @returns the exit before this one, of the same vCPU, as served now that this one's entry is known */
  add(vcpu: number, exit: Exit): ExitRow | undefined {
    const before = this.#last.get(vcpu);
    const { access } = exit;
    const { entered, exited, reason } = exit;
    const row = { vcpu, entered, exited, served: -1, reason, ...(access === undefined ? {} : { access }), exit };
    this.#last.set(vcpu, row);
    if (before === undefined) return undefined;
    const served = exit.entered - before.exited;
    this.#count(before.exit, served);
    return rowOf(before, served);
  }

  /** The last exit of each vCPU, of which nobody knows yet how long it takes to serve. */
  unserved(): readonly ExitRow[] {
    return [...this.#last.values()].map((row) => rowOf(row, -1));
  }

  /** Most frequent first. */
  rows(): readonly LatencyRow[] {
    return [...this.#kinds]
      .map(([name, { count, buckets }]) => ({ name, count, buckets: buckets.slice() }))
      .toSorted((a, b) => b.count - a.count);
  }

  #count(exit: Exit, cycles: number): void {
    const key = keyOf(exit);
    const name = this.#names.get(key) ?? kindName(exit, this.#nameDevice, this.devices);
    if (this.#names.size < NAMES_MAX) this.#names.set(key, name);
    const known = this.#kinds.get(name) ?? this.#kinds.get(this.#kinds.size < KINDS_MAX ? name : OTHERS);
    const kind = known ?? { count: 0, buckets: Array.from({ length: BUCKETS }, () => 0) };
    if (known === undefined) this.#kinds.set(this.#kinds.size < KINDS_MAX ? name : OTHERS, kind);
    kind.count++;
    const at = bucketOf((cycles / this.tscKhz()) * 1e6);
    kind.buckets[at] = (kind.buckets[at] as number) + 1;
  }
}

const SPACES = ['port', 'mmio', 'msr'] as const;

function keyOf({ reason, access }: Exit): number {
  if (access === undefined) return -1 - reason;
  return access.address * 8 + SPACES.indexOf(access.space) * 2 + (access.isWrite ? 1 : 0);
}

/** `out COM1 THR`, `KVM_EXIT_HLT`: by the register's name where it has one. */
export function kindName(
  exit: Pick<Exit, 'reason' | 'access'>,
  nameDevice: DeviceNames,
  devices: readonly TraceDevice[],
): string {
  const register = exit.access && registerName(devices, exit.access);
  const name = exitName(exit, nameDevice);
  return register === undefined ? name : `${name} ${register}`;
}

export function bucketOf(nanoseconds: number): number {
  return Math.min(Math.max(Math.floor(Math.log2(Math.max(nanoseconds, 1))), 0), BUCKETS - 1);
}

function rowOf({ vcpu, entered, exited, reason, access }: ExitRow, served: number): ExitRow {
  return { vcpu, entered, exited, served, reason, ...(access === undefined ? {} : { access }) };
}
