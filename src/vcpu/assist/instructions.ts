// The instructions that the assist performs in place of a KVM that cannot: rows of opcode → what the processor does.
// Intel SDM vol. 2 (one section an instruction), vol. 3A §6.4.2 (software-generated exceptions).
import type { GuestMemory } from '../../memory/guest-memory.js';
import type { DecodedInstruction, OpcodeLayout } from './decode.js';
import { linearAddress, locate, type OperandRegisters } from './operand.js';
import { RAX, RBX, RCX, RDX } from './synced-registers.js';

/** The registers that a row reads and changes. */
export interface InstructionRegisters extends OperandRegisters {
  rip: bigint;
  rflags: bigint;
  readonly cpl: number;
  setGeneral(number: number, value: bigint): void;
  injectInterrupt(vector: number): void;
}

export interface InstructionContext {
  readonly registers: InstructionRegisters;
  readonly memory: GuestMemory;
  /** A shared word of the VM, 0 when free: one assisted `cmpxchg16b` at a time. */
  readonly lock: Int32Array;
  /** Whether a debugger planted the `int3` at this linear address. */
  readonly ownsInt3: (linear: bigint) => boolean;
}

/**
 * - `next`: performed, RIP goes to the next instruction
 * - `done`: performed, RIP is already what it should be (an exception at this instruction)
 * - `refused`: not performed, nothing changed
 * - `debugger`: not performed, nothing changed, because a debugger put it there
 */
export type InstructionResult = 'next' | 'done' | 'refused' | 'debugger';

export interface InstructionRow extends OpcodeLayout {
  /** Also the id of the quirk, and of the row in the report's counts. */
  readonly id: string;
  /** As in DecodedInstruction. */
  readonly opcode: number;
  /** Further conditions of the encoding. */
  readonly matches: (instruction: DecodedInstruction) => boolean;
  readonly perform: (instruction: DecodedInstruction, context: InstructionContext) => InstructionResult;
}

const CF = 1n << 0n;
const PF = 1n << 2n;
const AF = 1n << 4n;
const ZF = 1n << 6n;
const SF = 1n << 7n;
const OF = 1n << 11n;
const AC = 1n << 18n;
const CR0_PE = 1n << 0n;
const CR0_MP_AND_TS = (1n << 1n) | (1n << 3n);

const VECTOR_BREAKPOINT = 3;
const VECTOR_DEVICE_NOT_AVAILABLE = 7;
const VECTOR_GENERAL_PROTECTION = 13;

const ALWAYS = (): boolean => true;

export const INSTRUCTIONS: readonly InstructionRow[] = [
  {
    id: 'int3',
    opcode: 0xcc,
    hasModrm: false,
    immediate: 0,
    matches: ALWAYS,
    perform({ length }, { registers, ownsInt3 }) {
      const base = registers.codeBits === 64 ? 0n : registers.segmentBase('cs');
      if (ownsInt3(base + registers.rip)) return 'debugger';
      // #BP is a trap: its frame holds the RIP after the int3.
      registers.rip += BigInt(length);
      registers.injectException(VECTOR_BREAKPOINT);
      return 'done';
    },
  },
  {
    id: 'int-n',
    opcode: 0xcd,
    hasModrm: false,
    immediate: 1,
    matches: ALWAYS,
    perform({ length, immediate }, { registers }) {
      // Only CPL 0 comes here, so the gate's DPL lets it pass; real mode KVM can do itself.
      if (registers.cpl !== 0 || (registers.cr0 & CR0_PE) === 0n) return 'refused';
      registers.rip += BigInt(length);
      registers.injectInterrupt(immediate);
      return 'done';
    },
  },
  {
    id: 'fwait',
    opcode: 0x9b,
    hasModrm: false,
    immediate: 0,
    matches: ALWAYS,
    perform(_instruction, { registers }) {
      if ((registers.cr0 & CR0_MP_AND_TS) !== CR0_MP_AND_TS) return 'next';
      registers.injectException(VECTOR_DEVICE_NOT_AVAILABLE);
      return 'done';
    },
  },
  {
    id: 'clac',
    opcode: 0x0f01,
    hasModrm: true,
    immediate: 0,
    matches: ({ modrm }) => modrm === 0xca,
    perform(_instruction, { registers }) {
      registers.rflags &= ~AC;
      return 'next';
    },
  },
  {
    id: 'stac',
    opcode: 0x0f01,
    hasModrm: true,
    immediate: 0,
    matches: ({ modrm }) => modrm === 0xcb,
    perform(_instruction, { registers }) {
      registers.rflags |= AC;
      return 'next';
    },
  },
  {
    id: 'popcnt',
    opcode: 0x0fb8,
    hasModrm: true,
    immediate: 0,
    matches: ({ repeat }) => repeat === 0xf3,
    perform: popcnt,
  },
  {
    id: 'cmpxchg16b',
    opcode: 0x0fc7,
    hasModrm: true,
    immediate: 0,
    matches: ({ modrm, memory, operandBits }) => memory !== undefined && ((modrm >> 3) & 7) === 1 && operandBits === 64,
    perform: cmpxchg16b,
  },
  {
    // Guest RAM has no cache of its own that could be written back.
    id: 'clwb',
    opcode: 0x0fae,
    hasModrm: true,
    immediate: 0,
    matches: ({ modrm, memory, hasOperandSizePrefix }) =>
      memory !== undefined && ((modrm >> 3) & 7) === 6 && hasOperandSizePrefix,
    perform: () => 'next',
  },
];

