// Ends a guest that runs for too long: a thread that sleeps, and kicks the vCPU unless it is called off.
// Our own; a student's guest may spin without an exit, and the thread that waits for it is inside KVM_RUN then.
import { Worker } from 'node:worker_threads';
import type { VcpuFd } from 'microvisor';

/** What both threads share. */
export interface WatchdogCells {
  /** One word, which changes when a guest starts and when it ends; odd while one runs. */
  readonly sequence: Int32Array<SharedArrayBuffer>;
  /** The vCPU's kick token, and the limit in milliseconds. */
  readonly order: Float64Array<SharedArrayBuffer>;
}

export class Watchdog {
  readonly #cells: WatchdogCells = {
    sequence: new Int32Array(new SharedArrayBuffer(4)),
    order: new Float64Array(new SharedArrayBuffer(16)),
  };
  #isStarted = false;

  /** Runs `work`, which enters `fd` on this thread; after `limitMs` the vCPU is kicked. */
  guard<T>(fd: VcpuFd, limitMs: number, work: () => T): T {
    if (!this.#isStarted) this.#start();
    this.#cells.order.set([fd.becomeRunner(), limitMs]);
    this.#step();
    try {
      return work();
    } finally {
      this.#step();
    }
  }

  // Partner: the thread's waits for a change of the word.
  #step(): void {
    const { sequence } = this.#cells;
    Atomics.add(sequence, 0, 1);
    Atomics.notify(sequence, 0);
  }

  #start(): void {
    this.#isStarted = true;
    const thread = new Worker(new URL('./watchdog-thread.js', import.meta.url), { workerData: this.#cells });
    thread.unref();
  }
}
