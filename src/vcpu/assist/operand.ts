// Memory operands of assisted instructions: effective address, linear address, guest RAM.
// Intel SDM vol. 1 §3.7.5 (effective address), vol. 3A §4.6 (access rights), §4.7 (page-fault error code).
import type { GuestMemory } from '../../memory/guest-memory.js';
import { PAGE_SIZE } from '../../memory/layout.js';
import { walk } from '../paging.js';
import type { DecodedInstruction } from './decode.js';
import type { SegmentName } from './synced-registers.js';

/** The registers that an address is made of. */
export interface AddressRegisters {
  readonly rip: bigint;
  readonly codeBits: 16 | 32 | 64;
  general(number: number): bigint;
  segmentBase(name: SegmentName): bigint;
}

/** Registers with paging and with the way to report a fault to the guest. */
export interface OperandRegisters extends AddressRegisters {
  readonly cr0: bigint;
  readonly cr3: bigint;
  readonly cr4: bigint;
  readonly efer: bigint;
  injectException(vector: number, errorCode?: number): void;
  injectPageFault(linear: bigint, errorCode: number): void;
}

/** Where an operand lies; `faulted` when the guest has been given an exception; `foreign` when it is not in RAM. */
export type Located =
  | { readonly kind: 'ram'; readonly pieces: readonly { readonly gpa: number; readonly length: number }[] }
  | { readonly kind: 'faulted' }
  | { readonly kind: 'foreign' };

const CR0_WP = 1n << 16n;
const GENERAL_PROTECTION = 13;
/** Bits of the page-fault error code. */
const ERROR_PRESENT = 1;
const ERROR_WRITE = 2;

/** The linear address of an instruction's memory operand, or undefined when its operand is a register. */
export function linearAddress(instruction: DecodedInstruction, registers: AddressRegisters): bigint | undefined {
  const { memory } = instruction;
  if (memory === undefined) return undefined;
  let effective = memory.displacement;
  if (memory.base !== undefined) effective += registers.general(memory.base);
  if (memory.index !== undefined) effective += registers.general(memory.index) * BigInt(memory.scale);
  if (memory.ripRelative) effective += registers.rip + BigInt(instruction.length);
  effective = BigInt.asUintN(memory.addressBits, effective);
  // In 64-bit mode only FS and GS have a base; their value in kvm_sregs is kept for the others too.
  const hasBase = registers.codeBits !== 64 || memory.segment === 'fs' || memory.segment === 'gs';
  const linear = effective + (hasBase ? registers.segmentBase(memory.segment) : 0n);
  return BigInt.asUintN(registers.codeBits === 64 ? 64 : 32, linear);
}

/**
 * Translates `length` bytes at `linear` for an access from CPL 0, and raises the guest's exception when that fails.
 * Not checked: SMAP, protection keys, segment limits. The A and D bits of the guest's entries stay as they are.
 */
export function locate(
  memory: GuestMemory,
  registers: OperandRegisters,
  linear: bigint,
  length: number,
  isWrite: boolean,
): Located {
  const pieces: { gpa: number; length: number }[] = [];
  for (let done = 0; done < length;) {
    const at = linear + BigInt(done);
    const found = walk(memory, registers, at);
    if (found.fault === 'not canonical') {
      registers.injectException(GENERAL_PROTECTION, 0);
      return { kind: 'faulted' };
    }
    if (found.gpa === undefined) {
      registers.injectPageFault(at, isWrite ? ERROR_WRITE : 0);
      return { kind: 'faulted' };
    }
    if (isWrite && !found.writeable && (registers.cr0 & CR0_WP) !== 0n) {
      registers.injectPageFault(at, ERROR_PRESENT | ERROR_WRITE);
      return { kind: 'faulted' };
    }
    const piece = { gpa: found.gpa, length: Math.min(length - done, PAGE_SIZE - Number(at & 0xfffn)) };
    if (!memory.contains(piece.gpa, piece.length)) return { kind: 'foreign' };
    pieces.push(piece);
    done += piece.length;
  }
  return { kind: 'ram', pieces };
}
