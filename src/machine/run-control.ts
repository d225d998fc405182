// Whether a machine's vCPUs run: for its owner, or for a debugger that lets some of them go; and that somebody looks at
// the machine while they stand. The last word counts: what ran before a look runs on after it, unless something else was
// said meanwhile. Looks, and whatever makes vCPUs run, take turns; to stop waits for nobody.
import { watchForHalt } from './halt-watch.js';
import type { VcpuThread } from './vcpu-thread.js';

export type VmState = 'created' | 'running' | 'paused' | 'ending' | 'ended';

/** The vCPUs that run, by their index; those of `toExit` until one exit has been served. */
export interface Going {
  readonly indices: readonly number[];
  readonly toExit: readonly number[];
}

export interface RunHooks {
  /** Before vCPUs run that stood still. */
  beforeRun(): void;
  /** Every CPU is halted for good. */
  onHalted(): void;
}

export class RunControl {
  state: VmState = 'created';
  readonly #all: Going;
  /** What runs, or ran last. */
  #going: Going;
  /** Counts what was said: to run, or to stand. */
  #word = 0;
  /** Settles, and never rejects, when the one whose turn it is has ended it. */
  #turn: Promise<unknown> = Promise.resolve();
  #halt: { close(): void } | undefined;

  constructor(
    private readonly threads: readonly VcpuThread[],
    private readonly hooks: RunHooks,
  ) {
    this.#all = { indices: [...threads.keys()], toExit: [] };
    this.#going = this.#all;
  }

  start(): void {
    this.#go(this.#all);
  }

  /** Resolves when every vCPU is parked, or gone. */
  async hold(): Promise<void> {
    this.#word += 1;
    await this.#park();
  }

  /** Lets these vCPUs run, or all: after the look under way, and unless the machine is told to stand before that. */
  release(going: Going = this.#all): Promise<void> {
    const word = ++this.#word;
    return this.#inTurn(async () => {
      // A pause may still be on its way to the vCPUs.
      if (this.state === 'paused') await this.#park();
      await this.#goOn(going, word);
    });
  }

  /**
   * Does something while every vCPU stands still, and lets those run on that ran.
   * @param what for the error's message
   * @throws Error when the machine is neither running nor paused
   */
  standing<T>(what: string, action: () => Promise<T>): Promise<T> {
    return this.#inTurn(async () => {
      const word = this.#word;
      const going = this.state === 'running' ? this.#going : undefined;
      await this.#park();
      if (this.state !== 'paused') throw new Error(`${what}: the machine is ${this.state}, not running or paused`);
      try {
        return await action();
      } finally {
        if (going !== undefined) await this.#goOn(going, word);
      }
    });
  }

  /** The machine ends: nothing is watched any more. */
  end(): void {
    this.state = 'ending';
    this.#halt?.close();
  }

  async #park(): Promise<void> {
    if (this.state === 'running') {
      this.state = 'paused';
      this.#halt?.close();
    }
    await Promise.all(this.threads.map((thread) => thread.park()));
  }

  async #goOn(going: Going, word: number): Promise<void> {
    const isWanted = (): boolean => this.state === 'paused' && this.#word === word;
    if (!isWanted()) return;
    // A kernel that never enabled kvmclock answers EINVAL, and has no watchdog to be told.
    await Promise.all(this.threads.map((thread) => thread.call('kvmclockCtrl').catch(() => undefined)));
    if (isWanted()) this.#go(going);
  }

  #go(going: Going): void {
    this.hooks.beforeRun();
    this.#going = going;
    const { indices, toExit } = going;
    this.state = 'running';
    for (const index of indices) this.threads[index]?.run(toExit.includes(index));
    // Only where all of them run on is a halt of the machine one.
    if (indices.length === this.threads.length && toExit.length === 0)
      this.#halt = watchForHalt(this.threads, () => this.hooks.onHalted());
  }

  #inTurn<T>(action: () => Promise<T>): Promise<T> {
    const result = this.#turn.then(action);
    this.#turn = result.catch(() => undefined);
    return result;
  }
}
