// A vCPU and its run loop: KVM_RUN, one table of exits, and the buses that serve them. Plain and synchronous: a lesson
// calls run() inline, a machine calls it inside a worker. KVM API 4.10 (KVM_RUN) and 5 (struct kvm_run).
import {
  KVM_EXIT_DEBUG,
  KVM_EXIT_FAIL_ENTRY,
  KVM_EXIT_HLT,
  KVM_EXIT_INTERNAL_ERROR,
  KVM_EXIT_INTR,
  KVM_EXIT_IO,
  KVM_EXIT_MMIO,
  KVM_EXIT_SHUTDOWN,
  KVM_EXIT_SYSTEM_EVENT,
  KVM_EXIT_X86_WRMSR,
  KVM_INTERNAL_ERROR_EMULATION,
} from '../kvm/abi.js';
import { COALESCED_RING_OFFSET, KVM_RUN_OFFSET as AT } from '../kvm/kvm-run.js';
import { KvmError } from '../kvm/errors.js';
import type { VcpuFd } from '../kvm/vcpu-fd.js';
import type { CoalescedRing } from './coalesced-ring.js';
import type { ExitAssist, ExitBus, MmioExitBus } from './exit-bus.js';
import type { ExitStatistics } from './observe/statistics.js';
import { TraceRecorder } from './observe/trace.js';
import type { VcpuStop } from './stop.js';

const EINTR = 4;
const EAGAIN = 11;
const KVM_EXIT_IO_OUT = 1;
/** Words of the mapping. */
const REASON = AT.exit_reason >> 2;
const RING_FIRST = COALESCED_RING_OFFSET.first >> 2;
const RING_LAST = COALESCED_RING_OFFSET.last >> 2;
const PENDING: VcpuStop = { kind: 'pending' };

/** Handles one exit reason. Undefined: the guest goes on. */
export type ExitHandler = () => VcpuStop | undefined;

export interface VcpuOptions {
  readonly fd: VcpuFd;
  /** Serves port accesses. */
  readonly pio: ExitBus;
  /** Serves MMIO accesses. */
  readonly mmio: MmioExitBus;
  readonly statistics?: ExitStatistics;
  /** allocateTrace(): each exit leaves a record there. Without it nothing is traced. */
  readonly trace?: SharedArrayBuffer;
  /** The remedies this host needs; absent where it needs none. */
  readonly assist?: ExitAssist;
  /** Drained before every dispatch. */
  readonly coalesced?: CoalescedRing;
  /** A shared word: the run ends with `pending` once an exit's handling left it nonzero. */
  readonly pending?: Int32Array;
  /** Handlers by exit reason, ahead of the built-in ones. They may read and write `fd.run`. */
  readonly exits?: Readonly<Record<number, ExitHandler>>;
}

export class Vcpu {
  readonly fd: VcpuFd;
  readonly statistics: ExitStatistics | undefined;
  readonly #pio: ExitBus;
  readonly #mmio: MmioExitBus;
  readonly #coalesced: CoalescedRing | undefined;
  readonly #trace: TraceRecorder | undefined;
  readonly #pending: Int32Array;
  readonly #handlers: readonly (ExitHandler | undefined)[];
  // Views of one mapping, made once: an exit allocates nothing. The usual exits need the words only.
  readonly #words: Int32Array;
  readonly #u8: Uint8Array;
  readonly #view: DataView;

  constructor(options: VcpuOptions) {
    const { fd } = options;
    this.fd = fd;
    this.statistics = options.statistics;
    this.#pio = options.pio;
    this.#mmio = options.mmio;
    this.#coalesced = options.coalesced;
    this.#trace = options.trace && new TraceRecorder(options.trace, fd);
    this.#pending = options.pending ?? new Int32Array(1);
    this.#words = fd.run.i32;
    this.#u8 = fd.run.u8;
    this.#view = fd.run.view;
    this.#handlers = this.#table(options);
  }

  /**
   * Runs the guest until something ends it.
   * @throws KvmError when KVM_RUN itself fails (not for EINTR and EAGAIN, which are part of its working)
   */
  run(): VcpuStop {
    const { enter, stamps } = this.fd;
    const words = this.#words;
    const pending = this.#pending;
    const statistics = this.statistics;
    const coalesced = this.#coalesced;
    const trace = this.#trace;
    for (;;) {
      enter();
      if (statistics !== undefined) statistics.entered(stamps[0] as number, stamps[1] as number);
      if (coalesced !== undefined && words[RING_FIRST] !== words[RING_LAST]) coalesced.drain();
      const reason = words[REASON] as number;
      if (trace !== undefined) trace.exited();
      if (reason === KVM_EXIT_IO) this.#serveIo();
      else if (reason === KVM_EXIT_MMIO) this.#serveMmio();
      else {
        const stop = this.#serveOther(reason);
        if (stop !== undefined) return stop;
      }
      if (trace !== undefined) trace.served();
      if (pending[0] !== 0) return PENDING;
    }
  }

