// The cost of a Linux boot: ours and a plain C VMM's, interleaved, with the same kernel, command line and remedies.
// CPU time is that of the whole process (getrusage); wall time on shared machines says little.
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { prepareGuest } from '../guests/linux/prepare.js';
import { createVm } from '../src/index.js';
import { guestResidentMiB, USER_SPACE_LINE, type BootOnce } from './boot-sample.js';
import { formatMachine, machineInfo } from './machine.js';
import type { BenchOptions } from './main.js';
import { formatSpread, formatTable, spread } from './spread.js';

interface Reference {
  readonly firstRun: { readonly cpuMs: number };
  readonly end: { readonly cpuMs: number };
}

/** Machines that are alive at once when the memory of a further one is measured. */
const MACHINES = 9;
const MICRO_GUEST_MIB = 2;

export async function benchBoot({ rounds, json }: BenchOptions): Promise<void> {
  const guest = await prepareGuest({ flavour: 'small' });
  const machine = machineInfo();
  const directory = mkdtempSync(join(tmpdir(), 'microvisor-bench-'));
  const ours: BootOnce[] = [];
  const reference: Reference[] = [];
  try {
    const program = join(directory, 'boot-reference');
    const source = fileURLToPath(new URL('../../bench/boot-reference.c', import.meta.url));
    execFileSync('cc', ['-O2', '-o', program, source]);
    for (let round = 1; round <= rounds; round++) {
      process.stderr.write(`boot: round ${round} of ${rounds}\n`);
      const once = bootOnce(guest);
      ours.push(once);
      reference.push(bootReference(program, join(directory, 'report.json'), { ...guest, cmdline: once.cmdline }));
    }
  } finally {
    rmSync(directory, { recursive: true });
  }
  const further = await furtherMachine();
  const result = {
    benchmark: 'boot',
    machine,
    kernel: execFileSync('strings', ['-n', '20', guest.kernel], { maxBuffer: 2 ** 28 })
      .toString()
      .split('\n')
      .find((line) => line.startsWith('Linux version ')),
    firstRunCpuMs: spread(ours.map((once) => once.firstRunCpuMs)),
    referenceFirstRunCpuMs: spread(reference.map(({ firstRun }) => firstRun.cpuMs)),
    userSpaceCpuMs: spread(ours.map((once) => once.userSpaceCpuMs)),
    referenceUserSpaceCpuMs: spread(reference.map(({ end }) => end.cpuMs)),
    ratioToReference: spread(ours.map((once, i) => once.userSpaceCpuMs / (reference[i] as Reference).end.cpuMs)),
    residentMiB: spread(ours.map((once) => once.residentMiB)),
    nodeAloneMiB: spread(Array.from({ length: 3 }, nodeAlone)),
    furtherMachineMiB: further,
    exits: spread(ours.map((once) => once.exits)),
  };
  if (json !== undefined) writeFileSync(json, `${JSON.stringify(result, undefined, 2)}\n`);
  const rows = [
    ['', 'Microvisor', 'plain C VMM'],
    [
      'CPU to the first KVM_RUN, ms',
      formatSpread(result.firstRunCpuMs, 0),
      formatSpread(result.referenceFirstRunCpuMs, 0),
    ],
    [
      'CPU to the first line of user space, ms',
      formatSpread(result.userSpaceCpuMs, 0),
      formatSpread(result.referenceUserSpaceCpuMs, 0),
    ],
    ['  ratio, pair by pair', formatSpread(result.ratioToReference, 3), '1'],
    ['resident beyond guest RAM, MiB', formatSpread(result.residentMiB, 1), ''],
    ['  of which an idle Node process takes', formatSpread(result.nodeAloneMiB, 1), ''],
    ['each further VM in the process, MiB', further.toFixed(1), ''],
  ];
  process.stdout.write(`${formatMachine(machine)}; median (min–max) of ${rounds}\n\n${formatTable(rows)}\n`);
}

function bootOnce({ kernel, initrd, cmdline }: { kernel: string; initrd: string; cmdline: string }): BootOnce {
  const script = fileURLToPath(new URL('./boot-once.js', import.meta.url));
  return JSON.parse(execFileSync(process.execPath, [script, kernel, initrd, cmdline]).toString()) as BootOnce;
}

function bootReference(
  program: string,
  report: string,
  { kernel, initrd, cmdline }: { kernel: string; initrd: string; cmdline: string },
): Reference {
  const options = ['--kernel', kernel, '--initrd', initrd, '--cmdline', cmdline, '--until', USER_SPACE_LINE];
  // The remedies are for hosts with the quirks; there our command line carries their options.
  const quirks = cmdline.includes('clearcpuid=') ? ['--quirks'] : [];
  execFileSync(program, [...options, ...quirks, '--report', report], { stdio: ['ignore', 'ignore', 'inherit'] });
  return JSON.parse(readFileSync(report, 'utf8')) as Reference;
}

function nodeAlone(): number {
  const script = 'process.stdout.write(String(process.memoryUsage.rss()))';
  return Number(execFileSync(process.execPath, ['-e', script]).toString()) / 2 ** 20;
}

/** What each machine after the first adds to this process, its guest's RAM left out. */
async function furtherMachine(): Promise<number> {
  const spin = { name: 'spin', bytes: Uint8Array.of(0xeb, 0xfe) };
  const machines = [];
  const resident = (): number => process.memoryUsage.rss() / 2 ** 20 - guestResidentMiB(MICRO_GUEST_MIB * 2 ** 20);
  let afterFirst = 0;
  for (let i = 0; i < MACHINES; i++) {
    const vm = await createVm({ kernel: spin, entry: 'real', cmdline: '', memoryMiB: MICRO_GUEST_MIB });
    machines.push(vm);
    await vm.start();
    // The process's own first-time costs are over when the second machine runs.
    if (i === 1) afterFirst = resident();
  }
  const growth = resident() - afterFirst;
  await Promise.all(machines.map((vm) => vm.stop()));
  return growth / (MACHINES - 2);
}