/** The layout for the decoder: rows of one opcode agree on it. */
export function layoutOf(opcode: number): OpcodeLayout | undefined {
  return INSTRUCTIONS.find((row) => row.opcode === opcode);
}

function popcnt(instruction: DecodedInstruction, { registers, memory }: InstructionContext): InstructionResult {
  const bits = instruction.operandBits;
  const linear = linearAddress(instruction, registers);
  let source: bigint;
  if (linear === undefined) source = BigInt.asUintN(bits, registers.general(instruction.rm));
  else {
    const located = locate(memory, registers, linear, bits / 8, false);
    if (located.kind !== 'ram') return located.kind === 'faulted' ? 'done' : 'refused';
    source = 0n;
    let shift = 0n;
    for (const { gpa, length } of located.pieces)
      for (let i = 0; i < length; i++, shift += 8n) source |= BigInt(memory.readU8(gpa + i)) << shift;
  }
  let count = 0n;
  for (let rest = source; rest !== 0n; rest &= rest - 1n) count++;
  // A 16-bit result leaves the rest of the register alone, a 32-bit one clears the upper half.
  const kept = bits === 16 ? registers.general(instruction.reg) & ~0xffffn : 0n;
  registers.setGeneral(instruction.reg, kept | count);
  registers.rflags = (registers.rflags & ~(CF | PF | AF | ZF | SF | OF)) | (source === 0n ? ZF : 0n);
  return 'next';
}

/**
 * Atomic against every other assisted cmpxchg16b, by the lock. Against plain stores of another vCPU each half is
 * compared and exchanged atomically by itself: a store that comes between the halves is noticed, and the first half
 * taken back. A kernel that changes such a pair does so by cmpxchg16b alone, or under a lock of its own.
 */
function cmpxchg16b(instruction: DecodedInstruction, context: InstructionContext): InstructionResult {
  const { registers, memory, lock } = context;
  const linear = linearAddress(instruction, registers);
  if (linear === undefined) return 'refused';
  if ((linear & 15n) !== 0n) {
    registers.injectException(VECTOR_GENERAL_PROTECTION, 0);
    return 'done';
  }
  const located = locate(memory, registers, linear, 16, true);
  if (located.kind !== 'ram') return located.kind === 'faulted' ? 'done' : 'refused';
  const [piece] = located.pieces;
  const region = piece && memory.regionOf(piece.gpa, 16);
  if (piece === undefined || region === undefined) return 'refused';
  const halves = new BigUint64Array(region.buffer, piece.gpa - region.base, 2);
  const expected = [registers.general(RAX), registers.general(RDX)] as const;
  const wanted = [registers.general(RBX), registers.general(RCX)] as const;
  while (Atomics.compareExchange(lock, 0, 0, 1) !== 0);
  let low = Atomics.load(halves, 0);
  let high = Atomics.load(halves, 1);
  if (low === expected[0] && high === expected[1]) {
    low = Atomics.compareExchange(halves, 0, expected[0], wanted[0]);
    if (low === expected[0]) {
      high = Atomics.compareExchange(halves, 1, expected[1], wanted[1]);
      if (high !== expected[1]) Atomics.compareExchange(halves, 0, wanted[0], expected[0]);
    }
  }
  Atomics.store(lock, 0, 0);
  if (low === expected[0] && high === expected[1]) registers.rflags |= ZF;
  else {
    registers.rflags &= ~ZF;
    registers.setGeneral(RAX, low);
    registers.setGeneral(RDX, high);
  }
  return 'next';
}
