// Makes `syscall` work where KVM leaves CPL at 3: the fetch at LSTAR then faults, and the fault is turned into the entry.
// Intel SDM vol. 2B (SYSCALL), vol. 3A §6.12 (stack frame of an exception), §6.14.1 (64-bit IDT gate descriptors).
import type { GuestMemory } from '../../memory/guest-memory.js';
import { KVM_CAP_X86_USER_SPACE_MSR, KVM_MSR_EXIT_REASON_FILTER, KVM_MSR_FILTER_WRITE } from '../../kvm/abi.js';
import { KvmError } from '../../kvm/errors.js';
import { KVM_RUN_OFFSET } from '../../kvm/kvm-run.js';
import type { VcpuFd } from '../../kvm/vcpu-fd.js';
import type { VmFd } from '../../kvm/vm-fd.js';
import { MSR_LSTAR, MSR_STAR, MSR_SYSCALL_MASK } from '../../kvm/msr.js';
import type { GuestDebug } from '../guest-debug.js';
import { readLinear, translateLong, type PagingRegisters } from '../paging.js';
import { stepRow, type StepRow } from './step-over.js';
import { syscallSegment, WORD, type SyncedRegisters } from './synced-registers.js';

/** Lets the guest's writes of LSTAR come to user space. Once per VM, before its vCPUs run. */
export function armSyscallRemedy(vm: VmFd): void {
  vm.enableCap(KVM_CAP_X86_USER_SPACE_MSR, [KVM_MSR_EXIT_REASON_FILTER]);
  vm.setMsrFilter({
    defaultAllow: true,
    // A zero bit denies; the kernel reads bitmaps in units of eight bytes.
    ranges: [{ flags: KVM_MSR_FILTER_WRITE, base: MSR_LSTAR, nmsrs: 1, bitmap: new Uint8Array(8) }],
  });
}

const PAGE_FAULT = 14;
const GATE_SIZE = 16;
const CR4_LA57 = 1 << 12;
const RFLAGS_RF = 1 << 16;
const DR6_SINGLE_STEP = 1 << 14;

/** Words of 32 bits from RSP at the handler's first instruction: error code, RIP, CS, RFLAGS, RSP, SS of 64 bits each. */
const FRAME_RIP = 2;
const FRAME_CS = 4;
const FRAME_RFLAGS = 6;
const FRAME_RSP = 8;
const FRAME_BYTES = 40;

/** What a KVM_EXIT_DEBUG turned out to be. */
export type SyscallRemedyResult = 'syscall' | 'page-fault' | 'stepped' | 'foreign';

/** One vCPU's remedy; see armSyscallRemedy for the VM's part. */
export class SyscallRemedy {
  readonly #words: Uint32Array;
  readonly #view: DataView;
  #lstarLow = 0;
  #lstarHigh = 0;
  #handler: bigint | undefined;
  #handlerLow = 0;
  #handlerHigh = 0;
  /** STAR and SFMASK are read at the first syscall after a write of LSTAR: a kernel may write them in any order. */
  #segments: { readonly cs: Uint32Array; readonly ss: Uint32Array } | undefined;
  #flagMask = 0;
  /** The handler's first instruction is being single-stepped, its breakpoint is off. */
  #isStepping = false;
  #lastFirst = 0;
  #lastStep: StepRow | undefined;

  constructor(
    private readonly vcpu: VcpuFd,
    private readonly memory: GuestMemory,
    private readonly guestDebug: GuestDebug,
    private readonly registers: SyncedRegisters,
  ) {
    this.#words = vcpu.run.u32;
    this.#view = vcpu.run.view;
  }

