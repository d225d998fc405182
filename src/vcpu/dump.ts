// A vCPU's state for a person: registers, mode, code at RIP and the page walk of RIP, as plain data and as lines.
// Intel SDM vol. 1 §3.1 (modes), vol. 3A §5.5 (privilege levels).
import type { GuestMemory } from '../memory/guest-memory.js';
import type { Regs, Segment, Sregs } from '../kvm/registers.js';
import type { VcpuFd } from '../kvm/vcpu-fd.js';
import { disassemble, hex, hexBytes, type DisassembledInstruction } from './disassemble.js';
import { pagingMode, readLinear, walk, type PagingMode, type Walk } from './paging.js';
import { CONTROL_REGISTERS, GENERAL_REGISTER_ROWS } from './register-names.js';

export type CpuMode = 'real' | 'virtual-8086' | 'protected' | 'compatibility' | 'long';

/** Plain data: JSON-able and structured-cloneable. 64-bit values are hexadecimal strings. */
export interface VcpuState {
  readonly vcpu: number;
  readonly mode: CpuMode;
  /** Bits of code at RIP: 16, 32 or 64. */
  readonly codeBits: 16 | 32 | 64;
  readonly cpl: number;
  readonly paging: PagingMode;
  /** KVM_MP_STATE_*. */
  readonly mpState: number;
  readonly regs: Readonly<Record<string, string>>;
  readonly segments: Readonly<Record<string, SegmentState>>;
  /** gdt and idt: base and limit. */
  readonly tables: Readonly<Record<string, { readonly base: string; readonly limit: number }>>;
  /** cr0, cr2, cr3, cr4, cr8, efer, apicBase. */
  readonly control: Readonly<Record<string, string>>;
  /** Vector of an exception under way, if any. */
  readonly exception?: number;
  /** Up to 16 bytes from the linear address of RIP; `bytes` is empty where nothing is mapped. */
  readonly code: {
    readonly linear: string;
    readonly bytes: string;
    readonly instructions: readonly DisassembledInstruction[];
  };
  /** How RIP's linear address translates. */
  readonly walk: WalkState;
}

export interface SegmentState {
  readonly selector: number;
  readonly base: string;
  readonly limit: number;
  readonly type: number;
  readonly dpl: number;
  readonly present: number;
}

export interface WalkState {
  readonly steps: readonly { readonly name: string; readonly gpa: string; readonly entry: string }[];
  readonly gpa?: string;
  readonly pageSize?: number;
  readonly rights?: string;
  readonly fault?: string;
}

const CODE_BYTES = 16;
const INSTRUCTIONS = 4;
const CR0_PE = 1n;
const RFLAGS_VM = 1n << 17n;
const EFER_LMA = 1n << 10n;
const SEGMENT_NAMES = ['cs', 'ds', 'es', 'fs', 'gs', 'ss', 'tr', 'ldt'] as const;
const CONTROL_NAMES = [...CONTROL_REGISTERS, 'apicBase'] as const;

/** Reads the registers (five ioctls) and the memory around RIP. On the vCPU's thread, outside KVM_RUN. */
export function captureState(vcpu: VcpuFd, memory: GuestMemory): VcpuState {
  const regs = vcpu.getRegs();
  const sregs = vcpu.getSregs();
  const { exception } = vcpu.getVcpuEvents();
  const { mode, codeBits } = modeOf(regs, sregs);
  const linear = codeBits === 64 ? regs.rip : BigInt.asUintN(32, sregs.cs.base + regs.rip);
  const bytes = readLinear(memory, sregs, linear, CODE_BYTES);
  return {
    vcpu: vcpu.id,
    mode,
    codeBits,
    cpl: mode === 'real' ? 0 : sregs.ss.dpl,
    paging: pagingMode(sregs),
    mpState: vcpu.getMpState(),
    regs: Object.fromEntries(Object.entries(regs).map(([name, value]) => [name, hex(value)])),
    segments: Object.fromEntries(SEGMENT_NAMES.map((name) => [name, segmentState(sregs[name])])),
    tables: {
      gdt: { base: hex(sregs.gdt.base), limit: sregs.gdt.limit },
      idt: { base: hex(sregs.idt.base), limit: sregs.idt.limit },
    },
    control: Object.fromEntries(CONTROL_NAMES.map((name) => [name, hex(sregs[name])])),
    ...(exception.injected !== 0 || exception.pending !== 0 ? { exception: exception.nr } : {}),
    code: {
      linear: hex(linear),
      bytes: hexBytes(bytes),
      instructions: disassemble(bytes, codeBits, regs.rip, INSTRUCTIONS),
    },
    walk: walkState(walk(memory, sregs, linear)),
  };
}

