// The owner's half of a virtio-mmio device: activates queues, hears doorbells, interrupts the driver, and resets.
// VIRTIO 1.2 §3.1.1 (initialization), §2.1.2 (DEVICE_NEEDS_RESET), §2.5 (configuration space), §2.9 (notifications).
import type { GuestMemory } from '../../memory/guest-memory.js';
import type { IrqLine } from '../irq-line.js';
import { FEATURE, INTERRUPT, STATUS } from './abi.js';
import type { DeviceHost, DeviceLink, VirtioDevice } from './device.js';
import { isActive, queueLayout } from './mmio-front.js';
import { resetFields, type MmioState } from './mmio-state.js';
import { Virtqueue } from './queue.js';

/** What the back needs of an EventFd. */
export interface Doorbell {
  onReadable(callback: () => void): { close(): void };
}

export interface MmioBackParts {
  readonly memory: GuestMemory;
  readonly irq: IrqLine;
  readonly control: Doorbell;
  /** By queue. */
  readonly doorbells: readonly Doorbell[];
  /** One line for a person. */
  readonly warn: (message: string) => void;
}

/** What a device did so far, for the machine's report. */
export interface VirtioReport {
  readonly name: string;
  /** Times that the event loop saw a doorbell; several kicks at once are one. */
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
  readonly #waiting = new Set<NodeJS.Immediate>();
  readonly #sum = { kicks: 0, chains: 0, dropped: 0, interrupts: 0, resets: 0, needsReset: 0 };
  #isActive = false;
  #isBusy = false;
  #isClosed = false;

  /** `attach` tells the device of its host: before anything can happen. */
  constructor(device: VirtioDevice, state: MmioState, parts: MmioBackParts) {
    this.device = device;
    this.#state = state;
    this.#parts = parts;
    this.#queues = device.offer.queueSizes.map(() => undefined);
    this.#watchers = [
      parts.control.onReadable(() => void this.#onControl()),
      ...parts.doorbells.map((bell, index) =>
        bell.onReadable(() => {
          this.#sum.kicks++;
          this.#notify(index);
        }),
      ),
    ];
    device.attach?.(this);
  }

  setConfig(offset: number, bytes: Uint8Array): void {
    const { config, fields } = this.#state;
    if (offset + bytes.length > config.length)
      throw new RangeError(`${this.device.offer.name}: its configuration space has ${config.length} bytes`);
    // Before and after: whoever reads the same generation twice has read no mixture.
    fields.ConfigGeneration.add(1);
    config.set(bytes, offset);
    fields.ConfigGeneration.add(1);
    if (isActive(fields.Status.get())) this.#interrupt(INTERRUPT.CONFIGURATION_CHANGE);
  }

  warn(message: string): void {
    this.#parts.warn(`${this.device.offer.name}: ${message}`);
  }

  report(): VirtioReport {
    const { name } = this.device.offer;
    const sum = { ...this.#sum };
    for (const queue of this.#queues) if (queue !== undefined) addQueue(sum, queue);
    return { name, ...sum, counters: this.device.counters?.() ?? {} };
  }

  /** Resolves when the device touches guest memory no more and has released its host side. The vCPUs must be gone. */
  async close(): Promise<void> {
    if (this.#isClosed) return;
    this.#isClosed = true;
    for (const watcher of this.#watchers) watcher.close();
    await this.#stopQueues(this.#queues.keys());
    await this.device.close();
  }

  // One thing after the other: a reset waits for the host's I/O, and what comes meanwhile is looked at afterwards.
  async #onControl(): Promise<void> {
    if (this.#isBusy || this.#isClosed) return;
    this.#isBusy = true;
    const { fields } = this.#state;
    try {
      // Partner: the front stores what it wants, then counts REQUESTS up, then signals.
      for (let request = fields.REQUESTS.get(); request !== fields.ANSWERS.get(); request = fields.REQUESTS.get()) {
        if (fields.RESET.get() !== 0) await this.#reset();
        else await this.#stopWithdrawnQueues();
        if (this.#isClosed) return;
        fields.ANSWERS.set(request);
        Atomics.notify(fields.ANSWERS.words, fields.ANSWERS.index);
      }
      if (isActive(fields.Status.get()) && !this.#isActive) this.#activate();
    } finally {
      this.#isBusy = false;
    }
  }

  #activate(): void {
    const { fields, queues } = this.#state;
    const { memory } = this.#parts;
    const low = fields.DriverFeaturesLow.get();
    const high = fields.DriverFeaturesHigh.get();
    const has = (bit: number): boolean => ((bit < 32 ? low : high) & (1 << (bit & 31))) !== 0;
    this.#isActive = true;
    for (const [index, queue] of queues.entries()) {
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
          again: () => this.#notifySoon(index),
        });
      } catch (error) {
        // The front refused such a queue; another vCPU must have changed it since.
        this.#needsReset(`queue ${index}: ${error instanceof Error ? error.message : String(error)}`);
        return;
      }
    }
    const link: DeviceLink = {
      has,
      queue: (index) => this.#queues[index],
      needsReset: (reason) => this.#needsReset(reason),
    };
    this.device.activate(link);
    for (const index of this.#queues.keys()) this.#notify(index);
  }

  #notify(index: number): void {
    if (this.#isActive && !this.#isClosed && this.#queues[index] !== undefined) this.device.notify(index);
  }

  #notifySoon(index: number): void {
    const immediate = setImmediate(() => {
      this.#waiting.delete(immediate);
      this.#notify(index);
    });
    this.#waiting.add(immediate);
  }

  async #reset(): Promise<void> {
    this.#sum.resets++;
    for (const immediate of this.#waiting) clearImmediate(immediate);
    this.#waiting.clear();
    if (this.#isActive) await this.#stopQueues(this.#queues.keys());
    this.#isActive = false;
    resetFields(this.#state);
    this.#state.fields.RESET.set(0);
  }

  async #stopWithdrawnQueues(): Promise<void> {
    const { queues } = this.#state;
    await this.#stopQueues(
      [...this.#queues.keys()].filter((index) => queues[index]?.QueueReady.get() === 0),
      true,
    );
  }

  async #stopQueues(indices: Iterable<number>, isPartial = false): Promise<void> {
    const stopping: Promise<void>[] = [];
    for (const index of indices) {
      const queue = this.#queues[index];
      if (queue === undefined) continue;
      this.#queues[index] = undefined;
      stopping.push(queue.stop().then(() => addQueue(this.#sum, queue)));
      if (isPartial) this.device.cancel(index);
    }
    if (!isPartial) this.device.cancel();
    await Promise.all(stopping);
  }

  #needsReset(reason: string): void {
    const { fields } = this.#state;
    this.#sum.needsReset++;
    this.warn(`the guest's driver broke the rules of its queue (${reason}); the device waits for a reset`);
    for (const queue of this.#queues) void queue?.stop();
    fields.Status.or(STATUS.DEVICE_NEEDS_RESET);
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
