// One vCPU: KVM_RUN, the shared page that describes its exits, and all of its registers.
// KVM API chapter 4, the calls of type "vcpu ioctl"; chapter 5.
import * as abi from './abi.js';
import { encodeEnableCap, unsigned32 } from './arguments.js';
import {
  decodeCpuid,
  decodeMsrs,
  emptyCpuid,
  encodeCpuid,
  encodeMsrs,
  type CpuidEntry,
  type MsrEntry,
} from './entries.js';
import { checked, KvmError } from './errors.js';
import { Ioctls } from './ioctls.js';
import type { KickToken } from './kick.js';
import { loadNative, type Native, type NativeVcpu } from './native.js';
import {
  decodeDebugRegs,
  decodeSregs,
  decodeVcpuEvents,
  decodeXcrs,
  encodeDebugRegs,
  encodeSregs,
  encodeVcpuEvents,
  encodeXcrs,
  type DebugRegs,
  type Fpu,
  type PartialSregs,
  type Regs,
  type Sregs,
  type VcpuEvents,
  type Xcr,
} from './registers.js';

/** Views of the whole mapping, made once. u16, u32 … are indexed by element: offset / 2, offset / 4 … */
export interface RunViews {
  readonly u8: Uint8Array;
  readonly u16: Uint16Array;
  readonly u32: Uint32Array;
  readonly i32: Int32Array;
  readonly f64: Float64Array;
  readonly u64: BigUint64Array;
  readonly view: DataView;
}

export interface Translation {
  /** GPA; meaningful when `valid`. */
  readonly physicalAddress: bigint;
  readonly valid: boolean;
  readonly writeable: boolean;
  readonly usermode: boolean;
}

/** A vCPU. It lives on the thread that created it; on another one only kick() reaches it. */
export class VcpuFd {
  /**
   * KVM_RUN (KVM API 4.10): runs the guest until it exits. No argument, no result, nothing allocated; afterwards
   * `lastErrno[0]` is 0, EINTR after a kick, or another errno, and `stamps` hold the time. On a closed vCPU: EBADF.
   */
  readonly enter: () => void;
  /** One element: 0, or errno of the last KVM_RUN. */
  readonly lastErrno: Int32Array;
  /**
   * One element: how many calls of enter() take no stamps, for these take longer than the rest. It counts down; below 0,
   * as it is at first, each call takes them, and a call that took them leaves it below 0.
   */
  readonly untimed: Int32Array;
  /** TSC in cycles since the process's first vCPU was created: [0] at entry to the ioctl, [1] on return. */
  readonly stamps: Float64Array;
  /** struct kvm_run, the page of port data and the coalesced ring; detached when the vCPU is closed. */
  readonly runBuffer: ArrayBuffer;
  readonly run: RunViews;
  readonly #vcpu: Pick<NativeVcpu, 'place' | 'handle'>;
  readonly #native: Native = loadNative();
  readonly #ioctls: Ioctls<'vcpu'>;

  private constructor(
    readonly id: number,
    { handle, place, runBuffer, status }: NativeVcpu,
  ) {
    this.#ioctls = new Ioctls(handle, `vCPU ${id}`);
    const { enter } = this.#native;
    // Who has the function has the handle with it, and the place is nobody else's.
    const vcpu = { place, handle };
    this.enter = () => enter(vcpu.place);
    this.#vcpu = vcpu;
    this.lastErrno = new Int32Array(status, 0, 1);
    this.untimed = new Int32Array(status, 4, 1);
    this.stamps = new Float64Array(status, 8, 2);
    this.runBuffer = runBuffer;
    this.run = {
      u8: new Uint8Array(runBuffer),
      u16: new Uint16Array(runBuffer),
      u32: new Uint32Array(runBuffer),
      i32: new Int32Array(runBuffer),
      f64: new Float64Array(runBuffer),
      u64: new BigUint64Array(runBuffer),
      view: new DataView(runBuffer),
    };
  }

  /** For VmFd. */
  static fromNative(id: number, native: NativeVcpu): VcpuFd {
    return new VcpuFd(id, native);
  }

