// A vCPU's registers inside struct kvm_run: read after an exit and changed before the next entry without any ioctl.
// KVM API 5 (kvm_valid_regs, kvm_dirty_regs), 6.74 (KVM_CAP_SYNC_REGS).
import type { PagingRegisters } from '../paging.js';
import {
  kvmSegment,
  kvmSregs,
  kvmVcpuEvents,
  KVM_SYNC_X86_EVENTS,
  KVM_SYNC_X86_REGS,
  KVM_SYNC_X86_SREGS,
} from '../../kvm/abi.js';
import { KVM_RUN_OFFSET } from '../../kvm/kvm-run.js';
import type { VcpuFd } from '../../kvm/vcpu-fd.js';

const { regs: REGS, sregs: SREGS, events: EVENTS } = KVM_RUN_OFFSET.s.regs;
const VALID = KVM_RUN_OFFSET.kvm_valid_regs >> 2;
const DIRTY = KVM_RUN_OFFSET.kvm_dirty_regs >> 2;

/** Where the register with number n of an instruction's encoding lies in `kvm_regs`, in units of eight bytes. */
const KVM_REGS_INDEX = [0, 2, 3, 1, 6, 7, 4, 5, 8, 9, 10, 11, 12, 13, 14, 15] as const;
const RIP = 16;
const RFLAGS = 17;

/** Numbers of the general registers in instruction encodings (SDM vol. 2 table 2-2). */
export const RAX = 0;
export const RCX = 1;
export const RDX = 2;
export const RBX = 3;

/** Segment registers by the names and in the order of `kvm_sregs`. */
export const SEGMENTS = ['cs', 'ds', 'es', 'fs', 'gs', 'ss'] as const;
export type SegmentName = (typeof SEGMENTS)[number];

const SEGMENT = {
  base: kvmSegment.rows.base[0],
  dpl: kvmSegment.rows.dpl[0],
  db: kvmSegment.rows.db[0],
  l: kvmSegment.rows.l[0],
};

const EXCEPTION_INJECTED = EVENTS + kvmVcpuEvents.rows['exception.injected'][0];
const EXCEPTION_NR = EVENTS + kvmVcpuEvents.rows['exception.nr'][0];
const EXCEPTION_HAS_ERROR_CODE = EVENTS + kvmVcpuEvents.rows['exception.has_error_code'][0];
const EXCEPTION_PENDING = EVENTS + kvmVcpuEvents.rows['exception.pending'][0];
const EXCEPTION_ERROR_CODE = EVENTS + kvmVcpuEvents.rows['exception.error_code'][0];
const INTERRUPT_INJECTED = EVENTS + kvmVcpuEvents.rows['interrupt.injected'][0];
const INTERRUPT_NR = EVENTS + kvmVcpuEvents.rows['interrupt.nr'][0];
const INTERRUPT_SOFT = EVENTS + kvmVcpuEvents.rows['interrupt.soft'][0];
const EVENTS_FLAGS = EVENTS + kvmVcpuEvents.rows.flags[0];

const CR0_PE = 1n;
const EFER_LMA = 1n << 10n;

/** Word indices (32 bits) into `words`, for the paths that run on every exit; each value is a low and a high word. */
export const WORD = {
  rsp: (REGS >> 2) + 6 * 2,
  rip: (REGS >> 2) + RIP * 2,
  rflags: (REGS >> 2) + RFLAGS * 2,
  cr3: (SREGS + kvmSregs.rows.cr3[0]) >> 2,
  cr4: (SREGS + kvmSregs.rows.cr4[0]) >> 2,
} as const;

/** Valid between an exit and the next entry of the vCPU, and only once armed. */
export class SyncedRegisters implements PagingRegisters {
  /** All of struct kvm_run as 32-bit words; see WORD. */
  readonly words: Uint32Array;
  readonly #view: DataView;
  readonly #bytes: Uint8Array;

  constructor(vcpu: VcpuFd) {
    this.words = vcpu.run.u32;
    this.#view = vcpu.run.view;
    this.#bytes = vcpu.run.u8;
  }

  /** From now on KVM stores the registers at every exit. */
  arm(): void {
    this.words[VALID] = KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS | KVM_SYNC_X86_EVENTS;
  }

  /** A general register by its number in instruction encodings. */
  general(number: number): bigint {
    return this.#view.getBigUint64(REGS + (KVM_REGS_INDEX[number & 15] as number) * 8, true);
  }

  setGeneral(number: number, value: bigint): void {
    this.#view.setBigUint64(REGS + (KVM_REGS_INDEX[number & 15] as number) * 8, value, true);
    this.touchRegs();
  }

  get rip(): bigint {
    return this.#view.getBigUint64(REGS + RIP * 8, true);
  }
  set rip(value: bigint) {
    this.#view.setBigUint64(REGS + RIP * 8, value, true);
    this.touchRegs();
  }

