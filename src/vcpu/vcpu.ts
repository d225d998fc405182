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
import { KVM_RUN_OFFSET as AT } from '../kvm/kvm-run.js';
import { KvmError } from '../kvm/errors.js';
import type { VcpuFd } from '../kvm/vcpu-fd.js';
import type { CoalescedRing } from './coalesced-ring.js';
import type { ExitAssist, ExitBus } from './exit-bus.js';
import type { ExitStatistics } from './observe/statistics.js';
import type { VcpuStop } from './stop.js';

const EINTR = 4;
const EAGAIN = 11;

/** Handles one exit reason. Undefined: the guest goes on. */
export type ExitHandler = () => VcpuStop | undefined;

export interface VcpuOptions {
  readonly fd: VcpuFd;
  /** Serves port accesses. */
  readonly pio: ExitBus;
  /** Serves MMIO accesses. */
  readonly mmio: ExitBus;
  readonly statistics?: ExitStatistics;
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
  readonly #mmio: ExitBus;
  readonly #coalesced: CoalescedRing | undefined;
  readonly #pending: Int32Array;
  readonly #handlers: readonly (ExitHandler | undefined)[];
  // One view per width over the same mapping, made once: an exit allocates nothing.
  readonly #u8: Uint8Array;
  readonly #u16: Uint16Array;
  readonly #u32: Uint32Array;
  readonly #view: DataView;

  constructor(options: VcpuOptions) {
    const { fd } = options;
    this.fd = fd;
    this.statistics = options.statistics;
    this.#pio = options.pio;
    this.#mmio = options.mmio;
    this.#coalesced = options.coalesced;
    this.#pending = options.pending ?? new Int32Array(1);
    this.#u8 = fd.run.u8;
    this.#u16 = fd.run.u16;
    this.#u32 = fd.run.u32;
    this.#view = fd.run.view;
    this.#handlers = this.#table(options);
  }

  /**
   * Runs the guest until something ends it.
   * @throws KvmError when KVM_RUN itself fails (not for EINTR and EAGAIN, which are part of its working)
   */
  run(): VcpuStop {
    const { enter, lastErrno, stamps } = this.fd;
    const u32 = this.#u32;
    const pending = this.#pending;
    const statistics = this.statistics;
    const coalesced = this.#coalesced;
    const handlers = this.#handlers;
    for (;;) {
      enter();
      if (statistics !== undefined) statistics.entered(stamps[0] as number, stamps[1] as number);
      if (coalesced !== undefined) coalesced.drain();
      if (lastErrno[0] !== 0) {
        if (this.#interrupted(lastErrno[0] as number)) return { kind: 'kicked' };
        continue;
      }
      const reason = u32[AT.exit_reason >> 2] as number;
      if (reason === KVM_EXIT_IO) this.#serveIo();
      else if (reason === KVM_EXIT_MMIO) this.#serveMmio();
      else {
        if (statistics !== undefined) statistics.reason(reason);
        const handler = handlers[reason];
        if (handler === undefined) return { kind: 'unknown-exit', reason };
        const stop = handler();
        if (stop !== undefined) return stop;
      }
      if (pending[0] !== 0) return { kind: 'pending' };
    }
  }

  /**
   * Completes a port or MMIO access that user space has served but KVM has not yet given to the guest, so that the
   * registers can be read from outside. KVM API 5: "the kernel will complete the operation only after re-entering".
   */
  completePending(): void {
    const immediateExit = this.#u8;
    immediateExit[AT.immediate_exit] = 1;
    this.fd.enter();
    immediateExit[AT.immediate_exit] = 0;
    this.#coalesced?.drain();
  }

  // True for a kick. The order matters: immediate_exit is cleared first and the kicker's request looked at afterwards
  // (by our caller), so that a kick between the two ends the next KVM_RUN at once instead of getting lost.
  #interrupted(errno: number): boolean {
    if (errno === EINTR || errno === EAGAIN) {
      this.statistics?.interrupted();
      if (this.#u8[AT.immediate_exit] === 0) return false;
      this.#u8[AT.immediate_exit] = 0;
      return true;
    }
    throw new KvmError('KVM_RUN', errno, `vCPU ${this.fd.id}`);
  }

  #serveIo(): void {
    const u8 = this.#u8;
    const direction = u8[AT.io.direction] as number;
    const size = u8[AT.io.size] as number;
    const port = this.#u16[AT.io.port >> 1] as number;
    const data = this.#u32[AT.io.data_offset >> 2] as number;
    const end = data + (this.#u32[AT.io.count >> 2] as number) * size;
    if (this.statistics !== undefined) this.statistics.port(port, direction);
    // `rep ins` and `rep outs` come as one exit with a count: the port stays, the data advances.
    if (direction === 1) {
      const bus = this.#pio;
      if (size === 1) for (let at = data; at < end; at++) bus.write(port, 1, u8[at] as number);
      else if (size === 2) for (let at = data; at < end; at += 2) bus.write(port, 2, this.#u16[at >> 1] as number);
      else for (let at = data; at < end; at += 4) bus.write(port, 4, this.#u32[at >> 2] as number);
    } else {
      const bus = this.#pio;
      if (size === 1) for (let at = data; at < end; at++) u8[at] = bus.read(port, 1);
      else if (size === 2) for (let at = data; at < end; at += 2) this.#u16[at >> 1] = bus.read(port, 2);
      else for (let at = data; at < end; at += 4) this.#u32[at >> 2] = bus.read(port, 4);
    }
  }

  #serveMmio(): void {
    const u32 = this.#u32;
    const low = u32[AT.mmio.phys_addr >> 2] as number;
    const address = low + (u32[(AT.mmio.phys_addr >> 2) + 1] as number) * 0x1_0000_0000;
    const length = u32[AT.mmio.len >> 2] as number;
    const isWrite = this.#u8[AT.mmio.is_write] as number;
    if (this.statistics !== undefined) this.statistics.mmio(address, isWrite);
    if (length === 4) {
      if (isWrite !== 0) this.#mmio.write(address, 4, u32[AT.mmio.data >> 2] as number);
      else u32[AT.mmio.data >> 2] = this.#mmio.read(address, 4);
    } else this.#serveMmioPieces(address, length, isWrite);
  }

  // Devices see 1, 2 and 4 bytes. Eight are two halves of four; an access that KVM cut at a page's end has any length.
  #serveMmioPieces(address: number, length: number, isWrite: number): void {
    const view = this.#view;
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
