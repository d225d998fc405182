// The owner's handle of one vCPU thread: starts it, commands it, asks it about registers, and notices its end.
import { readFileSync } from 'node:fs';
import type { Worker } from 'node:worker_threads';
import { kick } from '../kvm/kick.js';
import type { VcpuCallArguments, VcpuCallName, VcpuCallResult } from '../vcpu/calls.js';
import type { DebugEvent } from '../vcpu/debugger.js';
import { COMMAND, COMMAND_BITS, CONTROL, CONTROL_WORDS } from '../vcpu/control.js';
import type { FromWorker, VcpuWorkerData } from '../vcpu/worker-protocol.js';
import { startVcpuWorker, type VcpuPool } from './vcpu-pool.js';

/** How a vCPU thread ended: by a stop of the run loop, or by an error of the thread itself. */
export type VcpuEnd =
  | Extract<FromWorker, { type: 'stopped' }>
  | { readonly type: 'crashed'; readonly message: string; readonly code: string | undefined };

type Command = (typeof COMMAND)[keyof typeof COMMAND];

interface PendingCall {
  resolve(value: unknown): void;
  reject(error: Error): void;
}

/** Node joins all threads when the process exits, and one that is inside KVM_RUN hears of it only by a kick. */
const living = new Set<VcpuThread>();
function stopAll(): void {
  for (const thread of living) thread.stop(false);
}

export class VcpuThread {
  /** Resolves when the thread has said why it ended; the thread itself is joined by `joined`. */
  readonly ended: Promise<VcpuEnd>;
  /** Resolves when the operating system's thread is gone. */
  readonly joined: Promise<void>;
  /** Called when the vCPU waits for the debugger: it is parked then, and goes on with `run`. */
  onDebugStop: ((event: DebugEvent) => void) | undefined;
  readonly #worker: Worker;
  readonly #control: Int32Array;
  readonly #ready: Promise<void>;
  readonly #calls = new Map<number, PendingCall>();
  #parked: (() => void)[] = [];
  #isParked = true;
  /** Told to stop: nothing else counts any more. */
  #isStopping = false;
  #hasEnded = false;
  #token: number | undefined;
  #threadId: number | undefined;
  #nextCall = 0;

