// What one exit executes and touches on its way through a process, instruction by instruction: gdb steps the vCPU's thread
// from one return of KVM_RUN to the next call. Counts, and no times: they are the same on a busy machine.
// Intel SDM volume 2 for the instructions' operands, as iced-x86 knows them.
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { Decoder, DecoderOptions, InstructionInfoFactory, Register, type UsedMemory } from 'iced-x86';
import type { ExitCase } from './cases.js';
import { SubjectProcess, type Workshop } from './processes.js';
import type { Tier } from './tiers.js';

/** Whose code it is, by the file that it was mapped from. */
const OWNERS = ['compiled JavaScript', 'the addon', 'Node', 'libc', 'the C loop'] as const;
export type Owner = (typeof OWNERS)[number];

/** One exit: from the return of KVM_RUN to its next call, user space only. */
export interface ExitAccount {
  readonly instructions: number;
  readonly instructionsOf: Readonly<Record<Owner, number>>;
  /** Distinct lines of 64 bytes that instructions were fetched from, and that they read or wrote. */
  readonly codeLines: number;
  readonly dataLines: number;
}

/** The commands that single-stepping needs beside those of the workshop. */
export const DEBUGGER = 'gdb';

const WARM_UP_PASSES = 20_000;
const WARM_UP_BATCHES = 40;
/** Passes that do not end before gdb has seen what it wants. */
const ENDLESS = 2_000_000_000;
const SETTLE_MS = 1500;
const EXITS = 5;
const GDB_MS = 100_000;
const LINE_BITS = 6n;

