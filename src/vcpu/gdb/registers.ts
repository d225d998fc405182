// The registers that gdb sees: rows in gdb's order, the XML that describes them, and how a vCPU's state maps to them.
// GDB manual, appendix "Target Descriptions": i386 Features; Intel SDM vol. 1 §10.5.1 (layout of the FXSAVE area).
import type { PartialSregs, Regs, Sregs } from '../../kvm/registers.js';
import { CONTROL_REGISTERS, RFLAGS_BITS } from '../register-names.js';

/** A vCPU's registers, as plain data. */
export interface RegisterState {
  readonly regs: Regs;
  readonly sregs: Sregs;
  /** The FXSAVE area: FPU and SSE. */
  readonly fx: Uint8Array;
}

/** What a write changes, to be handed on to the vCPU whole. */
interface MutableState {
  readonly regs: Regs;
  readonly sregs: Sregs;
  readonly fx: Uint8Array;
}

interface RegisterRow {
  readonly name: string;
  readonly bits: number;
  /** gdb's name of the type; default: an unsigned integer. */
  readonly type?: string;
  readonly read: (state: RegisterState) => bigint;
  /** Absent where a write is ignored: selectors, whose descriptor gdb cannot give, and what only the FPU sets. */
  readonly write?: (state: MutableState, value: bigint) => void;
}

interface Feature {
  readonly name: string;
  /** Types that its registers name. */
  readonly types: string;
  readonly rows: readonly RegisterRow[];
}

const general = (name: keyof Regs, type = 'int64'): RegisterRow => ({
  name,
  bits: 64,
  type,
  read: ({ regs }) => regs[name],
  write: ({ regs }, value) => void (regs[name] = value),
});

const selector = (name: 'cs' | 'ss' | 'ds' | 'es' | 'fs' | 'gs'): RegisterRow => ({
  name,
  bits: 32,
  type: 'int32',
  read: ({ sregs }) => BigInt(sregs[name].selector),
});

const control = (name: (typeof CONTROL_REGISTERS)[number]): RegisterRow => ({
  name,
  bits: 64,
  type: 'uint64',
  read: ({ sregs }) => sregs[name],
  write: ({ sregs }, value) => void (sregs[name] = value),
});

const base = (name: 'fs' | 'gs'): RegisterRow => ({
  name: `${name}_base`,
  bits: 64,
  type: 'int64',
  read: ({ sregs }) => sregs[name].base,
  write: ({ sregs }, value) => void (sregs[name].base = value),
});

/** Bytes of the FXSAVE area. */
const fx = (name: string, at: number, bytes: number, bits = bytes * 8, type = 'int'): RegisterRow => ({
  name,
  bits,
  type,
  read: (state) => littleEndian(state.fx.subarray(at, at + bytes)),
  write: (state, value) => state.fx.set(toBytes(value, bytes), at),
});

const FCW = 0;
const FSW = 2;
const FTW = 4;
const FOP = 6;
const FIP = 8;
const FDP = 16;
const MXCSR = 24;
const ST0 = 32;
const XMM0 = 160;
/** Bytes of the FXSAVE area, the start of what KVM_GET_XSAVE gives. */
export const FX_BYTES = 512;

const numbered = (count: number, row: (index: number) => RegisterRow): RegisterRow[] =>
  Array.from({ length: count }, (_, index) => row(index));

const FEATURES: readonly Feature[] = [
  {
    name: 'org.gnu.gdb.i386.core',
    types: `<flags id="i386_eflags" size="4">${RFLAGS_BITS.map(
      ([name, bit]) => `<field name="${name}" start="${bit}" end="${bit}"/>`,
    ).join('')}</flags>`,
    rows: [
      ...(['rax', 'rbx', 'rcx', 'rdx', 'rsi', 'rdi'] as const).map((name) => general(name)),
      general('rbp', 'data_ptr'),
      general('rsp', 'data_ptr'),
      ...(['r8', 'r9', 'r10', 'r11', 'r12', 'r13', 'r14', 'r15'] as const).map((name) => general(name)),
      general('rip', 'code_ptr'),
      {
        name: 'eflags',
        bits: 32,
        type: 'i386_eflags',
        read: ({ regs }) => regs.rflags,
        write: ({ regs }, value) => void (regs.rflags = value),
      },
      ...(['cs', 'ss', 'ds', 'es', 'fs', 'gs'] as const).map(selector),
      ...numbered(8, (index) => fx(`st${index}`, ST0 + index * 16, 10, 80, 'i387_ext')),
      fx('fctrl', FCW, 2, 32),
      fx('fstat', FSW, 2, 32),
      { name: 'ftag', bits: 32, type: 'int', read: fullTagWord },
      fx('fiseg', FIP + 4, 2, 32),
      fx('fioff', FIP, 4, 32),
      fx('foseg', FDP + 4, 2, 32),
      fx('fooff', FDP, 4, 32),
      fx('fop', FOP, 2, 32),
    ],
  },
  {
    name: 'org.gnu.gdb.i386.sse',
    types:
      '<vector id="v4f" type="ieee_single" count="4"/><vector id="v2d" type="ieee_double" count="2"/>' +
      '<vector id="v16i8" type="int8" count="16"/><vector id="v8i16" type="int16" count="8"/>' +
      '<vector id="v4i32" type="int32" count="4"/><vector id="v2i64" type="int64" count="2"/>' +
      '<union id="vec128"><field name="v4_float" type="v4f"/><field name="v2_double" type="v2d"/>' +
      '<field name="v16_int8" type="v16i8"/><field name="v8_int16" type="v8i16"/>' +
      '<field name="v4_int32" type="v4i32"/><field name="v2_int64" type="v2i64"/>' +
      '<field name="uint128" type="uint128"/></union>',
    rows: [...numbered(16, (index) => fx(`xmm${index}`, XMM0 + index * 16, 16, 128, 'vec128')), fx('mxcsr', MXCSR, 4)],
  },
  { name: 'org.gnu.gdb.i386.segments', types: '', rows: [base('fs'), base('gs')] },
  // gdb shows features that it does not know, with `info registers` and as $cr3.
  {
    name: 'microvisor.system',
    types: '',
    rows: CONTROL_REGISTERS.map(control),
  },
];