  get rflags(): bigint {
    return this.#view.getBigUint64(REGS + RFLAGS * 8, true);
  }
  set rflags(value: bigint) {
    this.#view.setBigUint64(REGS + RFLAGS * 8, value, true);
    this.touchRegs();
  }

  get cr0(): bigint {
    return this.#view.getBigUint64(SREGS + kvmSregs.rows.cr0[0], true);
  }
  get cr3(): bigint {
    return this.#view.getBigUint64(SREGS + kvmSregs.rows.cr3[0], true);
  }
  get cr4(): bigint {
    return this.#view.getBigUint64(SREGS + kvmSregs.rows.cr4[0], true);
  }
  get efer(): bigint {
    return this.#view.getBigUint64(SREGS + kvmSregs.rows.efer[0], true);
  }
  set cr2(value: bigint) {
    this.#view.setBigUint64(SREGS + kvmSregs.rows.cr2[0], value, true);
    this.touchSregs();
  }
  get idtBase(): bigint {
    return this.#view.getBigUint64(SREGS + kvmSregs.rows.idt[0], true);
  }
  get idtLimit(): number {
    return this.#view.getUint16(SREGS + kvmSregs.rows.idt[0] + 8, true);
  }

  segmentBase(name: SegmentName): bigint {
    return this.#view.getBigUint64(segmentAt(name) + SEGMENT.base, true);
  }

  /** DPL of SS is the CPL (SDM vol. 3A §5.5). */
  get cpl(): number {
    return this.#bytes[segmentAt('ss') + SEGMENT.dpl] as number;
  }

  /** Width of code in bits: of operands by default, and of addresses (in 64-bit code only of addresses). */
  get codeBits(): 16 | 32 | 64 {
    const cs = segmentAt('cs');
    if ((this.cr0 & CR0_PE) === 0n) return 16;
    if ((this.efer & EFER_LMA) !== 0n && this.#bytes[cs + SEGMENT.l] !== 0) return 64;
    return this.#bytes[cs + SEGMENT.db] === 0 ? 16 : 32;
  }

  /** Loads CS and SS from images that syscallSegment() made. */
  loadSegments(cs: Uint32Array, ss: Uint32Array): void {
    this.words.set(cs, segmentAt('cs') >> 2);
    this.words.set(ss, segmentAt('ss') >> 2);
    this.touchSregs();
  }

  /** Makes exception `vector` happen before the next instruction; RIP is what the handler finds in its frame. */
  injectException(vector: number, errorCode?: number): void {
    const bytes = this.#bytes;
    bytes[EXCEPTION_INJECTED] = 1;
    bytes[EXCEPTION_PENDING] = 0;
    bytes[EXCEPTION_NR] = vector;
    bytes[EXCEPTION_HAS_ERROR_CODE] = errorCode === undefined ? 0 : 1;
    this.#view.setUint32(EXCEPTION_ERROR_CODE, errorCode ?? 0, true);
    this.touchEvents();
  }

  /** Delivers `vector` through the IDT as an interrupt that pushes RIP as it stands, whatever IF says. */
  injectInterrupt(vector: number): void {
    const bytes = this.#bytes;
    bytes[INTERRUPT_INJECTED] = 1;
    bytes[INTERRUPT_NR] = vector;
    bytes[INTERRUPT_SOFT] = 0;
    this.touchEvents();
  }

  /** #PF as the processor raises it: CR2 and the error code. */
  injectPageFault(linear: bigint, errorCode: number): void {
    this.cr2 = linear;
    this.injectException(14, errorCode);
  }

  touchRegs(): void {
    this.words[DIRTY] = (this.words[DIRTY] as number) | KVM_SYNC_X86_REGS;
  }

  touchSregs(): void {
    this.words[DIRTY] = (this.words[DIRTY] as number) | KVM_SYNC_X86_SREGS;
  }

  // No VALID flag: pending NMIs, SIPI vector and SMM state stay what KVM has, which may have grown since the exit.
  touchEvents(): void {
    this.#view.setUint32(EVENTS_FLAGS, 0, true);
    this.words[DIRTY] = (this.words[DIRTY] as number) | KVM_SYNC_X86_EVENTS;
  }
}

function segmentAt(name: SegmentName): number {
  return SREGS + kvmSregs.rows[name][0];
}

/** struct kvm_segment as words: the flat CS or SS that `syscall` loads for CPL 0 (SDM vol. 2B, SYSCALL). */
export function syscallSegment(name: 'cs' | 'ss', selector: number): Uint32Array {
  const isCode = name === 'cs' ? 1 : 0;
  const bytes = kvmSegment.encode({
    limit: 0xffff_ffff,
    selector,
    type: isCode === 1 ? 11 : 3,
    present: 1,
    db: 1 - isCode,
    s: 1,
    l: isCode,
    g: 1,
  });
  return new Uint32Array(bytes.buffer);
}
