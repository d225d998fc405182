// The boot doctor's report: the likely causes first, then what a person wants to see beside them. Plain data.
import type { VcpuState } from '../../vcpu/dump.js';
import { bootParams } from '../../boot/boot-params.js';
import type { SymbolTable } from '../../boot/symbols.js';
import { ZERO_PAGE } from '../../memory/layout.js';
import { EXIT_NAMES } from '../../vcpu/observe/exit-names.js';
import type { TracedExit } from '../../vcpu/observe/trace-reader.js';
import { hex } from '../../vcpu/disassemble.js';
import { readLinear } from '../../vcpu/paging.js';
import { CAUSES } from './causes.js';
import { control, type DoctorEvidence, type Finding } from './evidence.js';

/** A cause with the id of its row. */
export interface NamedCause extends Finding {
  readonly id: string;
}

export interface VcpuDiagnosis {
  readonly state: VcpuState | undefined;
  /** The symbol at RIP, where the kernel's symbols are known. */
  readonly symbol: string | undefined;
  /** Symbols of code addresses that lie on the stack, the innermost first: callers, or left from calls before. */
  readonly stack: readonly string[];
  /** Its last exits, the oldest first, where they are traced. */
  readonly lastExits: readonly string[];
}

export interface Diagnosis {
  /** The likeliest first; empty when no row of the table fits. */
  readonly causes: readonly NamedCause[];
  readonly vcpus: readonly VcpuDiagnosis[];
  /** The most frequent exits, by name, port or address and device, with their counts. */
  readonly topExits: readonly { readonly exit: string; readonly count: number }[];
  readonly boot: {
    readonly kernel: string;
    readonly format: string;
    readonly cmdline: string;
    readonly e820: readonly string[];
    readonly placed: readonly string[];
    /** Linux' zero page as it is in the guest's memory now; undefined for images that have none. */
    readonly bootParams: Readonly<Record<string, string>> | undefined;
  };
  /** The last lines on the console. */
  readonly console: readonly string[];
}

/** What is shown beside the evidence. */
export interface DiagnosisSources {
  readonly symbols: SymbolTable | undefined;
  /** By vCPU. */
  readonly traces: readonly (readonly TracedExit[])[];
  /** Name of the device at a port or address. */
  readonly deviceAt: (space: 'port' | 'mmio', address: number) => string;
}

const CAUSES_MAX = 3;
const TOP_EXITS = 8;
const LAST_EXITS = 12;
const STACK_BYTES = 1024;
const STACK_SYMBOLS = 8;
const E820_NAMES: Readonly<Record<number, string>> = { 1: 'RAM', 2: 'reserved' };
const ZERO_PAGE_FORMATS: ReadonlySet<string> = new Set(['elf-linux', 'bzimage']);

export function diagnose(evidence: DoctorEvidence, sources: DiagnosisSources): Diagnosis {
  return {
    causes: causesOf(evidence),
    vcpus: evidence.vcpus.map((state, index) => ({
      state,
      symbol: state && sources.symbols?.nameOf(BigInt(state.code.linear)),
      stack: state === undefined ? [] : stackOf(state, evidence, sources.symbols),
      lastExits: (sources.traces[index] ?? []).slice(-LAST_EXITS).map((exit) => describeExit(exit, sources.deviceAt)),
    })),
    topExits: topExits(evidence),
    boot: bootFacts(evidence),
    console: evidence.console.lines,
  };
}

export function causesOf(evidence: DoctorEvidence): NamedCause[] {
  const found = CAUSES.flatMap(({ id, isGeneral = false, find }) => {
    const finding = find(evidence);
    return finding === undefined ? [] : [{ isGeneral, cause: { id, ...finding } }];
  });
  const telling = found.filter(({ isGeneral }) => !isGeneral);
  // Of those that only name a symptom the first does.
  return (telling.length > 0 ? telling : found.slice(0, 1)).map(({ cause }) => cause).slice(0, CAUSES_MAX);
}

/** An exit in a few words: `KVM_EXIT_IO out 0x3f8 (COM1) = 0x41`. */
export function describeExit({ reason, access }: TracedExit, deviceAt: DiagnosisSources['deviceAt']): string {
  const name = EXIT_NAMES[reason] ?? `exit reason ${reason}`;
  if (access === undefined) return name;
  const { space, address, isWrite, value, count } = access;
  const verb = { port: ['in', 'out'], mmio: ['read', 'write'], msr: ['rdmsr', 'wrmsr'] }[space][isWrite ? 1 : 0];
  const owner = space === 'msr' ? '' : ` (${deviceAt(space, address)})`;
  return `${name} ${verb} ${hex(address)}${owner} = ${hex(value)}${count > 1 ? `, ${count} items` : ''}`;
}