const ROWS: readonly RegisterRow[] = FEATURES.flatMap(({ rows }) => rows);

/** The target description for `qXfer:features:read:target.xml`. */
export const TARGET_XML: string = [
  '<?xml version="1.0"?><!DOCTYPE target SYSTEM "gdb-target.dtd"><target>',
  '<architecture>i386:x86-64</architecture>',
  ...FEATURES.map(
    ({ name, types, rows }) =>
      `<feature name="${name}">${types}${rows
        .map(({ name: reg, bits, type = 'int' }) => `<reg name="${reg}" bitsize="${bits}" type="${type}"/>`)
        .join('')}</feature>`,
  ),
  '</target>',
].join('');

/** All registers as `g` gives them: hexadecimal digits, each register little-endian. */
export function encodeRegisters(state: RegisterState): string {
  return ROWS.map((row) => encode(row, state)).join('');
}

/** One register as `p` gives it; undefined for a number that no register has. */
export function encodeRegister(state: RegisterState, number: number): string | undefined {
  const row = ROWS[number];
  return row && encode(row, state);
}

/** The state with all registers of a `G` packet; undefined when the digits are not exactly those of all registers. */
export function decodeRegisters(state: RegisterState, digits: string): RegisterState | undefined {
  if (digits.length !== ROWS.reduce((sum, { bits }) => sum + bits / 4, 0)) return undefined;
  const copy = copyOf(state);
  let at = 0;
  for (const row of ROWS) {
    if (!store(row, copy, digits.slice(at, at + row.bits / 4))) return undefined;
    at += row.bits / 4;
  }
  return copy;
}

/** The state with one register changed; undefined for a bad number or value. */
export function decodeRegister(state: RegisterState, number: number, digits: string): RegisterState | undefined {
  const row = ROWS[number];
  const copy = copyOf(state);
  return row !== undefined && store(row, copy, digits) ? copy : undefined;
}

/** What KVM_SET_SREGS is given of a written state: gdb changes bases and control registers, nothing else. */
export function writtenSregs({ sregs: { fs, gs, cr0, cr2, cr3, cr4, cr8, efer } }: RegisterState): PartialSregs {
  return { fs: { base: fs.base }, gs: { base: gs.base }, cr0, cr2, cr3, cr4, cr8, efer };
}

function copyOf({ regs, sregs, fx }: RegisterState): MutableState {
  return { regs: { ...regs }, sregs: { ...sregs, fs: { ...sregs.fs }, gs: { ...sregs.gs } }, fx: fx.slice() };
}

function encode({ bits, read }: RegisterRow, state: RegisterState): string {
  return Buffer.from(toBytes(read(state), bits / 8)).toString('hex');
}

function store({ bits, write }: RegisterRow, state: MutableState, digits: string): boolean {
  // gdb writes x for a register whose value it does not know.
  if (/^x+$/.test(digits)) return digits.length === bits / 4;
  if (digits.length !== bits / 4 || !/^[0-9a-f]*$/i.test(digits)) return false;
  write?.(state, littleEndian(Buffer.from(digits, 'hex')));
  return true;
}

/** The FXSAVE area has a bit a register, full or empty; gdb's ftag has two (SDM vol. 1 §8.1.7): 0 valid, 3 empty. */
function fullTagWord({ fx }: RegisterState): bigint {
  const abridged = fx[FTW] ?? 0;
  return Array.from({ length: 8 }, (_, index) => ((abridged >> index) & 1 ? 0n : 3n << BigInt(index * 2))).reduce(
    (word, tag) => word | tag,
    0n,
  );
}

function littleEndian(bytes: Uint8Array): bigint {
  return bytes.reduceRight((value, byte) => (value << 8n) | BigInt(byte), 0n);
}

function toBytes(value: bigint, length: number): Uint8Array {
  return Uint8Array.from({ length }, (_, index) => Number((value >> BigInt(index * 8)) & 0xffn));
}
