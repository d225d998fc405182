// One case of the exit benchmark: every tier beside the C loop, in interleaved pairs.
// Processor time of the vCPU's thread is the clock; latencies are wall time, and say so.
import { estimate, type Estimate } from '../estimate.js';
import { CASES, type ExitCase } from './cases.js';
import { GUEST } from './guest.js';
import { SubjectProcess, type Substrate, type Workshop } from './processes.js';
import { QemuSubject } from './qemu.js';
import type { Batch } from './rig.js';
import type { Tier } from './tiers.js';

/** What one tier took for one case, or why it did not. Nanoseconds a pass. */
export type Cell =
  | { readonly case: string; readonly tier: string; readonly reason: string }
  | {
      readonly case: string;
      readonly tier: string;
      readonly reason?: undefined;
      readonly ns: Estimate;
      /** The C loop's time over this one's, pair by pair: 1 is as fast, less is slower. */
      readonly ratio: Estimate;
      /** This one's time beyond the C loop's, pair by pair. */
      readonly beyondC: Estimate;
      /** The median single pass beyond the C loop's, as the guest's TSC shows both, pair by pair; NaN where it cannot. */
      readonly singleBeyondC: Estimate;
      /** Of single passes: as the guest sees them by its TSC, or latencies. NaN when not looked at. */
      readonly p50: number;
      readonly p99: number;
      /** Pairs that were left out because others took the processor away in between. 0 with so many that none was left. */
      readonly disturbed: number;
    };

export type MeasuredCell = Extract<Cell, { readonly reason?: undefined }>;

export interface MeasureOptions {
  readonly workshop: Workshop;
  readonly substrate: Substrate;
  readonly rounds: number;
  /** Passes of a batch, as a multiple of the case's. */
  readonly length: number;
  readonly onProgress: (tier: Tier) => void;
}

/** A new process compiles its path first, and the first exits of a vCPU are all timed. */
const WARM_UP_PASSES: Readonly<Record<Substrate, number>> = { kvm: 20_000, null: 400_000 };
const WARM_UP_LATENCIES = 100;
/** So many times the rounds are taken at most to find undisturbed ones. */
const MOST_ATTEMPTS = 2;
const FEWEST_UNDISTURBED = 5;
const STAMPED_PASSES = 4096;
const LATENCY_PASSES = 200;
/** QEMU starts anew for each run: a long one against a short one, in as many passes of the case. */
const QEMU_LONG = 80;
const QEMU_ROUNDS_SHARE = 0.4;
const FEWEST_QEMU_ROUNDS = 3;

interface Contestant {
  readonly tier: Tier;
  readonly passes: number;
  readonly process: SubjectProcess;
  readonly pairs: Pair[];
}

/** Nanoseconds a pass. */
interface Pair {
  readonly theirs: number;
  readonly reference: number;
  readonly isDisturbed: boolean;
  /** Of the single passes' medians, theirs less the reference's. NaN when not looked at. */
  readonly single: number;
}

export async function measureCase(each: ExitCase, tiers: readonly Tier[], options: MeasureOptions): Promise<Cell[]> {
  const cells = new Map<string, Cell>();
  const refuse = (tier: Tier, reason: string): void =>
    void cells.set(tier.id, { case: each.id, tier: tier.id, reason: reason.split('\n')[0] ?? reason });
  for (const tier of tiers) {
    const reason = tier.refuses(each);
    if (reason !== undefined) refuse(tier, reason);
  }
  const able = tiers.filter(({ id }) => !cells.has(id));
  const against = CASES.find(({ id }) => id === each.against) ?? each;
  const reference = SubjectProcess.reference(options.workshop, against, options.substrate);
  const contestants: Contestant[] = [];
  try {
    const warmUpPasses =
      each.clock === 'latency' ? WARM_UP_LATENCIES : WARM_UP_PASSES[options.substrate] * each.warmUpShare;
    await reference.batch(against.passes, false);
    for (const tier of able.filter(({ runs }) => runs !== 'qemu')) {
      options.onProgress(tier);
      const passes = Math.max(1, Math.round(each.passes * tier.share * options.length));
      const process = startTier(each, tier, options);
      try {
        for (let left = warmUpPasses; left > 0; left -= passes) await process.batch(passes, false);
        contestants.push({ tier, passes, process, pairs: [] });
      } catch (error) {
        process[Symbol.dispose]();
        refuse(tier, messageOf(error));
      }
    }
    const referencePasses = Math.max(1, Math.round(against.passes * options.length));
    for (let round = 0; round < options.rounds * MOST_ATTEMPTS; round++) {
      const wanting = contestants.filter(({ pairs }) => undisturbed(pairs).length < options.rounds);
      for (const contestant of wanting) {
        options.onProgress(contestant.tier);
        const looksAtSingles = options.substrate === 'kvm' && each.clock === 'cpu' && hasStamps(each);
        const yardstick = { process: reference, passes: referencePasses, looksAtSingles };
        await pair(each, contestant, yardstick, round % 2 === 0);
      }
    }
    for (const contestant of contestants) cells.set(contestant.tier.id, await cellOf(each, contestant));
    for (const tier of able.filter(({ runs }) => runs === 'qemu')) {
      options.onProgress(tier);
      try {
        cells.set(tier.id, await measureQemu(each, tier, reference, options));
      } catch (error) {
        refuse(tier, messageOf(error));
      }
    }
  } catch (error) {
    for (const tier of able) if (!cells.has(tier.id)) refuse(tier, messageOf(error));
  } finally {
    for (const { process } of contestants) process[Symbol.dispose]();
    reference[Symbol.dispose]();
  }
  return tiers.flatMap(({ id }) => cells.get(id) ?? []);
}

