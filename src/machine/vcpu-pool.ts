// Threads that have started already and wait for a vCPU each. Starting one is most of what a small machine costs: an
// isolate of its own, and our modules in it.
import { Worker } from 'node:worker_threads';
import type { VcpuWorkerData } from '../vcpu/worker-protocol.js';

const ENTRY = new URL('../machine/vcpu-worker.js', import.meta.url);
/** So long after the last one was taken the pool fills up again: whoever takes several at once has the processors then. */
const REFILL_AFTER_MS = 100;

/** A thread has its process's options, of which those of `node --input-type=… -e` are refused for a file. */
const ofText = process.execArgv.some((option) => option.startsWith('--input-type'));

/** @param data undefined: it comes as the first message */
export function startVcpuWorker(name: string, data?: VcpuWorkerData, entry = ENTRY): Worker {
  return new Worker(entry, {
    workerData: data,
    name,
    // The run loop allocates nothing per exit: a small young generation keeps the thread's own memory low, and a
    // handler that hoards ends its own machine long before it could harm the process.
    resourceLimits: { maxYoungGenerationSizeMb: 2, maxOldGenerationSizeMb: 128 },
    ...(ofText ? { execArgv: [] } : {}),
  });
}

/**
 * A pool of vCPU threads for the machines of this process: give it to `createVm`, `restoreVm` or `Vm.fork` as `threads`.
 * A thread serves one vCPU and ends with it; the pool starts others in place of those that were taken. A machine that
 * finds it empty starts its own. Each waiting thread holds 7 to 8 MiB, and none holds the process.
 */
export class VcpuPool implements AsyncDisposable {
  readonly #size: number;
  readonly #waiting = new Set<Worker>();
  #starting: Promise<void> = Promise.resolve();
  #refill: NodeJS.Timeout | undefined;
  #isClosed = false;

  /** @param size how many wait, 1 to 1024 */
  constructor(size: number) {
    if (!Number.isSafeInteger(size) || size < 1 || size > 1024)
      throw new RangeError(`VcpuPool: the number of threads is a whole number from 1 to 1024, not ${size}`);
    this.#size = size;
    this.#fill();
  }

  /** Resolves when the threads that were started so far wait. */
  get ready(): Promise<void> {
    return this.#starting;
  }

  /** How many wait now. */
  get waiting(): number {
    return this.#waiting.size;
  }

  /** @returns a thread that waits for its VcpuWorkerData; undefined when there is none */
  take(): Worker | undefined {
    const [worker] = this.#waiting;
    if (worker === undefined || this.#isClosed) return undefined;
    this.#waiting.delete(worker);
    worker.ref();
    clearTimeout(this.#refill);
    this.#refill = setTimeout(() => this.#fill(), REFILL_AFTER_MS).unref();
    return worker;
  }

  /** Ends the threads that wait. Those that were taken are their machines'. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#isClosed = true;
    clearTimeout(this.#refill);
    await this.#starting;
    await Promise.all([...this.#waiting].map((worker) => worker.terminate()));
    this.#waiting.clear();
  }

  #fill(): void {
    this.#starting = this.#starting.then(async () => {
      if (this.#isClosed) return;
      await Promise.all(Array.from({ length: this.#size - this.#waiting.size }, () => this.#startOne()));
    });
  }

  /** One that cannot start is missing in the pool; the machine that starts its own says why. */
  async #startOne(): Promise<void> {
    const worker = startVcpuWorker('vCPU');
    await new Promise<void>((resolve) => {
      const gone = (): void => {
        this.#waiting.delete(worker);
        resolve();
      };
      worker.once('error', gone);
      worker.once('exit', gone);
      // Its modules are loaded when it says so.
      worker.once('message', () => {
        worker.unref();
        this.#waiting.add(worker);
        resolve();
      });
    });
  }
}