  /**
   * KVM_EXIT_X86_WRMSR of LSTAR: performs the write and arms the breakpoint.
   * @returns false for any other MSR
   */
  wrmsr(): boolean {
    if (this.#view.getUint32(KVM_RUN_OFFSET.msr.index, true) !== MSR_LSTAR) return false;
    const data = this.#view.getBigUint64(KVM_RUN_OFFSET.msr.data, true);
    try {
      this.vcpu.setMsrs([{ index: MSR_LSTAR, data }]);
      this.#view.setUint8(KVM_RUN_OFFSET.msr.error, 0);
      this.#follow(data, this.registers);
    } catch (error) {
      // KVM refuses an address that is not canonical; so does the processor, with #GP.
      if (!(error instanceof KvmError)) throw error;
      this.#view.setUint8(KVM_RUN_OFFSET.msr.error, 1);
    }
    return true;
  }

  /** Takes LSTAR and the IDT from the vCPU, after they were set from outside (a restored snapshot). */
  resume(): void {
    const [lstar] = this.vcpu.getMsrs([MSR_LSTAR]);
    const sregs = this.vcpu.getSregs();
    if (lstar !== undefined && lstar.data !== 0n)
      this.#follow(lstar.data, { ...sregs, idtBase: sregs.idt.base, idtLimit: sregs.idt.limit });
  }

  /** KVM_EXIT_DEBUG. `foreign`: not this remedy's breakpoint. */
  debug(): SyscallRemedyResult {
    if (this.#isStepping) return this.#stepped();
    const pcLow = this.#view.getUint32(KVM_RUN_OFFSET.debug.arch.pc, true);
    const pcHigh = this.#view.getUint32(KVM_RUN_OFFSET.debug.arch.pc + 4, true);
    if (this.#handler === undefined || pcLow !== this.#handlerLow || pcHigh !== this.#handlerHigh) return 'foreign';
    if (this.#enterSyscall()) return 'syscall';
    this.#stepOver();
    return 'page-fault';
  }

  #follow(lstar: bigint, registers: GateRegisters): void {
    this.#lstarLow = Number(lstar & 0xffff_ffffn);
    this.#lstarHigh = Number(lstar >> 32n);
    this.#segments = undefined;
    const handler = pageFaultHandler(this.memory, registers);
    if (handler === this.#handler) return;
    this.#handler = handler;
    this.#handlerLow = Number((handler ?? 0n) & 0xffff_ffffn);
    this.#handlerHigh = Number((handler ?? 0n) >> 32n);
    this.#arm();
  }

  #arm(): void {
    const breakpoints = this.#handler === undefined ? [] : [{ address: this.#handler }];
    this.guestDebug.request('syscall-remedy', { breakpoints });
  }

  // A program that jumps to LSTAR by itself gains nothing: it enters as by `syscall`, with the flags masked.
  #enterSyscall(): boolean {
    const words = this.#words;
    const rspLow = words[WORD.rsp] as number;
    const rspHigh = words[WORD.rsp + 1] as number;
    const frame = this.#translate(rspLow, rspHigh);
    const region = frame < 0 ? undefined : this.memory.regionOf(frame, FRAME_BYTES);
    // The processor aligns a frame to 16 bytes; one that is cut by a page's end is read by its own way.
    if (region === undefined || (frame & 0xfff) > 4096 - FRAME_BYTES) return this.#enterFromSplitFrame();
    const { view } = region;
    const at = frame - region.base;
    if (view.getUint32(at + FRAME_RIP * 4, true) !== this.#lstarLow) return false;
    if (view.getUint32(at + FRAME_RIP * 4 + 4, true) !== this.#lstarHigh) return false;
    if ((view.getUint32(at + FRAME_CS * 4, true) & 3) !== 3) return false;
    this.#load(
      view.getUint32(at + FRAME_RFLAGS * 4, true),
      view.getUint32(at + FRAME_RSP * 4, true),
      view.getUint32(at + FRAME_RSP * 4 + 4, true),
    );
    return true;
  }

  #enterFromSplitFrame(): boolean {
    const rsp = this.#view.getBigUint64(WORD.rsp * 4, true);
    const bytes = readLinear(this.memory, this.registers, rsp, FRAME_BYTES);
    if (bytes.length < FRAME_BYTES) return false;
    const words = new Uint32Array(bytes.slice().buffer);
    if (words[FRAME_RIP] !== this.#lstarLow || words[FRAME_RIP + 1] !== this.#lstarHigh) return false;
    if (((words[FRAME_CS] as number) & 3) !== 3) return false;
    this.#load(words[FRAME_RFLAGS] as number, words[FRAME_RSP] as number, words[FRAME_RSP + 1] as number);
    return true;
  }

  #load(rflags: number, rspLow: number, rspHigh: number): void {
    const words = this.#words;
    const { cs, ss } = (this.#segments ??= this.#readStar());
    words[WORD.rip] = this.#lstarLow;
    words[WORD.rip + 1] = this.#lstarHigh;
    words[WORD.rsp] = rspLow;
    words[WORD.rsp + 1] = rspHigh;
    // The fault set RF in its frame; `syscall` itself clears it.
    words[WORD.rflags] = rflags & ~RFLAGS_RF & ~this.#flagMask;
    this.registers.touchRegs();
    this.registers.loadSegments(cs, ss);
  }

  /** The kernel's CS from STAR[47:32], and its SS, the descriptor behind it. */
  #readStar(): { readonly cs: Uint32Array; readonly ss: Uint32Array } {
    let selector = 0;
    for (const { index, data } of this.vcpu.getMsrs([MSR_STAR, MSR_SYSCALL_MASK])) {
      if (index === MSR_STAR) selector = Number((data >> 32n) & 0xfffcn);
      else this.#flagMask = Number(data & 0xffff_ffffn);
    }
    return { cs: syscallSegment('cs', selector), ss: syscallSegment('ss', selector + 8) };
  }

  #stepOver(): void {
    const words = this.#words;
    const code = this.#translate(words[WORD.rip] as number, words[WORD.rip + 1] as number);
    const region = code < 0 ? undefined : this.memory.regionOf(code, 4);
    const isInPage = region !== undefined && (code & 0xfff) <= 4096 - 4;
    const first = isInPage ? region.view.getUint32(code - region.base, true) : 0;
    if (first !== this.#lastFirst) {
      this.#lastFirst = first;
      this.#lastStep = stepRow(first);
    }
    const step = isInPage ? this.#lastStep : undefined;
    if (step === undefined) {
      this.#isStepping = true;
      this.guestDebug.request('syscall-remedy', { singleStep: true });
      return;
    }
    const rip = (words[WORD.rip] as number) + step.length;
    words[WORD.rip] = rip;
    if (rip > 0xffff_ffff) words[WORD.rip + 1] = (words[WORD.rip + 1] as number) + 1;
    words[WORD.rflags] = ((words[WORD.rflags] as number) & ~step.clear) | step.set;
    this.registers.touchRegs();
  }

  #stepped(): SyscallRemedyResult {
    if ((this.#view.getUint32(KVM_RUN_OFFSET.debug.arch.dr6, true) & DR6_SINGLE_STEP) === 0) return 'foreign';
    this.#isStepping = false;
    this.#arm();
    return this.guestDebug.wantsSingleStep('debugger') ? 'foreign' : 'stepped';
  }

  #translate(low: number, high: number): number {
    const words = this.#words;
    const isLa57 = ((words[WORD.cr4] as number) & CR4_LA57) !== 0;
    return translateLong(this.memory, isLa57, words[WORD.cr3] as number, words[WORD.cr3 + 1] as number, low, high);
  }
}

interface GateRegisters extends PagingRegisters {
  readonly idtBase: bigint;
  readonly idtLimit: number;
}

/** The offset in IDT entry 14. A kernel must have its #PF gate in place when it writes LSTAR, as Linux does. */
function pageFaultHandler(memory: GuestMemory, registers: GateRegisters): bigint | undefined {
  if (registers.idtLimit < (PAGE_FAULT + 1) * GATE_SIZE - 1) return undefined;
  const gate = readLinear(memory, registers, registers.idtBase + BigInt(PAGE_FAULT * GATE_SIZE), GATE_SIZE);
  if (gate.length < GATE_SIZE || ((gate[5] as number) & 0x80) === 0) return undefined;
  const view = new DataView(gate.buffer, gate.byteOffset, GATE_SIZE);
  const low = BigInt(view.getUint16(0, true)) | (BigInt(view.getUint16(6, true)) << 16n);
  return low | (BigInt(view.getUint32(8, true)) << 32n);
}