function startTier(each: ExitCase, tier: Tier, { workshop, substrate }: MeasureOptions): SubjectProcess {
  if (tier.options !== undefined) return SubjectProcess.microvisor(workshop, each, tier.options, substrate);
  return SubjectProcess.reference(workshop, each, substrate, tier.id === 'kernel' ? 'ioeventfd' : each.feature);
}

function perPass(each: ExitCase, { cpu, p50 }: Batch, passes: number): number {
  return each.clock === 'latency' ? p50 : cpu / passes;
}

async function pair(
  each: ExitCase,
  { process, passes, pairs }: Contestant,
  reference: { readonly process: SubjectProcess; readonly passes: number; readonly looksAtSingles: boolean },
  isReferenceFirst: boolean,
): Promise<void> {
  const theirs = (): Promise<Batch> => process.batch(passes, false);
  const ours = (): Promise<Batch> => reference.process.batch(reference.passes, false);
  // Whoever comes second finds other caches and another clock rate: the order alternates.
  const first = await (isReferenceFirst ? ours() : theirs());
  const second = await (isReferenceFirst ? theirs() : ours());
  const [their, our] = isReferenceFirst ? [second, first] : [first, second];
  // A single exit is hardly ever disturbed: its median is worth having where others use the machine, too.
  const isStamped = reference.looksAtSingles && passes <= GUEST.mostStamps && reference.passes === passes;
  const single = isStamped
    ? (await process.batch(passes, true)).p50 - (await reference.process.batch(passes, true)).p50
    : Number.NaN;
  pairs.push({
    single,
    theirs: perPass(each, their, passes),
    reference: perPass(each, our, reference.passes),
    isDisturbed: each.clock === 'cpu' && their.preemptions + our.preemptions > 0,
  });
}

function undisturbed(pairs: readonly Pair[]): readonly Pair[] {
  return pairs.filter(({ isDisturbed }) => !isDisturbed);
}

function estimates(
  all: readonly Pair[],
): Pick<MeasuredCell, 'ns' | 'ratio' | 'beyondC' | 'singleBeyondC' | 'disturbed'> {
  const clean = undisturbed(all);
  const pairs = clean.length < FEWEST_UNDISTURBED ? all : clean;
  return {
    disturbed: all.length - pairs.length,
    singleBeyondC: estimate(all.map(({ single }) => single).filter((ns) => !Number.isNaN(ns))),
    ns: estimate(pairs.map(({ theirs }) => theirs)),
    ratio: estimate(pairs.map(({ theirs, reference }) => reference / theirs)),
    beyondC: estimate(pairs.map(({ theirs, reference }) => theirs - reference)),
  };
}

async function cellOf(each: ExitCase, { tier, process, passes, pairs }: Contestant): Promise<Cell> {
  const isLatency = each.clock === 'latency';
  const single = isLatency
    ? await process.batch(LATENCY_PASSES, false)
    : await process.batch(Math.min(STAMPED_PASSES, passes * 4, GUEST.mostStamps), true);
  const { p50, p99 } = hasStamps(each) ? single : { p50: Number.NaN, p99: Number.NaN };
  return { case: each.id, tier: tier.id, ...estimates(pairs), p50, p99 };
}

/** The loops that wait for interrupts leave no stamps of single passes; latencies are looked at from outside. */
function hasStamps({ inKernel, clock, op }: ExitCase): boolean {
  return clock === 'latency' || !inKernel || op < STAMPLESS_FROM;
}
const STAMPLESS_FROM = 7;

async function measureQemu(
  each: ExitCase,
  tier: Tier,
  reference: SubjectProcess,
  { workshop, rounds, length }: MeasureOptions,
): Promise<Cell> {
  const qemu = new QemuSubject(workshop, each);
  const passes = Math.max(1, Math.round(each.passes * length));
  const long = passes * QEMU_LONG;
  const pairs: Pair[] = [];
  for (let round = 0; round < Math.max(FEWEST_QEMU_ROUNDS, Math.round(rounds * QEMU_ROUNDS_SHARE)); round++) {
    const cpu = qemu.run(long);
    const { cpu: referenceCpu } = await reference.batch(passes, false);
    const nothing = qemu.run(1);
    pairs.push({
      theirs: (cpu - nothing) / (long - 1),
      reference: referenceCpu / passes,
      isDisturbed: false,
      single: Number.NaN,
    });
  }
  const none = { p50: Number.NaN, p99: Number.NaN };
  const single = hasStamps(each) ? qemu.percentiles(Math.min(STAMPED_PASSES, passes * 4), reference.tscKhz) : none;
  return { case: each.id, tier: tier.id, ...estimates(pairs), ...single };
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