  /**
   * Completes a port or MMIO access that user space has served but KVM has not yet given to the guest, so that the
   * registers can be read from outside. KVM API 5: "the kernel will complete the operation only after re-entering".
   * An access of several parts (`rep outs`, MMIO across a page's end) has its other parts served as well.
   * @returns why the guest cannot go on, when that came out
   */
  completePending(): VcpuStop | undefined {
    const immediateExit = this.#u8;
    for (;;) {
      immediateExit[AT.immediate_exit] = 1;
      this.fd.enter();
      immediateExit[AT.immediate_exit] = 0;
      this.#coalesced?.drain();
      if (this.fd.lastErrno[0] !== 0) return undefined;
      const reason = this.#words[REASON] as number;
      const stop = this.#serve(reason);
      if (stop !== undefined) return stop;
    }
  }

  #serve(reason: number): VcpuStop | undefined {
    if (reason === KVM_EXIT_IO) this.#serveIo();
    else if (reason === KVM_EXIT_MMIO) this.#serveMmio();
    else return this.#serveOther(reason);
    return this.#pending[0] === 0 ? undefined : PENDING;
  }

  #serveOther(reason: number): VcpuStop | undefined {
    if (this.fd.lastErrno[0] !== 0) return this.#interrupted(this.fd.lastErrno[0] as number);
    if (this.statistics !== undefined) this.statistics.reason(reason);
    const handler = this.#handlers[reason];
    return handler === undefined ? { kind: 'unknown-exit', reason } : handler();
  }

  // A stop for a kick. The order matters: immediate_exit is cleared first and the kicker's request looked at afterwards
  // (by our caller), so that a kick between the two ends the next KVM_RUN at once instead of getting lost.
  #interrupted(errno: number): VcpuStop | undefined {
    if (errno !== EINTR && errno !== EAGAIN) throw new KvmError('KVM_RUN', errno, `vCPU ${this.fd.id}`);
    this.statistics?.interrupted();
    if (this.#u8[AT.immediate_exit] === 0) return undefined;
    this.#u8[AT.immediate_exit] = 0;
    return { kind: 'kicked' };
  }

  // Direction, size and port are one word, and the data of one access another: fewer loads, all from one view.
  #serveIo(): void {
    const words = this.#words;
    const access = words[AT.io.direction >> 2] as number;
    const direction = access & 0xff;
    const size = (access >> 8) & 0xff;
    const port = access >>> 16;
    if (this.statistics !== undefined) this.statistics.port(port, direction);
    const data = (words[AT.io.data_offset >> 2] as number) >> 2;
    if (words[AT.io.count >> 2] !== 1) this.#serveString(port, size, direction);
    else if (direction === KVM_EXIT_IO_OUT) this.#pio.write(port, size, words[data] as number);
    // What KVM does not ask for lies behind what it does: the page holds one access's data only.
    else words[data] = this.#pio.read(port, size);
  }

  // `rep ins` and `rep outs` come as one exit with a count: the port stays, the data advances.
  #serveString(port: number, size: number, direction: number): void {
    const bus = this.#pio;
    const view = this.#view;
    const from = this.#words[AT.io.data_offset >> 2] as number;
    const end = from + (this.#words[AT.io.count >> 2] as number) * size;
    for (let at = from; at < end; at += size) {
      if (direction === KVM_EXIT_IO_OUT) bus.write(port, size, readLittleEndian(view, at, size));
      else writeLittleEndian(view, at, size, bus.read(port, size));
    }
  }

  #serveMmio(): void {
    const words = this.#words;
    const low = words[AT.mmio.phys_addr >> 2] as number;
    const length = words[AT.mmio.len >> 2] as number;
    const isWrite = (words[AT.mmio.is_write >> 2] as number) & 0xff;
    if (words[(AT.mmio.phys_addr >> 2) + 1] !== 0 || length === 3 || length > 4) this.#serveMmioPieces();
    else {
      if (this.statistics !== undefined) this.statistics.lowMmio(low, isWrite);
      if (isWrite !== 0) this.#mmio.writeLow(low, length, words[AT.mmio.data >> 2] as number);
      else words[AT.mmio.data >> 2] = this.#mmio.readLow(low, length);
    }
  }

  // Devices see 1, 2 and 4 bytes. Eight are two halves of four; an access that KVM cut at a page's end has any length.
  #serveMmioPieces(): void {
    const view = this.#view;
    const high = view.getUint32(AT.mmio.phys_addr + 4, true);
    const address = view.getUint32(AT.mmio.phys_addr, true) + high * 0x1_0000_0000;
    const length = view.getUint32(AT.mmio.len, true);
    const isWrite = view.getUint8(AT.mmio.is_write);
    this.statistics?.mmio(address, isWrite);
    const bus = this.#mmio;
    let at = 0;
    while (at < length && at < 8) {
      const left = length - at;
      const size = left >= 4 ? 4 : left >= 2 ? 2 : 1;
      const offset = AT.mmio.data + at;
      if (isWrite !== 0) bus.write(address + at, size, readLittleEndian(view, offset, size));
      else writeLittleEndian(view, offset, size, bus.read(address + at, size));
      at += size;
    }
  }

  #table(options: VcpuOptions): readonly (ExitHandler | undefined)[] {
    const view = this.#view;
    const assist = options.assist;
    const assisted = (remedy: (() => boolean) | undefined, otherwise: ExitHandler): ExitHandler =>
      remedy === undefined ? otherwise : () => (remedy() ? undefined : otherwise());
    const rows: Readonly<Record<number, ExitHandler>> = {
      [KVM_EXIT_INTR]: () => undefined,
      [KVM_EXIT_HLT]: () => ({ kind: 'hlt' }),
      [KVM_EXIT_SHUTDOWN]: () => ({ kind: 'shutdown' }),
      [KVM_EXIT_SYSTEM_EVENT]: () => ({
        kind: 'system-event',
        type: view.getUint32(AT.system_event.type, true),
      }),
      [KVM_EXIT_FAIL_ENTRY]: () => ({
        kind: 'fail-entry',
        hardwareReason: view.getBigUint64(AT.fail_entry.hardware_entry_failure_reason, true),
      }),
      [KVM_EXIT_DEBUG]: assisted(assist && (() => assist.debug()), () => ({
        kind: 'debug',
        exception: view.getUint32(AT.debug.arch.exception, true),
        pc: view.getBigUint64(AT.debug.arch.pc, true),
        dr6: view.getBigUint64(AT.debug.arch.dr6, true),
      })),
      [KVM_EXIT_X86_WRMSR]: assisted(assist && (() => assist.wrmsr()), () => ({
        kind: 'unknown-exit',
        reason: KVM_EXIT_X86_WRMSR,
      })),
      [KVM_EXIT_INTERNAL_ERROR]: assisted(
        assist && (() => this.#suberror() === KVM_INTERNAL_ERROR_EMULATION && assist.emulationFailure()),
        () => ({ kind: 'internal-error', suberror: this.#suberror(), bytes: this.#instructionBytes() }),
      ),
      ...options.exits,
    };
    const table = Array.from<ExitHandler | undefined>({ length: 64 });
    for (const [reason, handler] of Object.entries(rows)) table[Number(reason)] = handler;
    return table;
  }

  #suberror(): number {
    return this.#view.getUint32(AT.internal.suberror, true);
  }

  #instructionBytes(): readonly number[] {
    const ndata = this.#view.getUint32(AT.internal.ndata, true);
    const flags = this.#view.getUint32(AT.emulation_failure.flags, true);
    // KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES; with fewer data words the flags are not there at all.
    if (this.#suberror() !== KVM_INTERNAL_ERROR_EMULATION || ndata < 3 || (flags & 1) === 0) return [];
    const size = Math.min(this.#u8[AT.emulation_failure.insn_size] as number, 15);
    const start = AT.emulation_failure.insn_bytes;
    return [...this.#u8.subarray(start, start + size)];
  }
}

function readLittleEndian(view: DataView, offset: number, size: number): number {
  if (size === 4) return view.getUint32(offset, true);
  return size === 2 ? view.getUint16(offset, true) : view.getUint8(offset);
}

function writeLittleEndian(view: DataView, offset: number, size: number, value: number): void {
  if (size === 4) view.setUint32(offset, value, true);
  else if (size === 2) view.setUint16(offset, value, true);
  else view.setUint8(offset, value);
}
