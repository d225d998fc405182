// The cost of a VM exit, tier by tier: cases by tiers in interleaved pairs with a plain C loop, the parts of our own cost by
// themselves, and growth. Processor time of the vCPU's thread is the clock; wall time on shared machines says little.
import { accessSync, constants, readFileSync, writeFileSync } from 'node:fs';
import { CASES, QUICK_CASES, type ExitCase } from './exits/cases.js';
import { compareFigures } from './exits/compare.js';
import { measureGrowth } from './exits/growth.js';
import { HEAP_EXITS, measureIsolated } from './exits/isolated.js';
import { measureCase, type Cell, type MeasureOptions } from './exits/measure.js';
import { openWorkshop, type Substrate, type Workshop } from './exits/processes.js';
import { qemuVersion } from './exits/qemu.js';
import { formatCells, formatChanges, formatHead, formatTail } from './exits/report.js';
import { cellAt, figuresOf, type ExitsResult } from './exits/result.js';
import { drawPicture } from './exits/svg.js';
import { TIERS, type Tier } from './exits/tiers.js';
import { formatMachine, machineInfo } from './machine.js';
import { ProgressLine } from './progress-line.js';

export interface ExitsOptions {
  readonly rounds: number;
  /** Where the JSON goes; standard output gets the tables. */
  readonly json: string | undefined;
  /** Where the picture goes. */
  readonly svg: string | undefined;
  /** JSON of an earlier run, to be compared with. */
  readonly compare: string | undefined;
  /** Four cases and few rounds. */
  readonly quick: boolean;
  /** Ids of the cases, and of the tiers; none for all. */
  readonly only: readonly string[];
  readonly tier: readonly string[];
}

const QUICK = { rounds: 10, heapExits: 1_000_000 } as const;
const WARM_TIERS = ['c', 'inline', 'worker', 'statistics', 'trace', 'koffi'];
/** A pass takes nanoseconds there: batches are as long as elsewhere. */
const WARM_LENGTH = 400;

/** @returns the process's exit status: 1 when our own cost grew beyond what compare.ts allows */
export async function benchExits(options: ExitsOptions): Promise<number> {
  if (!areKnown('--only', options.only, CASES) || !areKnown('--tier', options.tier, TIERS)) return 2;
  // Read first: a file that is not there must not cost minutes.
  const before = options.compare === undefined ? undefined : readResult(options.compare);
  if (options.compare !== undefined && before === undefined) {
    process.stderr.write(`--compare: ${options.compare} is no result of \`npm run bench -- exits --json\`\n`);
    return 2;
  }
  const result = await measureAll(options);
  if (options.json !== undefined) writeFileSync(options.json, `${JSON.stringify(result, undefined, 2)}\n`);
  if (options.svg !== undefined) writeFileSync(options.svg, pictureOf(result));
  process.stdout.write(`${formatTail(result)}\n`);
  if (before === undefined) return 0;
  const changes = compareFigures(figuresOf(before), figuresOf(result));
  process.stdout.write(`\n${formatChanges(changes, `${options.compare}, ${before.machine.date}`)}\n`);
  return changes.some(({ verdict }) => verdict === 'too slow') ? 1 : 0;
}

function areKnown(option: string, wanted: readonly string[], rows: readonly { readonly id: string }[]): boolean {
  const unknown = wanted.find((id) => !rows.some((row) => row.id === id));
  if (unknown === undefined) return true;
  process.stderr.write(`${option}: there is no ${unknown}; there are ${rows.map(({ id }) => id).join(', ')}\n`);
  return false;
}

/** Undefined when the file is no result of this benchmark. */
function readResult(path: string): ExitsResult | undefined {
  const text = readFileSync(path, 'utf8');
  try {
    const result = JSON.parse(text) as Partial<ExitsResult>;
    return result.benchmark === 'exits' ? (result as ExitsResult) : undefined;
  } catch {
    return undefined;
  }
}

