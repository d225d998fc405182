// The owner's half of a virtio-mmio device: activates queues, hears doorbells, interrupts the driver, and resets.
// VIRTIO 1.2 §3.1.1 (initialization), §2.1.2 (DEVICE_NEEDS_RESET), §2.5 (configuration space), §2.9 (notifications).
import { setTimeout as sleep } from 'node:timers/promises';
import type { GuestMemory } from '../../memory/guest-memory.js';
import type { IrqLine } from '../irq-line.js';
import { FEATURE, INTERRUPT, STATUS } from './abi.js';
import type { DeviceHost, DeviceLink, VirtioDevice } from './device.js';
import { isActive, queueLayout } from './mmio-front.js';
import { offeredFeatures, resetFields, type MmioState } from './mmio-state.js';
import { Virtqueue } from './queue.js';

const CLOSE_AFTER_FAILURE_MS = 1000;
/** How long the host may take for what it is working on. */
const HOLD_DEADLINE_MS = 30_000;

/** What the back needs of an EventFd. */
export interface Doorbell {
  onReadable(callback: (count: number) => void): { close(): void };
}

export interface MmioBackParts {
  readonly memory: GuestMemory;
  readonly irq: IrqLine;
  readonly control: Doorbell;
  /** By queue. */
  readonly doorbells: readonly Doorbell[];
  /** One line for a person. */
  readonly warn: (message: string) => void;
  /** Called once, with one sentence, when the device threw: the machine is to end. Without it the error is thrown on. */
  readonly onFailure?: (message: string) => void;
}

/** What a device did so far, for the machine's report. */
export interface VirtioReport {
  readonly name: string;
  /** Times that the driver rang a doorbell. */
  readonly rings: number;
  /** Times that the event loop saw that: several rings at once are one. */
  readonly kicks: number;
  /** Chains taken from all queues, and those returned because a buffer was not in RAM. */
  readonly chains: number;
  readonly dropped: number;
  readonly interrupts: number;
  readonly resets: number;
  /** Times that the driver broke the rules so that the device needed a reset. */
  readonly needsReset: number;
  readonly counters: Readonly<Record<string, number>>;
}

export class MmioBack implements DeviceHost {
  readonly device: VirtioDevice;
  readonly #state: MmioState;
  readonly #parts: MmioBackParts;
  readonly #watchers: { close(): void }[];
  readonly #queues: (Virtqueue | undefined)[];
  /** By queue that has more work than a turn takes: its next turn. */
  readonly #turns = new Map<number, NodeJS.Immediate>();
  /** Queues on their way to standing still. */
  readonly #stopping = new Set<Promise<void>>();
  readonly #sum = { rings: 0, kicks: 0, chains: 0, dropped: 0, interrupts: 0, resets: 0, needsReset: 0 };
  #isActive = false;
  #isBusy = false;
  /** See `hold`. */
  #isHeld = false;
  #hasFailed = false;
  #link: DeviceLink | undefined;
  #closed: Promise<void> | undefined;

  /** `attach` tells the device of its host: before anything can happen. */
  constructor(device: VirtioDevice, state: MmioState, parts: MmioBackParts) {
    this.device = device;
    this.#state = state;
    this.#parts = parts;
    this.#queues = device.offer.queueSizes.map(() => undefined);
    this.#watchers = [
      parts.control.onReadable(() => void this.#onControl()),
      ...parts.doorbells.map((bell, index) =>
        bell.onReadable((count) => {
          this.#sum.rings += count;
          this.#sum.kicks++;
          this.#notify(index);
        }),
      ),
    ];
    device.attach?.(this);
  }

  setConfig(offset: number, bytes: Uint8Array): void {
    const { config, fields } = this.#state;
    if (offset + bytes.length > config[0].length)
      throw new RangeError(`${this.device.offer.name}: its configuration space has ${config[0].length} bytes`);
    const valid = (fields.ConfigGeneration.get() & 1) as 0 | 1;
    const next = config[valid === 0 ? 1 : 0];
    next.set(config[valid]);
    next.set(bytes, offset);
    // Partner: the front reads the copy that the generation names.
    fields.ConfigGeneration.add(1);
    if (isActive(fields.Status.get())) this.#interrupt(INTERRUPT.CONFIGURATION_CHANGE);
  }

  warn(message: string): void {
    this.#parts.warn(`${this.device.offer.name}: ${message}`);
  }