/** Lines without ends, at most 100 columns, for a terminal. */
export function formatState(state: VcpuState): string[] {
  const { regs, segments, tables, control, code } = state;
  const wide = (value: string | undefined): string => (value ?? '0x0').slice(2).padStart(16, '0');
  const lines = [
    `vCPU ${state.vcpu}: ${state.mode} mode, ${state.codeBits}-bit code, CPL ${state.cpl}, paging ${state.paging}` +
      (state.exception === undefined ? '' : `, exception ${state.exception} under way`),
  ];
  for (const row of GENERAL_REGISTER_ROWS)
    lines.push(`  ${row.map((name) => `${name.padEnd(3)}=${wide(regs[name])}`).join(' ')}`);
  lines.push(`  rip=${wide(regs['rip'])} rflags=${(regs['rflags'] ?? '0x0').slice(2).padStart(8, '0')}`);
  for (const [name, segment] of Object.entries(segments))
    lines.push(
      `  ${name.padEnd(3)}=${segment.selector.toString(16).padStart(4, '0')} base=${wide(segment.base)} ` +
        `limit=${segment.limit.toString(16).padStart(8, '0')} type=${segment.type.toString(16)} dpl=${segment.dpl}` +
        (segment.present === 0 ? ' (not present)' : ''),
    );
  for (const [name, table] of Object.entries(tables))
    lines.push(`  ${name} base=${wide(table.base)} limit=${table.limit.toString(16).padStart(4, '0')}`);
  lines.push(`  ${['cr0', 'cr2', 'cr3', 'cr4', 'efer'].map((name) => `${name}=${control[name]}`).join(' ')}`);
  lines.push(`  code at ${code.linear}: ${code.bytes === '' ? '(not mapped)' : code.bytes}`);
  for (const { address, bytes, text } of code.instructions)
    lines.push(`    ${address.padEnd(18)} ${bytes.padEnd(24)} ${text}`);
  if (state.walk.steps.length > 0 || state.walk.fault !== undefined) lines.push(`  ${formatWalk(state.walk)}`);
  return lines;
}

function formatWalk({ steps, gpa, pageSize, rights, fault }: WalkState): string {
  const path = steps.map((step) => `${step.name} ${step.entry}`).join(' > ');
  const end = gpa === undefined ? (fault ?? 'unknown') : `GPA ${gpa} (${(pageSize ?? 0) / 1024} KiB page, ${rights})`;
  return `walk of rip: ${path === '' ? '' : `${path} > `}${end}`;
}

function modeOf(regs: Regs, sregs: Sregs): { mode: CpuMode; codeBits: 16 | 32 | 64 } {
  const narrow = sregs.cs.db === 0 ? 16 : 32;
  if ((sregs.cr0 & CR0_PE) === 0n) return { mode: 'real', codeBits: 16 };
  if ((sregs.efer & EFER_LMA) !== 0n)
    return sregs.cs.l === 0 ? { mode: 'compatibility', codeBits: narrow } : { mode: 'long', codeBits: 64 };
  if ((regs.rflags & RFLAGS_VM) !== 0n) return { mode: 'virtual-8086', codeBits: 16 };
  return { mode: 'protected', codeBits: narrow };
}

function segmentState({ selector, base, limit, type, dpl, present }: Segment): SegmentState {
  return { selector, base: hex(base), limit, type, dpl, present };
}

function walkState({ steps, gpa, pageSize, writeable, user, executable, fault }: Walk): WalkState {
  return {
    steps: steps.map(({ name, entryGpa, entry }) => ({ name, gpa: hex(entryGpa), entry: hex(entry) })),
    ...(gpa === undefined
      ? {}
      : { gpa: hex(gpa), pageSize, rights: `${user ? 'u' : 's'}${writeable ? 'w' : 'r'}${executable ? 'x' : '-'}` }),
    ...(fault === undefined ? {} : { fault }),
  };
}