async function measureAll(options: ExitsOptions): Promise<ExitsResult> {
  const machine = machineInfo();
  const qemu = qemuVersion() ?? null;
  const noKvm = kvmProblem() ?? null;
  const cases = CASES.filter(({ id }) =>
    options.only.length > 0 ? options.only.includes(id) : !options.quick || QUICK_CASES.some((quick) => quick === id),
  );
  const tiers = tiersWith(qemu).filter(({ id }) => options.tier.length === 0 || options.tier.includes(id));
  process.stdout.write(`${formatHead({ machine, qemu, noKvm })}\n\n`);
  const progress = new ProgressLine('exits');
  using workshop = openWorkshop();
  const rounds = options.quick ? Math.min(options.rounds, QUICK.rounds) : options.rounds;
  const run = { workshop, rounds, progress };
  const cells =
    noKvm === null
      ? await measureCases(cases, tiers, { ...run, substrate: 'kvm', length: 1 })
      : refused(cases, tiers, noKvm);
  const warm = await measureCases(
    CASES.filter(({ id }) => QUICK_CASES.some((quick) => quick === id)),
    tiers.filter(({ id }) => WARM_TIERS.includes(id)),
    { ...run, substrate: 'null', length: WARM_LENGTH },
  );
  const growth =
    noKvm ?? (options.quick ? 'not in a quick run' : measureGrowth(workshop, 'kvm', (words) => progress.show(words)));
  progress.show('isolated costs');
  const isolated = measureIsolated(workshop, options.quick ? QUICK.heapExits : HEAP_EXITS);
  progress.end();
  return { benchmark: 'exits', machine, qemu, noKvm, cells, warm, growth, isolated };
}

function tiersWith(qemu: string | null): readonly Tier[] {
  if (qemu !== null) return TIERS;
  const refuses = (): string => 'QEMU is not installed: apt-get install qemu-system-x86';
  return TIERS.map((tier) => (tier.runs === 'qemu' ? { ...tier, refuses } : tier));
}

function refused(cases: readonly ExitCase[], tiers: readonly Tier[], reason: string): Cell[] {
  return cases.flatMap((each) => tiers.map((tier) => ({ case: each.id, tier: tier.id, reason })));
}

interface CasesRun extends Omit<MeasureOptions, 'onProgress'> {
  readonly workshop: Workshop;
  readonly substrate: Substrate;
  readonly progress: ProgressLine;
}

async function measureCases(cases: readonly ExitCase[], tiers: readonly Tier[], run: CasesRun): Promise<Cell[]> {
  const cells: Cell[] = [];
  for (const [i, each] of cases.entries()) {
    const where = run.substrate === 'null' ? 'warm, ' : '';
    const onProgress = (tier: Tier): void =>
      run.progress.show(`${where}${i + 1} of ${cases.length}: ${each.title}, ${tier.title}`);
    const measured = await measureCase(each, tiers, { ...run, onProgress });
    run.progress.end();
    for (const table of formatCells(measured, run.substrate)) process.stdout.write(`${table}\n\n`);
    cells.push(...measured);
  }
  return cells;
}

function kvmProblem(): string | undefined {
  try {
    accessSync('/dev/kvm', constants.R_OK | constants.W_OK);
    return undefined;
  } catch (error) {
    return `/dev/kvm: ${error instanceof Error ? error.message : String(error)}`;
  }
}

/** Of the cases of a quick run, which every tier serves. */
function pictureOf({ machine, cells, warm, noKvm }: ExitsResult): string {
  const source = noKvm === null ? cells : warm;
  const tiers = TIERS.filter(({ id }) => source.some((cell) => cell.tier === id && cell.reason === undefined));
  return drawPicture({
    title: noKvm === null ? 'Nanoseconds per VM exit, long mode' : 'Nanoseconds per exit on a KVM that does nothing',
    caption: formatMachine(machine),
    tiers: tiers.map(({ title }) => title),
    series: QUICK_CASES.map((id) => ({
      title: CASES.find((each) => each.id === id)?.title.replace(', long mode', '') ?? id,
      values: new Map(
        tiers.flatMap((tier): [string, number][] => {
          const cell = cellAt(source, id, tier.id);
          return cell === undefined ? [] : [[tier.title, cell.ns.median]];
        }),
      ),
    })),
  });
}
