// Decodes the few instruction layouts that the assist performs: prefixes, opcode, ModRM, SIB, displacement, immediate.
// Intel SDM vol. 2A §2.1 (instruction format), §2.2.1 (REX prefixes).
import type { SegmentName } from './synced-registers.js';

/** What follows an opcode. */
export interface OpcodeLayout {
  readonly hasModrm: boolean;
  /** Bytes of immediate. */
  readonly immediate: 0 | 1;
}

export interface MemoryOperand {
  readonly segment: SegmentName;
  /** Register numbers; undefined when there is none. */
  readonly base: number | undefined;
  readonly index: number | undefined;
  readonly scale: 1 | 2 | 4 | 8;
  /** Sign-extended. */
  readonly displacement: bigint;
  /** The displacement counts from the end of the instruction. */
  readonly ripRelative: boolean;
  readonly addressBits: 16 | 32 | 64;
}

export interface DecodedInstruction {
  /** Bytes in all. */
  readonly length: number;
  /** 0x00–0xff for one-byte opcodes, 0x0f00–0x0fff for those after 0f. */
  readonly opcode: number;
  /** The last of f2 and f3, or 0. */
  readonly repeat: number;
  readonly hasOperandSizePrefix: boolean;
  /** Operand size in bits that prefixes and mode select. */
  readonly operandBits: 16 | 32 | 64;
  /** The whole ModRM byte; 0 without one. */
  readonly modrm: number;
  /** Register numbers from ModRM with REX: `reg`, and `rm` when it names a register. */
  readonly reg: number;
  readonly rm: number;
  /** Undefined when the r/m operand is a register. */
  readonly memory: MemoryOperand | undefined;
  readonly immediate: number;
}

const SEGMENT_PREFIXES: Readonly<Record<number, SegmentName>> = {
  0x2e: 'cs',
  0x36: 'ss',
  0x3e: 'ds',
  0x26: 'es',
  0x64: 'fs',
  0x65: 'gs',
};
const OTHER_PREFIXES = new Set([0x66, 0x67, 0xf0, 0xf2, 0xf3]);
const MAX_INSTRUCTION = 15;

/** 16-bit addressing by r/m: base and index register (SDM vol. 2A table 2-1). */
const ADDRESS16: readonly (readonly [base: number | undefined, index: number | undefined])[] = [
  [3, 6],
  [3, 7],
  [5, 6],
  [5, 7],
  [6, undefined],
  [7, undefined],
  [5, undefined],
  [3, undefined],
];

/**
 * Decodes the instruction at the start of `bytes`.
 * @param layoutOf what follows an opcode; undefined for opcodes that are of no interest
 * @returns undefined when the opcode is of no interest or the bytes end within the instruction
 */
export function decode(
  bytes: Uint8Array,
  codeBits: 16 | 32 | 64,
  layoutOf: (opcode: number) => OpcodeLayout | undefined,
): DecodedInstruction | undefined {
  const available = bytes.subarray(0, MAX_INSTRUCTION);
  const view = new DataView(available.buffer, available.byteOffset, available.byteLength);
  let at = 0;
  let segment: SegmentName | undefined;
  let repeat = 0;
  let hasOperandSizePrefix = false;
  let hasAddressSizePrefix = false;
  for (; at < available.length; at++) {
    const byte = available[at] as number;
    const override = SEGMENT_PREFIXES[byte];
    if (override === undefined && !OTHER_PREFIXES.has(byte)) break;
    // In 64-bit mode CS, DS, ES and SS overrides do nothing, not even undo an FS or GS before them.
    if (override !== undefined && (codeBits !== 64 || override === 'fs' || override === 'gs')) segment = override;
    hasOperandSizePrefix ||= byte === 0x66;
    hasAddressSizePrefix ||= byte === 0x67;
    if (byte === 0xf2 || byte === 0xf3) repeat = byte;
  }
  let rex = 0;
  if (codeBits === 64 && ((available[at] ?? 0) & 0xf0) === 0x40) rex = available[at++] as number;
  let opcode = available[at++];
  if (opcode === 0x0f) {
    const second = available[at++];
    opcode = second === undefined ? undefined : 0x0f00 | second;
  }
  if (opcode === undefined) return undefined;
  const layout = layoutOf(opcode);
  if (layout === undefined) return undefined;
  try {
    const modrm = layout.hasModrm ? view.getUint8(at++) : 0;
    let memory: MemoryOperand | undefined;
    if (layout.hasModrm && modrm < 0xc0) {
      const addressBits = addressWidth(codeBits, hasAddressSizePrefix);
      const parsed = addressBits === 16 ? memory16(view, at, modrm) : memory32(view, at, modrm, rex, codeBits === 64);
      at = parsed.end;
      memory = { ...parsed.operand, segment: segment ?? parsed.operand.segment, addressBits };
    }
    const immediate = layout.immediate === 1 ? view.getUint8(at++) : 0;
    return {
      length: at,
      opcode,
      repeat,
      hasOperandSizePrefix,
      operandBits: operandWidth(codeBits, hasOperandSizePrefix, rex),
      modrm,
      reg: ((modrm >> 3) & 7) | ((rex & 4) << 1),
      rm: (modrm & 7) | ((rex & 1) << 3),
      memory,
      immediate,
    };
  } catch (error) {
    // The bytes ended: KVM fetched fewer than the instruction has.
    if (error instanceof RangeError) return undefined;
    throw error;
  }
}