  /**
   * @param threads where a thread may wait already
   * @param entry the first module of a thread that does not, which calls runVcpuThread
   */
  constructor(data: Omit<VcpuWorkerData, 'control'>, threads?: VcpuPool, entry?: URL) {
    const control = new SharedArrayBuffer(CONTROL_WORDS * 4);
    this.#control = new Int32Array(control);
    const whole: VcpuWorkerData = { ...data, control };
    const waiting = threads?.take();
    waiting?.postMessage(whole);
    this.#worker = waiting ?? startVcpuWorker(`vCPU ${data.index}`, whole, entry);
    let isReady: () => void;
    let failed: (error: Error) => void;
    this.#ready = new Promise((resolve, reject) => {
      isReady = resolve;
      failed = reject;
    });
    // Whoever waits for readiness hears of the failure; nobody else needs to.
    this.#ready.catch(() => undefined);
    if (living.size === 0) process.once('exit', stopAll);
    living.add(this);
    this.joined = new Promise((resolve) =>
      this.#worker.once('exit', () => {
        living.delete(this);
        if (living.size === 0) process.removeListener('exit', stopAll);
        resolve();
      }),
    );
    this.ended = new Promise((resolve) => {
      this.#worker.on('message', (message: FromWorker) => {
        if (message.type === 'ready') {
          this.#token = message.token;
          this.#threadId = message.threadId;
          isReady();
        } else if (message.type === 'parked') this.#park(message.command);
        else if (message.type === 'debug-stop') {
          this.#park(message.command);
          // A debugger that has gone since would leave it standing there.
          if (this.onDebugStop !== undefined) this.onDebugStop(message.event);
          else if (this.#isParked) this.run();
        } else if (message.type === 'answer') this.#answer(message);
        else if (message.type === 'stopped') this.#end(() => resolve(message));
      });
      const crash = (message: string, code?: string): void => {
        failed(new Error(message));
        this.#end(() => resolve({ type: 'crashed', message, code }));
      };
      this.#worker.once('error', (error: NodeJS.ErrnoException) => crash(error.message, error.code));
      this.#worker.once('exit', () => crash('the vCPU thread ended without a word'));
    });
  }

  /** Resolves when the vCPU exists and is parked; rejects when its thread failed before. */
  get ready(): Promise<void> {
    return this.#ready;
  }

  /** @param isToExit until one exit has been served: onDebugStop says so */
  run(isToExit = false): void {
    if (this.#isStopping) return;
    this.#isParked = false;
    this.#command(isToExit ? COMMAND.RUN_TO_EXIT : COMMAND.RUN);
  }

  /** Resolves when the vCPU is parked (or its thread has ended). */
  async park(): Promise<void> {
    if (this.#isParked || this.#hasEnded) return;
    const parked = new Promise<void>((resolve) => this.#parked.push(resolve));
    if (!this.#isStopping) this.#command(COMMAND.PARK);
    await parked;
  }

  /** @param capture whether the thread is to hand over its registers with its end */
  stop(capture: boolean): void {
    this.#isStopping = true;
    this.#command(capture ? COMMAND.STOP_AND_CAPTURE : COMMAND.STOP);
  }

  /** Stops it and waits until it is gone: for a machine that never came to be. */
  discard(): Promise<void> {
    this.stop(false);
    return this.joined;
  }

  /** Asks the running vCPU for its liveness, which `liveness` shows once `probes` has grown. */
  probe(): void {
    Atomics.store(this.#control, CONTROL.PROBE, 1);
    if (this.#token !== undefined) kick(this.#token);
  }

  /** Processor time of the thread in nanoseconds; 0 before it is ready and once it is gone. */
  get cpuNanoseconds(): number {
    try {
      // proc(5), schedstat: time on the processor, time waiting for one, timeslices.
      return Number(readFileSync(`/proc/self/task/${this.#threadId}/schedstat`, 'latin1').split(' ')[0]);
    } catch {
      return 0;
    }
  }

  /** The thread runs, or would if it had a processor; false once it is gone. */
  get isRunnable(): boolean {
    try {
      // proc(5), stat: the state comes after the name, which may have anything in it.
      const stat = readFileSync(`/proc/self/task/${this.#threadId}/stat`, 'latin1');
      return stat.startsWith(' R', stat.lastIndexOf(')') + 1);
    } catch {
      return false;
    }
  }

  get probes(): number {
    return Atomics.load(this.#control, CONTROL.PROBES);
  }

  get liveness(): number {
    return Atomics.load(this.#control, CONTROL.LIVENESS);
  }

  /**
   * Asks the parked vCPU; see VCPU_CALLS for the rows.
   * @throws Error when the vCPU runs (pause the machine first), has ended, or the call failed
   */
  call<N extends VcpuCallName>(call: N, ...[argument]: VcpuCallArguments<N>): Promise<VcpuCallResult<N>> {
    if (this.#hasEnded) return Promise.reject(new Error(`${call}: the vCPU thread has ended`));
    if (!this.#isParked) return Promise.reject(new Error(`${call}: the vCPU is running; pause the machine first`));
    const id = this.#nextCall++;
    const answer = new Promise<unknown>((resolve, reject) => this.#calls.set(id, { resolve, reject }));
    this.#worker.postMessage({ id, call, argument });
    this.#ring();
    return answer as Promise<VcpuCallResult<N>>;
  }

  #command(command: Command): void {
    const sequence = (Atomics.load(this.#control, CONTROL.COMMAND) >>> COMMAND_BITS) + 1;
    Atomics.store(this.#control, CONTROL.COMMAND, (sequence << COMMAND_BITS) | command);
    this.#ring();
    // After the command: the worker clears immediate_exit first and reads the command then.
    if (this.#token !== undefined) kick(this.#token);
  }

  #ring(): void {
    Atomics.add(this.#control, CONTROL.DOORBELL, 1);
    Atomics.notify(this.#control, CONTROL.DOORBELL);
  }

  #park(command: number): void {
    // An answer to an earlier command says nothing about the present one.
    if (Atomics.load(this.#control, CONTROL.COMMAND) !== command) return;
    this.#isParked = true;
    const waiting = this.#parked;
    this.#parked = [];
    for (const resolve of waiting) resolve();
  }

  #answer({ id, value, error }: Extract<FromWorker, { type: 'answer' }>): void {
    const call = this.#calls.get(id);
    this.#calls.delete(id);
    if (error === undefined) call?.resolve(value);
    else call?.reject(new Error(error));
  }

  #end(say: () => void): void {
    say();
    this.#hasEnded = true;
    for (const resolve of this.#parked) resolve();
    this.#parked = [];
    for (const call of this.#calls.values()) call.reject(new Error('the vCPU thread has ended'));
    this.#calls.clear();
  }
}