  fail(error: unknown): void {
    const { onFailure } = this.#parts;
    if (onFailure === undefined) throw error;
    if (this.#hasFailed) return;
    this.#hasFailed = true;
    for (const queue of this.#queues) void queue?.stop();
    onFailure(`device ${this.device.offer.name} failed: ${String(error)}`);
  }

  report(): VirtioReport {
    const { name } = this.device.offer;
    const sum = { ...this.#sum };
    for (const queue of this.#queues) if (queue !== undefined) addQueue(sum, queue);
    return { name, ...sum, counters: this.device.counters?.() ?? {} };
  }

  /** Resolves when the device touches guest memory no more and has released its host side. The vCPUs must be gone. */
  close(): Promise<void> {
    return (this.#closed ??= this.#close());
  }

  /**
   * The device takes no chain until `release`. Resolves when it has given back each that it had: from then on all that
   * is to be known of it lies in the register file and in guest memory. The vCPUs must be parked.
   * @throws Error when the device keeps a chain
   */
  async hold(): Promise<void> {
    this.#isHeld = true;
    const held = Promise.all(this.#holdQueues());
    this.#call(() => this.device.settle?.());
    const timer = new AbortController();
    const late = sleep(HOLD_DEADLINE_MS, true, { signal: timer.signal }).catch(() => false);
    const isLate = await Promise.race([held.then(() => false), late]);
    timer.abort();
    if (isLate)
      throw new Error(
        `device ${this.device.offer.name} keeps requests of the guest, so it cannot be saved; see settle()`,
      );
    await this.device.persist?.();
  }

  /** Ends `hold`, or the wait of a machine that was restored. What the guest was told it is told again. */
  release(): void {
    const { fields } = this.#state;
    this.#isHeld = false;
    if (fields.InterruptStatus.get() !== 0) this.#parts.irq.pulse();
    for (const queue of this.#queues) queue?.release();
    for (const index of this.#queues.keys()) this.#notify(index);
  }

  /**
   * Takes the device up as the register file says that a saved machine left it; it stands still until `release`.
   * Instead of the driver's DRIVER_OK, and before any vCPU runs.
   */
  adopt(): void {
    this.#isHeld = true;
    if (isActive(this.#state.fields.Status.get())) this.#activate();
  }

  #holdQueues(): readonly Promise<void>[] {
    return this.#queues.flatMap((queue) => (queue === undefined ? [] : [queue.hold()]));
  }

  async #close(): Promise<void> {
    for (const watcher of this.#watchers) watcher.close();
    for (const index of this.#queues.keys()) this.#stop(index);
    this.#call(() => this.device.cancel());
    // Those too that a reset was waiting for. A device that threw may have lost a chain.
    if (!this.#hasFailed) await Promise.all(this.#stopping);
    try {
      // Nor may such a one ever come to its end, and the machine has a reason to give.
      await Promise.race([this.device.close(), ...(this.#hasFailed ? [sleep(CLOSE_AFTER_FAILURE_MS)] : [])]);
    } catch (error) {
      this.warn(`it could not be closed: ${String(error)}`);
    }
  }

  // One thing after the other: a reset waits for the host's I/O, and what comes meanwhile is looked at afterwards.
  async #onControl(): Promise<void> {
    if (this.#isBusy || this.#closed !== undefined) return;
    this.#isBusy = true;
    const { fields } = this.#state;
    try {
      // Partner: the front stores what it wants, then counts REQUESTS up, then signals.
      for (let request = fields.REQUESTS.get(); request !== fields.ANSWERS.get(); request = fields.REQUESTS.get()) {
        if (fields.RESET.get() !== 0) await this.#reset();
        else await this.#stopWithdrawnQueues();
        if (this.#closed !== undefined) return;
        fields.ANSWERS.set(request);
        Atomics.notify(fields.ANSWERS.words, fields.ANSWERS.index);
      }
      if (isActive(fields.Status.get()) && !this.#isActive) this.#activate();
    } finally {
      this.#isBusy = false;
    }
  }

  #activate(): void {
    const { fields } = this.#state;
    const offered = offeredFeatures(this.device.offer);
    // What was stored after the check of FEATURES_OK, by another vCPU, is not negotiated.
    const low = fields.DriverFeaturesLow.get() & offered[0];
    const high = fields.DriverFeaturesHigh.get() & offered[1];
    const has = (bit: number): boolean => ((bit < 32 ? low : high) & (1 << (bit & 31))) !== 0;
    this.#isActive = true;
    const problem = this.#needsResetAlready() ? undefined : this.#createQueues(has);
    // The driver's DRIVER_OK came with the last breath before the pause.
    if (this.#isHeld) void Promise.all(this.#holdQueues());
    const link: DeviceLink = {
      has,
      queue: (index) => (this.#link === link ? this.#queues[index] : undefined),
      needsReset: (reason) => {
        if (this.#link === link) this.#needsReset(reason);
      },
    };
    this.#link = link;
    this.#call(() => this.device.activate(link));
    if (problem !== undefined) this.#needsReset(problem);
    for (const index of this.#queues.keys()) this.#notify(index);
  }

  /** Of a machine that was saved so: its queues stand still until the driver resets the device. */
  #needsResetAlready(): boolean {
    return (this.#state.fields.Status.get() & STATUS.DEVICE_NEEDS_RESET) !== 0;
  }

  /** @returns why there are none */
  #createQueues(has: (feature: number) => boolean): string | undefined {
    const { memory } = this.#parts;
    for (const [index, queue] of this.#state.queues.entries()) {
      if (queue.QueueReady.get() === 0) continue;
      const layout = queueLayout(queue, this.device.offer.queueSizes[index] ?? 0);
      try {
        if (layout === undefined) throw new RangeError('the queue size is above QueueNumMax');
        this.#queues[index] = new Virtqueue({
          memory,
          layout,
          indirect: has(FEATURE.RING_INDIRECT_DESC),
          eventIdx: has(FEATURE.RING_EVENT_IDX),
          cursors: { avail: queue.AVAIL, used: queue.USED },
          interrupt: () => this.#interrupt(INTERRUPT.USED_BUFFER),
          broken: (reason) => this.#needsReset(`queue ${index}: ${reason}`),
          again: () => this.#takeTurn(index),
        });
      } catch (error) {
        // The front refused such a queue; another vCPU must have changed it since.
        this.#queues.fill(undefined);
        return `queue ${index}: ${error instanceof Error ? error.message : String(error)}`;
      }
    }
    return undefined;
  }

  #notify(index: number): void {
    // A queue whose next turn is due gets it then: doorbells do not add to the work of a turn of the event loop.
    if (this.#turns.has(index) || this.#closed !== undefined) return;
    if (this.#queues[index] !== undefined) this.#call(() => this.device.notify(index));
  }

  /** What a device throws is a bug of its own, which ends its machine and no other. */
  #call(action: () => void | Promise<void>): void {
    if (this.#hasFailed) return;
    try {
      const result = action();
      if (result instanceof Promise) result.catch((error: unknown) => this.fail(error));
    } catch (error) {
      this.fail(error);
    }
  }

  #takeTurn(index: number): void {
    if (this.#turns.has(index)) return;
    const turn = setImmediate(() => {
      this.#turns.delete(index);
      this.#notify(index);
    });
    this.#turns.set(index, turn);
  }

  async #reset(): Promise<void> {
    this.#sum.resets++;
    for (const turn of this.#turns.values()) clearImmediate(turn);
    this.#turns.clear();
    this.#link = undefined;
    if (this.#isActive) {
      for (const index of this.#queues.keys()) this.#stop(index);
      this.#call(() => this.device.cancel());
      await Promise.all(this.#stopping);
    }
    this.#isActive = false;
    resetFields(this.#state);
    this.#state.fields.RESET.set(0);
  }

  async #stopWithdrawnQueues(): Promise<void> {
    const { queues } = this.#state;
    for (const index of this.#queues.keys())
      if (queues[index]?.QueueReady.get() === 0 && this.#stop(index)) this.#call(() => this.device.cancel(index));
    await Promise.all(this.#stopping);
  }

  /** The queue is the device's no longer; `#stopping` is done when every chain is back. @returns whether there was one */
  #stop(index: number): boolean {
    const queue = this.#queues[index];
    if (queue === undefined) return false;
    this.#queues[index] = undefined;
    const stopped = queue.stop().then(() => {
      addQueue(this.#sum, queue);
      this.#stopping.delete(stopped);
    });
    this.#stopping.add(stopped);
    return true;
  }

  #needsReset(reason: string): void {
    const { fields } = this.#state;
    for (const queue of this.#queues) void queue?.stop();
    if ((fields.Status.or(STATUS.DEVICE_NEEDS_RESET) & STATUS.DEVICE_NEEDS_RESET) !== 0) return;
    this.#sum.needsReset++;
    this.warn(`the guest's driver broke the rules of its queue (${reason}); the device waits for a reset`);
    // §2.1.2: "If DRIVER_OK is set, after it sets DEVICE_NEEDS_RESET, the device MUST send a device configuration
    // change notification to the driver."
    this.#interrupt(INTERRUPT.CONFIGURATION_CHANGE);
  }

  #interrupt(bit: number): void {
    // First the state, then the pulse; never skipped because a bit was set already.
    this.#state.fields.InterruptStatus.or(bit);
    this.#parts.irq.pulse();
  }
}

function addQueue(sum: { chains: number; dropped: number; interrupts: number }, queue: Virtqueue): void {
  sum.chains += queue.taken;
  sum.dropped += queue.dropped;
  sum.interrupts += queue.interrupts;
}