function addressWidth(codeBits: 16 | 32 | 64, isOverridden: boolean): 16 | 32 | 64 {
  if (!isOverridden) return codeBits;
  return codeBits === 32 ? 16 : 32;
}

function operandWidth(codeBits: 16 | 32 | 64, isOverridden: boolean, rex: number): 16 | 32 | 64 {
  if ((rex & 8) !== 0) return 64;
  return (codeBits === 16) === isOverridden ? 32 : 16;
}

interface Parsed {
  readonly end: number;
  readonly operand: Omit<MemoryOperand, 'addressBits'>;
}

function memory16(view: DataView, at: number, modrm: number): Parsed {
  const mod = modrm >> 6;
  const isAbsolute = mod === 0 && (modrm & 7) === 6;
  const [base, index] = isAbsolute ? [undefined, undefined] : (ADDRESS16[modrm & 7] ?? [undefined, undefined]);
  const size = isAbsolute ? 2 : mod;
  const displacement = size === 0 ? 0 : size === 1 ? view.getInt8(at) : view.getInt16(at, true);
  const operand = { base, index, scale: 1, displacement: BigInt(displacement), ripRelative: false } as const;
  return { end: at + size, operand: { ...operand, segment: base === 5 ? 'ss' : 'ds' } };
}

function memory32(view: DataView, start: number, modrm: number, rex: number, isLong: boolean): Parsed {
  const mod = modrm >> 6;
  let at = start;
  let base: number | undefined = (modrm & 7) | ((rex & 1) << 3);
  let index: number | undefined;
  let scale: MemoryOperand['scale'] = 1;
  let ripRelative = false;
  let size = mod === 1 ? 1 : mod === 2 ? 4 : 0;
  if ((modrm & 7) === 4) {
    const sib = view.getUint8(at++);
    const indexNumber = ((sib >> 3) & 7) | ((rex & 2) << 2);
    // Index 4 without REX.X means none; R12 can be an index.
    index = indexNumber === 4 ? undefined : indexNumber;
    scale = (1 << (sib >> 6)) as MemoryOperand['scale'];
    base = (sib & 7) | ((rex & 1) << 3);
    if ((sib & 7) === 5 && mod === 0) {
      base = undefined;
      size = 4;
    }
  } else if ((modrm & 7) === 5 && mod === 0) {
    base = undefined;
    size = 4;
    ripRelative = isLong;
  }
  const displacement = size === 0 ? 0 : size === 1 ? view.getInt8(at) : view.getInt32(at, true);
  const isStack = base === 4 || base === 5;
  return {
    end: at + size,
    operand: { base, index, scale, displacement: BigInt(displacement), ripRelative, segment: isStack ? 'ss' : 'ds' },
  };
}
