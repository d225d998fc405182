// A vCPU and its run loop: KVM_RUN, one table of exits, and the buses that serve them. Plain and synchronous: a lesson
// calls run() inline, a machine calls it inside a worker. KVM API 4.10 (KVM_RUN) and 5 (struct kvm_run).
import {
  KVM_EXIT_DEBUG,
  KVM_EXIT_FAIL_ENTRY,
  KVM_EXIT_HLT,
  KVM_EXIT_INTERNAL_ERROR,
  KVM_EXIT_INTR,
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
import { createExitPath, type ExitPath } from './exit-path.js';
import type { ExitCounter } from './observe/exit-counter.js';
import type { ExitStatistics } from './observe/statistics.js';
import { traceExits } from './observe/trace.js';
import type { VcpuStop } from './stop.js';

const EINTR = 4;
const EAGAIN = 11;
/** Calls of KVM_RUN without stamps when nobody wants any: as many as the word holds. */
const NEVER = 0x7fff_ffff;

/** Handles one exit reason. Undefined: the guest goes on. */
export type ExitHandler = () => VcpuStop | undefined;

export interface VcpuOptions {
  readonly fd: VcpuFd;
  /** Serves port accesses. */
  readonly pio: ExitBus;
  /** Serves MMIO accesses. */
  readonly mmio: ExitBus;
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
  readonly #nextExit: ExitPath;
  readonly #counter: ExitCounter | undefined;
  readonly #handlers: readonly (ExitHandler | undefined)[];
  readonly #u8: Uint8Array;
  readonly #view: DataView;

  constructor(options: VcpuOptions) {
    const { fd } = options;
    this.fd = fd;
    this.statistics = options.statistics;
    this.#counter = options.statistics?.counter(fd.stamps);
    this.#u8 = fd.run.u8;
    this.#view = fd.run.view;
    this.#handlers = this.#table(options);
    this.#nextExit = createExitPath({
      fd,
      enter: options.trace === undefined ? fd.enter : traceExits(options.trace, fd),
      pio: options.pio,
      mmio: options.mmio,
      counter: this.#counter,
      coalesced: options.coalesced,
      pending: options.pending ?? new Int32Array(new SharedArrayBuffer(4)),
      serveOther: (reason) => this.#serveOther(reason),
    });
  }

  /**
   * Runs the guest until something ends it.
   * @throws KvmError when KVM_RUN itself fails (not for EINTR and EAGAIN, which are part of its working)
   */
  run(): VcpuStop {
    const { fd } = this;
    const counter = this.#counter;
    const nextExit = this.#nextExit;
    fd.untimed[0] = counter === undefined ? NEVER : -1;
    counter?.started(fd.now());
    let stop: VcpuStop | undefined;
    do stop = nextExit();
    while (stop === undefined);
    counter?.stopped(fd.now());
    return stop;
  }

  /**
   * Runs the guest to its next exit, serves that, and completes it: see completePending.
   * @returns why the guest cannot go on, or was kicked; undefined once the exit was served
   * @throws as `run`
   */
  runToExit(): VcpuStop | undefined {
    const { fd } = this;
    const nextExit = this.#nextExit;
    fd.untimed[0] = this.#counter === undefined ? NEVER : -1;
    this.#counter?.started(fd.now());
    let stop: VcpuStop | undefined;
    // A KVM_RUN that a signal ended had no exit.
    do stop = nextExit();
    while (stop === undefined && fd.lastErrno[0] !== 0);
    this.#counter?.stopped(fd.now());
    return stop ?? this.completePending();
  }

  /**
   * Completes a port or MMIO access that user space has served but KVM has not yet given to the guest, so that the
   * registers can be read from outside. KVM API 5: "the kernel will complete the operation only after re-entering".
   * An access of several parts (`rep outs`, MMIO across a page's end) has its other parts served as well.
   * @returns why the guest cannot go on, when that came out
   */
  completePending(): VcpuStop | undefined {
    for (;;) {
      this.#u8[AT.immediate_exit] = 1;
      const stop = this.#nextExit();
      // There was nothing left to complete.
      if (stop?.kind === 'kicked') return undefined;
      if (stop !== undefined) return stop;
    }
  }

  #serveOther(reason: number): VcpuStop | undefined {
    if (this.fd.lastErrno[0] !== 0) return this.#interrupted(this.fd.lastErrno[0] as number);
    this.#counter?.reason(reason);
    const handler = this.#handlers[reason];
    return handler === undefined ? { kind: 'unknown-exit', reason } : handler();
  }

  // A stop for a kick. The order matters: immediate_exit is cleared first and the kicker's request looked at afterwards
  // (by our caller), so that a kick between the two ends the next KVM_RUN at once instead of getting lost.
  #interrupted(errno: number): VcpuStop | undefined {
    if (errno !== EINTR && errno !== EAGAIN) throw new KvmError('KVM_RUN', errno, `vCPU ${this.fd.id}`);
    this.#counter?.interrupted();
    if (this.#u8[AT.immediate_exit] === 0) return undefined;
    this.#u8[AT.immediate_exit] = 0;
    return { kind: 'kicked' };
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
