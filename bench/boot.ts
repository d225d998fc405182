// The cost of a Linux boot: ours and a plain C VMM's, interleaved, with the same kernel, command line and remedies.
// CPU time is that of the whole process (getrusage); wall time on shared machines says little.
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
// By the package's own name: what is measured is what a user of the package loads.
import { createVm } from 'microvisor';
import { prepareGuest } from '../guests/linux/prepare.js';
import { guestResidentMiB, USER_SPACE_LINE, type BootOnce } from './boot-sample.js';
import { formatMachine, machineInfo } from './machine.js';
import type { BenchOptions } from './main.js';
import { formatSpread, formatTable, spread } from './spread.js';

interface Reference {
  readonly firstRun: { readonly cpuMs: number };
  readonly end: { readonly cpuMs: number };
}

interface NodeAlone {
  readonly cpuMs: number;
  readonly residentMiB: number;
}

/** Starts of the command in each round: they end at their first KVM_RUN, and take no time. */
const STARTS = 5;
/** Node reads the certificates that this names at every start, before any of our code: 40 ms where all of Debian's are. */
const CERTIFICATES = 'NODE_EXTRA_CA_CERTS';

/** Machines that are alive at once when the memory of a further one is measured. */
const MACHINES = 9;
const MICRO_GUEST_MIB = 2;

export async function benchBoot({ rounds, json }: BenchOptions): Promise<void> {
  const guest = await prepareGuest({ flavour: 'small' });
  const machine = machineInfo();
  const directory = mkdtempSync(join(tmpdir(), 'microvisor-bench-'));
  const ours: BootOnce[] = [];
  const reference: Reference[] = [];
  const command: number[] = [];
  const nodeAlone: NodeAlone[] = [];
  try {
    const program = join(directory, 'boot-reference');
    const source = fileURLToPath(new URL('../../bench/boot-reference.c', import.meta.url));
    execFileSync('cc', ['-O2', '-o', program, source]);
    for (let round = 1; round <= rounds; round++) {
      process.stderr.write(`boot: round ${round} of ${rounds}\n`);
      const once = bootOnce(guest);
      ours.push(once);
      const report = join(directory, 'report.json');
      reference.push(bootReference(program, report, { ...guest, cmdline: once.cmdline }));
      for (let start = 0; start < STARTS; start++) {
        nodeAlone.push(startNode());
        command.push(startCommand(report));
      }
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
    nodeAloneCpuMs: spread(nodeAlone.map(({ cpuMs }) => cpuMs)),
    commandFirstRunCpuMs: spread(command),
    firstRunCpuMs: spread(ours.map((once) => once.firstRunCpuMs)),
    referenceFirstRunCpuMs: spread(reference.map(({ firstRun }) => firstRun.cpuMs)),
    userSpaceCpuMs: spread(ours.map((once) => once.userSpaceCpuMs)),
    referenceUserSpaceCpuMs: spread(reference.map(({ end }) => end.cpuMs)),
    ratioToReference: spread(ours.map((once, i) => once.userSpaceCpuMs / (reference[i] as Reference).end.cpuMs)),
    residentMiB: spread(ours.map((once) => once.residentMiB)),
    nodeAloneMiB: spread(nodeAlone.map(({ residentMiB }) => residentMiB)),
    furtherMachineMiB: further,
    exits: spread(ours.map((once) => once.exits)),
  };
  if (json !== undefined) writeFileSync(json, `${JSON.stringify(result, undefined, 2)}\n`);
  const rows = [
    ['', 'Microvisor', 'plain C VMM'],
    ['CPU to the first KVM_RUN, ms: the command', formatSpread(result.commandFirstRunCpuMs, 0), ''],
    ['  of which an idle Node process takes', formatSpread(result.nodeAloneCpuMs, 0), ''],
    [
      'CPU to the first KVM_RUN, ms: the library',
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

function runNode(words: readonly string[]): string {
  const { [CERTIFICATES]: _, ...env } = process.env;
  return execFileSync(process.execPath, words, { env, stdio: ['ignore', 'pipe', 'ignore'] }).toString();
}

function bootOnce({ kernel, initrd, cmdline }: { kernel: string; initrd: string; cmdline: string }): BootOnce {
  const script = fileURLToPath(new URL('./boot-once.js', import.meta.url));
  return JSON.parse(runNode([script, kernel, initrd, cmdline])) as BootOnce;
}

/** Milliseconds of processor time that `microvisor run` takes until its guest runs. */
function startCommand(report: string): number {
  const main = fileURLToPath(new URL('../bundle/cli/main.js', import.meta.url));
  try {
    runNode([main, 'run', '--guest', 'small', '--report', report, '--timeout', '0.001']);
  } catch {
    // 124: the time was over.
  }
  const { timeStamps } = JSON.parse(readFileSync(report, 'utf8')) as { timeStamps: { firstRun: { cpuMs: number } } };
  return timeStamps.firstRun.cpuMs;
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

function startNode(): NodeAlone {
  const script = `
    const { user, system } = process.cpuUsage();
    const residentMiB = process.memoryUsage.rss() / 2 ** 20;
    process.stdout.write(JSON.stringify({ cpuMs: (user + system) / 1000, residentMiB }));`;
  return JSON.parse(runNode(['-e', script])) as NodeAlone;
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
