// The goals of the exit path as rows: what is asked, what this run found, and whether that is enough.
// A goal that this host cannot show is not measured, which is neither.
import { CASES, QUICK_CASES } from './cases.js';
import type { Cell, MeasuredCell } from './measure.js';
import { cellAt, MACHINE_TIER, type ExitsResult } from './result.js';

export interface Goal {
  readonly title: string;
  readonly found: string;
  readonly verdict: 'reached' | 'missed' | 'not measured';
}

const SERVED_CASES: readonly string[] = QUICK_CASES;
/** An object has 16 bytes at least; what is less is the compiler's, once. */
const BYTES_AN_EXIT = 1;
const SAME_LOOK_UP = 1.25;
const SAME_IN_KERNEL = 0.05;

export function goalsOf(result: ExitsResult): readonly Goal[] {
  const { cells, warm, isolated } = result;
  const machine = (where: readonly Cell[], cases = SERVED_CASES): MeasuredCell[] =>
    cases.flatMap((id) => cellAt(where, id, MACHINE_TIER) ?? []);
  const worst = (all: readonly MeasuredCell[], of: (cell: MeasuredCell) => number): MeasuredCell | undefined =>
    all.toSorted((a, b) => of(b) - of(a))[0];
  const slowest = worst(machine(cells), ({ ratio }) => -ratio.median);
  const inPlace = worst(machine(cells), ({ beyondC }) => beyondC.median);
  const single = worst(
    machine(cells).filter(({ singleBeyondC }) => singleBeyondC.samples > 0),
    ({ singleBeyondC }) => singleBeyondC.median,
  );
  const warmest = worst(machine(warm), ({ beyondC }) => beyondC.median);
  const coalesced = worst(
    machine(cells, ['port-writes-coalesced', 'mmio-writes-coalesced']),
    ({ ratio }) => -ratio.median,
  );
  const heap = Object.values(isolated.heap);
  const hungriest = Math.max(...heap.map(({ bytes, exits }) => bytes / exits));
  const lookUp = ['bus-4', 'bus-40', 'bus-400'].map((id) => isolated.costs.find((cost) => cost.id === id)?.ns);
  const kick = cellAt(cells, 'kick', MACHINE_TIER);
  return [
    goal('exits served in a worker: at least 0.985 of the C loop', slowest, ({ ratio, case: id }) => [
      ratio.median >= 0.985,
      `${ratio.median.toFixed(3)} (${ratio.low.toFixed(3)}–${ratio.high.toFixed(3)}), ${id}`,
    ]),
    goal('our own cost per exit in place: at most 120 ns', inPlace, ({ beyondC, case: id }) => [
      beyondC.median <= 120,
      `${nsWithInterval(beyondC)}, ${id}`,
    ]),
    goal('the same for the median exit, by the guest’s TSC', single, ({ singleBeyondC, case: id }) => [
      singleBeyondC.median <= 120,
      `${nsWithInterval(singleBeyondC)}, ${id}`,
    ]),
    goal('our own cost per exit, warm: at most 12 ns', warmest, ({ beyondC, case: id }) => [
      beyondC.median <= 12,
      `${nsWithInterval(beyondC)}, ${id}`,
    ]),
    goal('no allocation per exit', heap.length === 0 ? undefined : hungriest, (bytes) => [
      bytes < BYTES_AN_EXIT,
      `${bytes.toFixed(4)} bytes an exit over ${heap[0]?.exits.toExponential(0)} exits`,
    ]),
    goal('the trace: at most 60 ns more', worstTrace(cells), ([ns, id]) => [ns <= 60, `${ns.toFixed(0)} ns, ${id}`]),
    goal('coalesced writes: at least 8 times the C loop', coalesced, ({ ratio, case: id }) => [
      ratio.median >= 8,
      `${ratio.median.toFixed(1)} (${ratio.low.toFixed(1)}–${ratio.high.toFixed(1)}), ${id}`,
    ]),
    goal('bus look-up independent of the number of handlers', numbers(lookUp), (times) => [
      Math.max(...times) <= SAME_LOOK_UP * Math.min(...times),
      `${times.map((ns) => ns.toFixed(1)).join(', ')} ns with 4, 40, 400`,
    ]),
    goal('kick to run() returned: p99 under 100 µs', kick, ({ p99 }) => [
      p99 < 100_000,
      `${(p99 / 1000).toFixed(0)} µs`,
    ]),
    goal('ahead of QEMU on every exit to user space, equal in the kernel', againstQemu(cells), ({ behind, close }) => [
      behind.length + close.length === 0,
      [
        behind.length === 0 ? 'behind in no case that QEMU runs' : `behind in ${behind.join(', ')}`,
        ...(close.length === 0 ? [] : [`too close to tell in ${close.join(', ')}`]),
      ].join('; '),
    ]),
  ];
}

function goal<T>(title: string, measured: T | undefined, judge: (measured: T) => readonly [boolean, string]): Goal {
  if (measured === undefined) return { title, found: '', verdict: 'not measured' };
  const [isReached, found] = judge(measured);
  return { title, found, verdict: isReached ? 'reached' : 'missed' };
}

function nsWithInterval({ median, low, high }: MeasuredCell['beyondC']): string {
  return `${median.toFixed(0)} ns (${low.toFixed(0)}–${high.toFixed(0)})`;
}

function numbers(values: readonly (number | undefined)[]): readonly number[] | undefined {
  const all = values.filter((value) => value !== undefined);
  return all.length === values.length ? all : undefined;
}

function worstTrace(cells: readonly Cell[]): readonly [number, string] | undefined {
  const costs = SERVED_CASES.flatMap((id): (readonly [number, string])[] => {
    const without = cellAt(cells, id, MACHINE_TIER);
    const traced = cellAt(cells, id, 'trace');
    return without === undefined || traced === undefined ? [] : [[traced.beyondC.median - without.beyondC.median, id]];
  });
  return costs.toSorted(([a], [b]) => b - a)[0];
}

/** Cases that QEMU ran: those in which it was faster, and those in which the two intervals overlap. */
function againstQemu(
  cells: readonly Cell[],
): { readonly behind: readonly string[]; readonly close: readonly string[] } | undefined {
  const both = CASES.flatMap(({ id, inKernel }) => {
    const ours = cellAt(cells, id, MACHINE_TIER)?.ratio;
    const theirs = cellAt(cells, id, 'qemu')?.ratio;
    if (ours === undefined || theirs === undefined) return [];
    const room = inKernel ? 1 + SAME_IN_KERNEL : 1;
    return [{ id, isAhead: ours.low * room > theirs.high, isBehind: ours.high * room < theirs.low, inKernel }];
  });
  if (both.length === 0) return undefined;
  return {
    behind: both.filter(({ isBehind }) => isBehind).map(({ id }) => id),
    // What the kernel does by itself cannot be ahead.
    close: both.filter(({ isAhead, isBehind, inKernel }) => !isAhead && !isBehind && !inKernel).map(({ id }) => id),
  };
}