/** @throws Error with gdb's words */
export async function accountOf(each: ExitCase, tier: Tier, workshop: Workshop): Promise<ExitAccount> {
  using subject =
    tier.options === undefined
      ? SubjectProcess.reference(workshop, each, 'kvm')
      : SubjectProcess.microvisor(workshop, each, tier.options, 'kvm');
  // As the tiers are measured: a new process compiles its path first.
  await subject.batch(WARM_UP_PASSES, false);
  for (let i = 0; i < WARM_UP_BATCHES; i++) await subject.batch(each.passes, false);
  // It ends with the process.
  subject.batch(ENDLESS, false).catch(() => undefined);
  await sleep(SETTLE_MS);
  const thread = await busiestThread(subject.pid);
  // Attaching ends a KVM_RUN with a signal. V8 compiles the path anew for that, once, and must have done it before.
  for (let i = 0; i < 2; i++) {
    gdb(subject.pid, ['-ex', 'detach']);
    await sleep(SETTLE_MS);
  }
  const folder = mkdtempSync(join(tmpdir(), 'microvisor-account-'));
  try {
    const out = join(folder, 'steps');
    const script = fileURLToPath(new URL('../../../bench/exits/single-steps.py', import.meta.url));
    gdb(subject.pid, ['-x', script], { THREAD: String(thread), OUT: out, EXITS: String(EXITS) });
    return usual(readSteps(out));
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

function gdb(pid: number, commands: readonly string[], environment: NodeJS.ProcessEnv = {}): void {
  execFileSync(DEBUGGER, ['-q', '-nx', '-batch', '-p', String(pid), ...commands], {
    env: { ...process.env, ...environment },
    stdio: ['ignore', 'ignore', 'pipe'],
    timeout: GDB_MS,
  });
}

/** The one that runs the guest: nobody else has anything to do. proc(5), /proc/[pid]/stat. */
async function busiestThread(pid: number): Promise<number> {
  const ticks = (thread: string): number => {
    const fields = readFileSync(`/proc/${pid}/task/${thread}/stat`, 'utf8').split(') ')[1]?.split(' ') ?? [];
    return Number(fields[11]) + Number(fields[12]);
  };
  const threads = readdirSync(`/proc/${pid}/task`);
  const before = threads.map(ticks);
  await sleep(SETTLE_MS);
  const used = threads.map((thread, i) => ticks(thread) - (before[i] ?? 0));
  return Number(threads[used.indexOf(Math.max(...used))]);
}

interface Step {
  readonly exit: number;
  readonly pc: bigint;
  readonly code: Uint8Array;
  readonly registers: readonly bigint[];
  readonly owner: Owner;
}

function readSteps(path: string): readonly Step[] {
  const lines = readFileSync(path, 'utf8').trim().split('\n');
  const { maps } = JSON.parse(lines.pop() ?? '{}') as { maps?: string };
  const ownerAt = owners(maps ?? '');
  return lines.map((line) => {
    const step = JSON.parse(line) as { exit: number; pc: string; code: string; registers: string[] };
    const pc = BigInt(step.pc);
    return {
      exit: step.exit,
      pc,
      code: Buffer.from(step.code, 'hex'),
      registers: step.registers.map(BigInt),
      owner: ownerAt(pc),
    };
  });
}

/** @param maps proc(5), /proc/[pid]/maps */
function owners(maps: string): (address: bigint) => Owner {
  const rows = maps.split('\n').flatMap((line) => {
    const [range = '', , , , , file = ''] = line.split(/\s+/);
    const [from, to] = range.split('-').map((part) => BigInt(`0x${part || '0'}`));
    return from === undefined || to === undefined ? [] : [{ from, to, file }];
  });
  const named: readonly (readonly [RegExp, Owner])[] = [
    [/\/microvisor\.node$/, 'the addon'],
    [/\/libc[.-][^/]*$/, 'libc'],
    [/\/node$/, 'Node'],
    [/\/reference$/, 'the C loop'],
  ];
  return (address) => {
    const file = rows.find(({ from, to }) => address >= from && address < to)?.file ?? '';
    // What V8 has compiled lies in memory of no file.
    return named.find(([pattern]) => pattern.test(file))?.[1] ?? 'compiled JavaScript';
  };
}

/** Of several exits the one with the median number of instructions: the statistics take the time of some. */
function usual(steps: readonly Step[]): ExitAccount {
  const exits = Array.from({ length: EXITS }, (_, i) => steps.filter(({ exit }) => exit === i));
  if (exits.at(-1)?.length === 0) throw new Error(`gdb saw fewer than ${EXITS} exits in ${steps.length} steps`);
  const exit = exits.toSorted((a, b) => a.length - b.length)[EXITS >> 1] ?? [];
  const instructionsOf = Object.fromEntries(
    OWNERS.map((owner) => [owner, exit.filter((step) => step.owner === owner).length]),
  ) as Record<Owner, number>;
  return {
    instructions: exit.length,
    instructionsOf,
    codeLines: new Set(exit.map(({ pc }) => pc >> LINE_BITS)).size,
    dataLines: new Set(exit.flatMap(addressesOf).map((address) => address >> LINE_BITS)).size,
  };
}

/** In the order of single-steps.py. */
const REGISTERS = [
  Register.RAX,
  Register.RBX,
  Register.RCX,
  Register.RDX,
  Register.RSI,
  Register.RDI,
  Register.RBP,
  Register.RSP,
  Register.R8,
  Register.R9,
  Register.R10,
  Register.R11,
  Register.R12,
  Register.R13,
  Register.R14,
  Register.R15,
];
const FS_BASE = REGISTERS.length;

/** What an instruction reads and writes in memory. */
function addressesOf({ pc, code, registers }: Step): bigint[] {
  const decoder = new Decoder(64, code, DecoderOptions.None);
  decoder.ip = pc;
  const instruction = decoder.decode();
  const factory = new InstructionInfoFactory();
  const info = factory.info(instruction);
  // An index of another width is none that this code has; of RIP-relative operands the displacement is the address.
  const value = (register: Register): bigint => registers[REGISTERS.indexOf(register)] ?? 0n;
  const addresses = info
    .usedMemory()
    .map(({ segment, base, index, scale, displacement }: UsedMemory) =>
      BigInt.asUintN(
        64,
        value(base) +
          value(index) * BigInt(scale) +
          displacement +
          (segment === Register.FS ? (registers[FS_BASE] ?? 0n) : 0n),
      ),
    );
  for (const each of [instruction, decoder, factory, info]) each.free();
  return addresses;
}
