// The exit benchmark on the terminal: cases by tiers, each cell with its figures, then the parts, growth, goals and changes.
import type { Estimate } from '../estimate.js';
import { formatMachine } from '../machine.js';
import { formatTable } from '../spread.js';
import { CASES } from './cases.js';
import type { Change } from './compare.js';
import { goalsOf } from './goals.js';
import type { Cell, MeasuredCell } from './measure.js';
import type { Substrate } from './processes.js';
import type { ExitsResult } from './result.js';
import { TIERS } from './tiers.js';

/** The whole of it; a run prints the parts as it gets to them. */
export function formatResult(result: ExitsResult): string {
  return [
    formatHead(result),
    ...formatCells(result.cells, 'kvm'),
    ...formatCells(result.warm, 'null'),
    formatTail(result),
  ].join('\n\n');
}

export function formatHead({ machine, qemu, noKvm }: Pick<ExitsResult, 'machine' | 'qemu' | 'noKvm'>): string {
  const why = noKvm === null ? '' : `\nno exits can be measured: ${noKvm}`;
  return `${formatMachine(machine)}, QEMU ${qemu ?? 'not installed'}${why}`;
}

const CLOCKS: Readonly<Record<Substrate, string>> = {
  kvm: 'processor time of the vCPU thread',
  null: 'on a KVM that does nothing: the cost of the path itself, with warm caches',
};

/**
 * A table for each case. What a tier could not do stands in its row. `ns beyond C` is by processor time, `median exit` the
 * same for the median of single exits, by the guest's TSC; `p50` and `p99` are of single exits.
 */
export function formatCells(cells: readonly Cell[], substrate: Substrate): string[] {
  return CASES.flatMap((each) => {
    const rows = TIERS.flatMap((tier) => {
      const cell = cells.find((one) => one.case === each.id && one.tier === tier.id);
      if (cell === undefined) return [];
      if (cell.reason !== undefined) return [[tier.title, `– ${cell.reason}`]];
      const { ns, ratio, beyondC, singleBeyondC, p50, p99 } = cell;
      const digits = substrate === 'null' ? 1 : 0;
      const figures = [interval(ns, digits), interval(ratio, 3), interval(beyondC, digits), interval(singleBeyondC, 0)];
      return [[tier.title, ...figures, figure(p50), figure(p99), pairs(cell)]];
    });
    if (rows.length === 0) return [];
    const head = [
      `${each.title} [${each.id}]`,
      'ns/pass (95 %)',
      'of the C loop',
      'ns beyond C',
      'median exit',
      'p50',
      'p99',
      'pairs',
    ];
    const what = each.clock === 'latency' ? 'p50 of batches, wall time' : CLOCKS[substrate];
    return [`${formatReasons([head, ...rows])}\n  (${what})`];
  });
}

export function formatTail(result: ExitsResult): string {
  const { growth, isolated } = result;
  const points =
    typeof growth === 'string'
      ? `growth: ${growth}`
      : formatTable([
          ['growth', '', 'exits/s', 'CPU ns/exit'],
          ...growth.map(({ kind, count, exitsPerSecond, cpuPerExit }) => [
            kind,
            `${count}`,
            exitsPerSecond.toFixed(0),
            cpuPerExit.toFixed(0),
          ]),
        ]);
  return [
    formatTable([
      ['isolated', 'ns', 'p99'],
      ...isolated.costs.map(({ title, ns, p99 }) => [title, ns.toFixed(1), p99.toFixed(1)]),
    ]),
    formatTable([
      ['heap', 'bytes', 'exits', 'collections'],
      ...Object.entries(isolated.heap).map(([id, row]) => [id, `${row.bytes}`, `${row.exits}`, `${row.collections}`]),
    ]),
    points,
    formatTable([
      ['goal', 'verdict', 'found'],
      ...goalsOf(result).map(({ title, verdict, found }) => [title, verdict, found]),
    ]),
  ].join('\n\n');
}

// A reason is longer than the columns that it stands in place of, and must not widen them.
function formatReasons(rows: readonly (readonly string[])[]): string {
  const isReason = (row: readonly string[]): boolean => row.length === 2;
  const table = formatTable(rows.map((row) => (isReason(row) ? [row[0] ?? ''] : row))).split('\n');
  const indent = Math.max(...rows.map((row) => row[0]?.length ?? 0)) + 2;
  return table
    .map((line, i) => (isReason(rows[i] ?? []) ? `${line.padEnd(indent)}${rows[i]?.[1] ?? ''}` : line))
    .join('\n');
}

function interval({ median, low, high, samples }: Estimate, digits: number): string {
  if (samples === 0) return '';
  return `${median.toFixed(digits)} (${low.toFixed(digits)}–${high.toFixed(digits)})`;
}

/** How many went into the figures, of how many that were taken. */
function pairs({ ns, disturbed }: MeasuredCell): string {
  return disturbed === 0 ? `${ns.samples}` : `${ns.samples} of ${ns.samples + disturbed}`;
}

function figure(value: number | null): string {
  return value === null || Number.isNaN(value) ? '' : value.toFixed(0);
}

export function formatChanges(changes: readonly Change[], since: string): string {
  if (changes.length === 0) return `nothing changed beyond the noise since ${since}`;
  return `changed beyond the noise since ${since}:\n${formatTable([
    ['', 'before', 'now', ''],
    ...changes.map(({ name, before, after, verdict }) => [name, interval(before, 0), interval(after, 0), verdict]),
  ])}`;
}
