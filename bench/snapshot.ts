// What a snapshot costs: saving, restoring to the first output, forking, and the memory of a fork; by size of RAM.
// The guest is a few bytes that print without end, so that the first byte says that it runs; 15 MiB of its RAM are in use.
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createVm, restoreVm, VcpuPool, type Vm } from '../src/index.js';
import { formatMachine, machineInfo } from './machine.js';
import type { BenchOptions } from './main.js';
import { formatSpread, formatTable, spread, type Spread } from './spread.js';

const SIZES_MIB = [64, 512, 2048] as const;
const USED_BYTES = 15 * 2 ** 20;
const PAGE = 4096;
/** From here on, above the guest's code. */
const USED_FROM = 0x10_0000;
const FORKS = 10;
/** mov $0x3f8,%dx; mov $'A',%al; out %al,(%dx); jmp to out */
const PRINT = Uint8Array.of(0xba, 0xf8, 0x03, 0xb0, 0x41, 0xee, 0xeb, 0xfd);

/** Wall and processor time of the whole process, in milliseconds. */
interface Cost {
  readonly wallMs: number;
  readonly cpuMs: number;
}

const STEPS = ['save', 'restore', 'firstOutput', 'fork', 'warmFork'] as const;
type Step = (typeof STEPS)[number];
const SIZES = ['forkMiB', 'warmForkMiB'] as const;
type Size = (typeof SIZES)[number];
type Sample = Readonly<Record<Step, Cost> & Record<Size, number>>;

export async function benchSnapshot({ rounds, json }: BenchOptions): Promise<void> {
  const machine = machineInfo();
  const samples = new Map<number, Sample[]>(SIZES_MIB.map((size) => [size, []]));
  // The first round loads and compiles what all others use.
  for (let round = 0; round <= rounds; round++) {
    process.stderr.write(round === 0 ? 'snapshot: warming up\n' : `snapshot: round ${round} of ${rounds}\n`);
    for (const size of SIZES_MIB) {
      const sample = await once(size);
      if (round > 0) samples.get(size)?.push(sample);
    }
  }
  const rows = [...samples].map(([memoryMiB, all]) => ({ memoryMiB, ...summary(all) }));
  if (json !== undefined)
    writeFileSync(json, `${JSON.stringify({ benchmark: 'snapshot', machine, rows }, undefined, 2)}\n`);
  const cells = (title: string, pick: (row: (typeof rows)[number]) => Spread): string[] => [
    title,
    ...rows.map((row) => formatSpread(pick(row), 1)),
  ];
  const table = [
    ['guest RAM', ...rows.map(({ memoryMiB }) => `${memoryMiB} MiB`)],
    ...STEPS.flatMap((step) => [
      cells(`${TITLES[step]}, CPU ms`, (row) => row[step].cpuMs),
      cells('  wall ms', (row) => row[step].wallMs),
    ]),
    ...SIZES.map((size) => cells(`${TITLES[size]}, MiB`, (row) => row[size])),
  ];
  process.stdout.write(
    `${formatMachine(machine)}; median (min–max) of ${rounds}; ${USED_BYTES >> 20} MiB of RAM in use, one vCPU, ` +
      `modules loaded, threads not unless said; ${FORKS} forks at once\n\n${formatTable(table)}\n`,
  );
}

const TITLES: Readonly<Record<Step | Size, string>> = {
  save: 'save',
  restore: 'restore, until its vCPU is told to run',
  firstOutput: 'restore, until its first byte of output',
  fork: 'fork, each, until its vCPU is told to run',
  warmFork: 'fork with a thread that waited, the same',
  forkMiB: 'memory of a running fork',
  warmForkMiB: 'memory of a running fork beyond its thread',
};

type Summary = Readonly<Record<Step, { readonly cpuMs: Spread; readonly wallMs: Spread }> & Record<Size, Spread>>;

function summary(all: readonly Sample[]): Summary {
  const costs = STEPS.map((step) => {
    const of = (part: keyof Cost): Spread => spread(all.map((sample) => sample[step][part]));
    return [step, { cpuMs: of('cpuMs'), wallMs: of('wallMs') }];
  });
  const sizes = SIZES.map((size) => [size, spread(all.map((sample) => sample[size]))]);
  return Object.fromEntries([...costs, ...sizes]) as Summary;
}

async function once(memoryMiB: number): Promise<Sample> {
  const directory = mkdtempSync(join(tmpdir(), 'microvisor-bench-'));
  try {
    const vm = await createVm({ kernel: { name: 'print', bytes: PRINT }, entry: 'real', cmdline: '', memoryMiB });
    for (let at = USED_FROM; at < USED_FROM + USED_BYTES; at += PAGE) vm.memory.writeU32(at, at);
    await vm.start();
    await firstOutput(vm);
    await vm.pause();
    const saving = stopwatch();
    await vm.snapshot(directory);
    const save = saving();

    const cold = await forkSome(vm);
    const threads = new VcpuPool(FORKS);
    await threads.ready;
    const warm = await forkSome(vm, threads);
    await threads[Symbol.asyncDispose]();
    await vm.stop();

    const restoring = stopwatch();
    const restored = await restoreVm(directory);
    await restored.resume();
    const restore = restoring();
    await firstOutput(restored);
    const toOutput = restoring();
    await restored.stop();
    const [fork, warmFork] = [cold.each, warm.each];
    return { save, restore, firstOutput: toOutput, fork, warmFork, forkMiB: cold.mib, warmForkMiB: warm.mib };
  } finally {
    rmSync(directory, { recursive: true });
  }
}

/** Forks the paused machine, and ends the forks when all of them have printed. */
async function forkSome(vm: Vm, threads?: VcpuPool): Promise<{ readonly each: Cost; readonly mib: number }> {
  const forking = stopwatch();
  const before = privateMiB();
  const forks = await vm.fork(FORKS, threads === undefined ? {} : { threads });
  await Promise.all(forks.map((fork) => fork.resume()));
  const { wallMs, cpuMs } = forking();
  await Promise.all(forks.map(firstOutput));
  const mib = (privateMiB() - before) / FORKS;
  await Promise.all(forks.map((fork) => fork.stop()));
  return { each: { wallMs: wallMs / FORKS, cpuMs: cpuMs / FORKS }, mib };
}

async function firstOutput(vm: Vm): Promise<void> {
  await new Promise<void>((resolve) => vm.console.output.once('data', () => resolve()));
  vm.console.output.resume();
}

function stopwatch(): () => Cost {
  const start = performance.now();
  const cpu = process.cpuUsage();
  return () => {
    const { user, system } = process.cpuUsage(cpu);
    return { wallMs: performance.now() - start, cpuMs: (user + system) / 1000 };
  };
}

/** Memory that is this process's own: what forks share with their parent lies in a file, and is not in it. */
function privateMiB(): number {
  const text = readFileSync('/proc/self/smaps_rollup', 'utf8');
  return Number(/^Private_Dirty:\s+(\d+) kB$/m.exec(text)?.[1] ?? Number.NaN) / 1024;
}