function topExits({ exits }: DoctorEvidence): Diagnosis['topExits'] {
  const counts = new Map<string, number>();
  const add = (exit: string, count: number): void => void counts.set(exit, (counts.get(exit) ?? 0) + count);
  for (const { reasons, ports, mmio } of exits) {
    for (const { reason, count } of reasons)
      if (reason !== 'KVM_EXIT_IO' && reason !== 'KVM_EXIT_MMIO') add(reason, count);
    for (const { port, direction, device, count } of ports) add(`${direction} ${hex(port)} (${device})`, count);
    for (const { address, direction, device, count } of mmio) add(`${direction} ${hex(address)} (${device})`, count);
  }
  return [...counts]
    .map(([exit, count]) => ({ exit, count }))
    .toSorted((a, b) => b.count - a.count)
    .slice(0, TOP_EXITS);
}

function stackOf(state: VcpuState, { memory }: DoctorEvidence, symbols: SymbolTable | undefined): string[] {
  if (symbols === undefined || state.codeBits !== 64) return [];
  const paging = {
    cr0: control(state, 'cr0'),
    cr3: control(state, 'cr3'),
    cr4: control(state, 'cr4'),
    efer: control(state, 'efer'),
  };
  const bytes = readLinear(memory, paging, BigInt(state.regs['rsp'] ?? '0x0'), STACK_BYTES);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const names: string[] = [];
  for (let at = 0; at + 8 <= bytes.length && names.length < STACK_SYMBOLS; at += 8) {
    const name = symbols.nameOf(view.getBigUint64(at, true));
    if (name !== undefined) names.push(name);
  }
  return names;
}

function bootFacts({ kernel, memory }: DoctorEvidence): Diagnosis['boot'] {
  return {
    kernel: kernel.name,
    format: kernel.format,
    cmdline: kernel.cmdline,
    e820: kernel.e820.map(({ base, size, type }) => `${range(base, size)} ${E820_NAMES[type] ?? `type ${type}`}`),
    placed: kernel.placed.map(({ name, base, size }) => `${range(base, size)} ${name}`),
    bootParams: ZERO_PAGE_FORMATS.has(kernel.format)
      ? Object.fromEntries(
          Object.entries(bootParams.decode(memory.read(ZERO_PAGE, bootParams.size)))
            .filter(([, value]) => BigInt(value) !== 0n)
            .map(([name, value]) => [name, hex(value)]),
        )
      : undefined,
  };
}

function range(base: number, size: number): string {
  return `${hex(base)}-${hex(base + Math.max(size, 1) - 1)}`;
}

/** Lines without ends, for a terminal. The registers are in each state's own lines (vcpu/dump.ts). */
export function formatDiagnosis({ causes, vcpus, topExits: exits, boot }: Diagnosis): string[] {
  const lines = causes.flatMap(({ id, cause, remedy }, index) => [
    `${index === 0 ? 'likely cause' : '   or maybe'}: ${cause} [${id}]`,
    `      remedy: ${remedy}`,
  ]);
  for (const [index, { symbol, stack, lastExits }] of vcpus.entries()) {
    if (symbol !== undefined)
      lines.push(`vCPU ${index}: rip is in ${symbol}${stack.length > 0 ? `; on its stack: ${stack.join(' ')}` : ''}`);
    if (lastExits.length > 0)
      lines.push(`vCPU ${index}: its last exits, the newest at the end:`, ...lastExits.map((exit) => `  ${exit}`));
  }
  if (exits.length > 0)
    lines.push(
      'exits, the most frequent first:',
      ...exits.map(({ exit, count }) => `  ${String(count).padStart(9)}  ${exit}`),
    );
  lines.push(`kernel ${boot.kernel} (${boot.format}), command line: ${boot.cmdline === '' ? '(empty)' : boot.cmdline}`);
  lines.push(
    'memory map (e820):',
    ...boot.e820.map((row) => `  ${row}`),
    'placed:',
    ...boot.placed.map((row) => `  ${row}`),
  );
  if (boot.bootParams !== undefined)
    lines.push(
      `boot_params: ${Object.entries(boot.bootParams)
        .map(([name, value]) => `${name}=${value}`)
        .join(' ')}`,
    );
  return lines;
}