  /**
   * Another `enter`, after which the exit is also a record in a ring of shared memory: native/trace.h, read by TraceReader.
   * The stamps in the records are those of `stamps`. The last ring given is the one that is written.
   * @param ring 64 bytes, and 64 for each of its records: a power of two, 2 or more
   * @throws KvmError for another size, Error when the vCPU is closed
   */
  traced(ring: SharedArrayBuffer): () => void {
    const { enterTraced } = this.#native;
    const vcpu = this.#vcpu;
    checked(this.#native.setTrace(vcpu.handle, new Uint8Array(ring)), 'the trace', this.#ioctls.name);
    return () => enterTraced(vcpu.place);
  }

  /** KVM API 4.11. */
  getRegs(): Regs {
    return abi.kvmRegs.decode(this.#ioctls.filled('KVM_GET_REGS', abi.KVM_GET_REGS, abi.kvmRegs.size));
  }

  /** KVM API 4.12. Registers not given keep their values. */
  setRegs(regs: Partial<Regs>): void {
    const bytes = this.#ioctls.filled('KVM_GET_REGS', abi.KVM_GET_REGS, abi.kvmRegs.size);
    this.#ioctls.buffer('KVM_SET_REGS', abi.KVM_SET_REGS, abi.kvmRegs.encode(regs, bytes));
  }

  /** KVM API 4.13. */
  getSregs(): Sregs {
    return decodeSregs(this.#ioctls.filled('KVM_GET_SREGS', abi.KVM_GET_SREGS, abi.kvmSregs.size));
  }

  /** KVM API 4.14. Registers, and fields of segments, that are not given keep their values. */
  setSregs(sregs: PartialSregs): void {
    const bytes = this.#ioctls.filled('KVM_GET_SREGS', abi.KVM_GET_SREGS, abi.kvmSregs.size);
    this.#ioctls.buffer('KVM_SET_SREGS', abi.KVM_SET_SREGS, encodeSregs(sregs, bytes));
  }

  /** KVM API 4.22. The kernel leaves `mxcsr` 0 here; getXsave() has it. */
  getFpu(): Fpu {
    return abi.kvmFpu.decode(this.#ioctls.filled('KVM_GET_FPU', abi.KVM_GET_FPU, abi.kvmFpu.size));
  }

  /** KVM API 4.23. */
  setFpu(fpu: Partial<Fpu>): void {
    const bytes = this.#ioctls.filled('KVM_GET_FPU', abi.KVM_GET_FPU, abi.kvmFpu.size);
    this.#ioctls.buffer('KVM_SET_FPU', abi.KVM_SET_FPU, abi.kvmFpu.encode(fpu, bytes));
  }

  /** KVM API 4.42: the XSAVE area, 4096 bytes. */
  getXsave(): Uint8Array {
    return this.#ioctls.filled('KVM_GET_XSAVE', abi.KVM_GET_XSAVE, abi.kvmXsave.size);
  }

  /** KVM API 4.43. */
  setXsave(area: Uint8Array): void {
    this.#ioctls.buffer('KVM_SET_XSAVE', abi.KVM_SET_XSAVE, area);
  }

  /** KVM API 4.44. */
  getXcrs(): Xcr[] {
    return decodeXcrs(this.#ioctls.filled('KVM_GET_XCRS', abi.KVM_GET_XCRS, abi.kvmXcrs.size));
  }

  /** KVM API 4.45. */
  setXcrs(registers: readonly Xcr[]): void {
    this.#ioctls.buffer('KVM_SET_XCRS', abi.KVM_SET_XCRS, encodeXcrs(registers));
  }

  /** KVM API 4.18. @throws KvmError naming the first MSR that the vCPU does not have */
  getMsrs(indices: readonly number[]): MsrEntry[] {
    const bytes = encodeMsrs(indices.map((index) => ({ index, data: 0n })));
    const count = this.#ioctls.buffer('KVM_GET_MSRS', abi.KVM_GET_MSRS, bytes);
    this.#checkMsrCount('KVM_GET_MSRS', indices[count]);
    return decodeMsrs(bytes, count);
  }

  /** KVM API 4.19. Returns how many were set: all. @throws KvmError naming the first that was refused; those before are set */
  setMsrs(entries: readonly MsrEntry[]): number {
    const count = this.#ioctls.buffer('KVM_SET_MSRS', abi.KVM_SET_MSRS, encodeMsrs(entries));
    this.#checkMsrCount('KVM_SET_MSRS', entries[count]?.index);
    return count;
  }

  /** KVM API 4.57: the local APIC's registers, 1024 bytes. */
  getLapic(): Uint8Array {
    return this.#ioctls.filled('KVM_GET_LAPIC', abi.KVM_GET_LAPIC, abi.kvmLapicState.size);
  }

  /** KVM API 4.58. */
  setLapic(registers: Uint8Array): void {
    this.#ioctls.buffer('KVM_SET_LAPIC', abi.KVM_SET_LAPIC, registers);
  }

  /** KVM API 4.38: KVM_MP_STATE_*. */
  getMpState(): number {
    const bytes = this.#ioctls.filled('KVM_GET_MP_STATE', abi.KVM_GET_MP_STATE, abi.kvmMpState.size);
    return abi.kvmMpState.decode(bytes).mp_state;
  }

  /** KVM API 4.39. */
  setMpState(state: number): void {
    this.#ioctls.buffer(
      'KVM_SET_MP_STATE',
      abi.KVM_SET_MP_STATE,
      abi.kvmMpState.encode({ mp_state: unsigned32(state, 'the MP state') }),
    );
  }

  /** KVM API 4.31: exceptions, interrupts and NMIs under way. #BP and #OF, being software's, read as not injected. */
  getVcpuEvents(): VcpuEvents {
    const bytes = this.#ioctls.filled('KVM_GET_VCPU_EVENTS', abi.KVM_GET_VCPU_EVENTS, abi.kvmVcpuEvents.size);
    return decodeVcpuEvents(bytes);
  }

  /** KVM API 4.32. Members not given keep their values; `flags` says which of the optional ones count. */
  setVcpuEvents(events: Partial<VcpuEvents>): void {
    const bytes = encodeVcpuEvents({ ...this.getVcpuEvents(), ...events });
    this.#ioctls.buffer('KVM_SET_VCPU_EVENTS', abi.KVM_SET_VCPU_EVENTS, bytes);
  }

  /** KVM API 4.33. */
  getDebugRegs(): DebugRegs {
    return decodeDebugRegs(this.#ioctls.filled('KVM_GET_DEBUGREGS', abi.KVM_GET_DEBUGREGS, abi.kvmDebugregs.size));
  }

  /** KVM API 4.34. */
  setDebugRegs(registers: Partial<DebugRegs>): void {
    const bytes = encodeDebugRegs({ ...this.getDebugRegs(), ...registers });
    this.#ioctls.buffer('KVM_SET_DEBUGREGS', abi.KVM_SET_DEBUGREGS, bytes);
  }

  /** KVM API 4.20: what CPUID tells the guest. Before the first KVM_RUN. */
  setCpuid2(entries: readonly CpuidEntry[]): void {
    this.#ioctls.buffer('KVM_SET_CPUID2', abi.KVM_SET_CPUID2, encodeCpuid(entries));
  }

  /** @param max room for so many entries; E2BIG when there are more */
  getCpuid2(max = 256): CpuidEntry[] {
    const bytes = emptyCpuid(max);
    this.#ioctls.buffer('KVM_GET_CPUID2', abi.KVM_GET_CPUID2, bytes);
    return decodeCpuid(bytes);
  }

  /** KVM API 4.87. @param control KVM_GUESTDBG_*; 0 ends debugging. @param debugreg DR0 to DR7 */
  setGuestDebug({ control, debugreg = [] }: { control: number; debugreg?: readonly bigint[] }): void {
    if (debugreg.length > 8) throw new RangeError(`there are eight debug registers, not ${debugreg.length}`);
    const bytes = abi.kvmGuestDebug.encode({ control });
    const view = new DataView(bytes.buffer);
    for (const [i, value] of debugreg.entries()) view.setBigUint64(8 + i * 8, value, true);
    this.#ioctls.buffer('KVM_SET_GUEST_DEBUG', abi.KVM_SET_GUEST_DEBUG, bytes);
  }

  /** KVM API 4.15: walks the guest's page tables as they are now. */
  translate(linear: bigint): Translation {
    const bytes = abi.kvmTranslation.encode({ linear_address: linear });
    this.#ioctls.buffer('KVM_TRANSLATE', abi.KVM_TRANSLATE, bytes);
    const { physical_address, valid, writeable, usermode } = abi.kvmTranslation.decode(bytes);
    return {
      physicalAddress: physical_address,
      valid: valid !== 0,
      writeable: writeable !== 0,
      usermode: usermode !== 0,
    };
  }

  /** KVM API 4.56. */
  getTscKhz(): number {
    return this.#ioctls.integer('KVM_GET_TSC_KHZ', abi.KVM_GET_TSC_KHZ);
  }

  /** KVM API 4.55. */
  setTscKhz(khz: number): void {
    this.#ioctls.integer('KVM_SET_TSC_KHZ', abi.KVM_SET_TSC_KHZ, khz);
  }

  /**
   * Documentation/virt/kvm/devices/vcpu.rst §4: what is added to the host's TSC, modulo 2^64.
   * @throws KvmError (ENXIO before Linux 5.16)
   */
  getTscOffset(): bigint {
    return checked<bigint>(this.#native.getTscOffset(this.#ioctls.handle), 'KVM_VCPU_TSC_OFFSET', this.#ioctls.name);
  }

  /** As getTscOffset. Equal offsets keep the TSCs of a VM's vCPUs equal, where equal values written one by one need not. */
  setTscOffset(offset: bigint): void {
    checked(this.#native.setTscOffset(this.#ioctls.handle, offset), 'KVM_VCPU_TSC_OFFSET', this.#ioctls.name);
  }

  /** KVM API 4.64: queues a non-maskable interrupt. */
  nmi(): void {
    this.#ioctls.integer('KVM_NMI', abi.KVM_NMI);
  }

  /** KVM API 4.21: the signals blocked during KVM_RUN, by number; undefined for the thread's own mask. */
  setSignalMask(signals: readonly number[] | undefined): void {
    let set: Uint8Array | undefined;
    if (signals !== undefined) {
      set = new Uint8Array(8);
      for (const signal of signals) {
        if (!Number.isInteger(signal) || signal < 1 || signal > 64)
          throw new RangeError(`a signal is an integer from 1 to 64, not ${signal}`);
        const byte = (signal - 1) >> 3;
        set[byte] = (set[byte] ?? 0) | (1 << ((signal - 1) & 7));
      }
    }
    checked(this.#native.setSignalMask(this.#ioctls.handle, set), 'KVM_SET_SIGNAL_MASK', this.#ioctls.name);
  }

  /** KVM API 4.70: tells the guest that it was paused, so that its watchdogs stay quiet. EINVAL without kvmclock. */
  kvmclockCtrl(): void {
    this.#ioctls.integer('KVM_KVMCLOCK_CTRL', abi.KVM_KVMCLOCK_CTRL);
  }

  /** KVM API 4.37. */
  enableCap(cap: number, args: readonly (number | bigint)[] = [], flags = 0): void {
    this.#ioctls.buffer('KVM_ENABLE_CAP', abi.KVM_ENABLE_CAP, encodeEnableCap(cap, args, flags));
  }

  /** TSC in cycles, as in `stamps`. */
  now(): number {
    return this.#native.tsc(this.#ioctls.handle);
  }

  /** The calling thread is this vCPU's runner; with the token any thread can kick() it. The same token each time. */
  becomeRunner(): KickToken {
    return checked(this.#native.becomeRunner(this.#ioctls.handle), 'becomeRunner', this.#ioctls.name);
  }

  /** Its token is dead from here on, and its views are empty. @throws Error when it is closed already */
  close(): void {
    this.#ioctls.close();
  }

  [Symbol.dispose](): void {
    this.#ioctls.dispose();
  }

  #checkMsrCount(call: string, refused: number | undefined): void {
    if (refused !== undefined) throw new KvmError(call, EINVAL, `${this.#ioctls.name}, MSR 0x${refused.toString(16)}`);
  }
}

const EINVAL = 22;
