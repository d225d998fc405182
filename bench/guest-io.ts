// What a disk and a network cost from inside a real Linux guest, per request and per MiB, and how far away both sides are.
// VIRTIO 1.2 §5.1, §5.2; the guest's part is bench/guest-io/load.c. Processor time, because the machine may be shared.
import { writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { threadCpuNanoseconds } from '../src/kvm/host-thread.js';
import { LoadGuest, type Cost, type Work } from './guest-io/guest.js';
import { measureLatencies, type Latencies } from './guest-io/latency.js';
import { formatMachine, machineInfo } from './machine.js';
import type { BenchOptions } from './main.js';
import { ProgressLine } from './progress-line.js';
import { formatSpread, formatTable, spread, type Spread } from './spread.js';

interface Case extends Work {
  readonly name: string;
  /** What the line's COUNT counts, and how many of these are one unit of the table. */
  readonly unit: 'request' | 'MiB';
  readonly perUnit: number;
  /** The first amount, by which the others are chosen; and their bounds. */
  readonly first: number;
  readonly range: readonly [number, number];
}

const REQUESTS = { unit: 'request', perUnit: 1, first: 64, range: [64, 50_000] } as const;
const BYTES = { unit: 'MiB', perUnit: 2 ** 20, first: 2 ** 18, range: [2 ** 18, 2 ** 28] } as const;

const CASES: readonly Case[] = [
  ...(['seq', 'random'] as const).flatMap((order) =>
    (['read', 'write'] as const).flatMap((operation) =>
      [1, 16].map((depth) => ({
        name: `${order === 'seq' ? 'sequential' : 'random'} ${operation}, ${depth} in flight`,
        line: `block /dev/vdb ${operation} ${order} ${depth} COUNT`,
        device: 'disk1' as const,
        ...REQUESTS,
      })),
    ),
  ),
  { name: 'TCP from the guest', line: 'send ADDRESS COUNT', device: 'net0', ...BYTES },
  { name: 'TCP to the guest', line: 'receive ADDRESS COUNT', device: 'net0', ...BYTES },
];

/** Processor time of the vCPU that one batch is to take: the talk around it is small beside it. */
const BATCH_NANOSECONDS = 1.5e9;
const LATENCY_SAMPLES = 200;

/** Of one unit; times in microseconds of a processor. */
const COLUMNS = {
  owner: 'owner, µs',
  vcpu: 'vCPU, µs',
  others: 'other threads, µs',
  registerExits: 'exits at registers',
  otherExits: 'other exits',
  rings: 'doorbells',
  kicks: 'wake-ups',
  interrupts: 'interrupts',
  chains: 'chains',
} as const;
type Column = keyof typeof COLUMNS;
const columns = Object.keys(COLUMNS) as Column[];
const TIMES: ReadonlySet<Column> = new Set(['owner', 'vcpu', 'others']);

interface Row {
  readonly name: string;
  readonly unit: Case['unit'];
  /** Units of a batch. */
  readonly amount: number;
  readonly perUnit: Readonly<Record<Column, Spread>>;
}

/** `npm run bench -- guest-io` */
export async function benchGuestIo({ rounds, json }: Pick<BenchOptions, 'rounds' | 'json'>): Promise<void> {
  const machine = machineInfo();
  const progress = new ProgressLine('guest-io');
  progress.show('latencies');
  const latencies = await measureLatencies(LATENCY_SAMPLES);
  progress.show('the guest starts');
  const guest = await LoadGuest.start();
  try {
    const rows = await measureRows(guest, rounds, progress);
    progress.show('wake-ups for nothing');
    const idleWakeUp = await measureIdleWakeUp();
    progress.end();
    const result = { benchmark: 'guest-io', machine, latencies, rows, idleWakeUp, noNetwork: guest.noNetwork };
    if (json !== undefined) writeFileSync(json, `${JSON.stringify(result, undefined, 2)}\n`);
    process.stdout.write(`${formatMachine(machine)}\n${formatRows(rows, rounds)}\n\n${formatLatencies(latencies)}\n`);
    process.stdout.write(`a wake-up of the owner that does nothing: ${idleWakeUp.toFixed(1)} µs\n`);
    if (guest.noNetwork !== undefined) process.stdout.write(`no TCP: ${guest.noNetwork}\n`);
  } finally {
    await guest.close();
  }
}

async function measureRows(guest: LoadGuest, rounds: number, progress: ProgressLine): Promise<Row[]> {
  const cases = CASES.filter(({ device }) => device !== 'net0' || guest.noNetwork === undefined);
  const samples = new Map<Case, Record<Column, number>[]>();
  const amounts = new Map<Case, number>();
  for (const each of cases) {
    progress.show(`warm-up, ${each.name}`);
    const { vcpu } = await guest.cost(each, each.first);
    const [least, most] = each.range;
    const amount = Math.round((each.first * BATCH_NANOSECONDS) / vcpu);
    amounts.set(each, Math.min(most, Math.max(least, amount)));
  }
  for (let round = 1; round <= rounds; round++)
    for (const each of cases) {
      progress.show(`round ${round} of ${rounds}, ${each.name}`);
      const amount = amounts.get(each) ?? each.first;
      const whole = await guest.cost(each, amount);
      // What it takes to say that one begins and ends. A stream of nothing still is a connection.
      const talk = await guest.cost(TALK, 0);
      samples.set(each, [...(samples.get(each) ?? []), perUnit(whole, talk, amount / each.perUnit)]);
    }
  return [...samples].map(([each, of]) => ({
    name: each.name,
    unit: each.unit,
    amount: (amounts.get(each) ?? each.first) / each.perUnit,
    perUnit: byColumn((column) => spread(of.map((sample) => sample[column]))),
  }));
}

/** Microseconds of the owner's thread for each turn of an idle event loop: what a rare doorbell cannot be cheaper than. */
async function measureIdleWakeUp(): Promise<number> {
  const count = 100;
  const before = threadCpuNanoseconds();
  for (let i = 0; i < count; i++) await sleep(10);
  return Number(threadCpuNanoseconds() - before) / count / 1000;
}

const TALK: Work = { line: 'block /dev/vdb read seq 1 COUNT', device: 'disk1' };

function perUnit(whole: Cost, talk: Cost, units: number): Record<Column, number> {
  return byColumn((column) => (whole[column] - talk[column]) / units / (TIMES.has(column) ? 1000 : 1));
}

function byColumn<T>(value: (column: Column) => T): Record<Column, T> {
  return Object.fromEntries(columns.map((column) => [column, value(column)])) as Record<Column, T>;
}

function formatRows(rows: readonly Row[], rounds: number): string {
  const heading = ['', 'per', ...columns.map((column) => COLUMNS[column])];
  const body = rows.map(({ name, unit, perUnit }) => [
    name,
    unit,
    ...columns.map((column) =>
      TIMES.has(column) ? formatSpread(perUnit[column], 1) : perUnit[column].median.toFixed(unit === 'MiB' ? 0 : 2),
    ),
  ]);
  return `processor time: median (min–max) of ${rounds}; counts: median\n\n${formatTable([heading, ...body])}`;
}

function formatLatencies({ doorbell, interrupt, resolution }: Latencies): string {
  const row = (name: string, { p50, p99 }: Latencies['doorbell']): string[] => [name, p50.toFixed(1), p99.toFixed(1)];
  const rows = [
    ['latency, µs', 'p50', 'p99'],
    row('doorbell to device callback', doorbell),
    row('irqfd to guest handler', interrupt),
  ];
  return `${formatTable(rows)}\n(a step of the guest's clock takes ${resolution.toFixed(1)} µs)`;
}
