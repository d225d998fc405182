// The seam between transport and device: the transport owns status, features, queues and interrupts; a device only acts.
// VIRTIO 1.2 §2 (basic facilities of a device), §3.1 (device initialization).
import type { DescriptorChain, Virtqueue } from './queue.js';

/** What a device offers, known before any guest runs. */
export interface VirtioOffer {
  /** Unique among the machine's devices: `disk0`. */
  readonly name: string;
  /** VIRTIO 1.2 §5. */
  readonly deviceId: number;
  /** Bit numbers of the device's own features; the transport adds those that it serves for every device. */
  readonly features: readonly number[];
  /** By queue: QueueNumMax, a power of two. */
  readonly queueSizes: readonly number[];
  /** Device configuration space as it is at the start, little-endian. */
  readonly config: Uint8Array;
}

/**
 * The back of a virtio device. It lives on the owner's event loop and is called there only. What a method throws, and a
 * promise of it that is rejected, ends the machine by the device's name.
 */
export interface VirtioDevice {
  readonly offer: VirtioOffer;
  /** Called once, when the machine is composed: what the device may use whether it is active or not. */
  attach?(host: DeviceHost): void;
  /** The driver has set DRIVER_OK. Every queue gets a `notify` right after it. */
  activate(link: DeviceLink): void;
  /** The driver rang for this queue (or may have). Never for one that is not ready. */
  notify(queue: number): void;
  /**
   * The driver wants the device reset, or `queue` alone to stop: return (push) every chain that waits inside the
   * device. Those that the host is working on may come back later; the transport waits for them before the guest goes
   * on. Nothing of what is pushed from now on is written anywhere.
   */
  cancel(queue?: number): void;
  /**
   * The machine is about to be saved, and its queues give no chains until it goes on (a `notify` of each queue tells):
   * push or put back every chain that waits inside the device. Those that the host is working on come back by
   * themselves. A device that never keeps a chain needs none.
   */
  settle?(): void;
  /** After that, when every chain is back: makes durable what the guest was told is done. */
  persist?(): Promise<void>;
  /** The machine ends, its vCPUs are gone: release what the host side holds. */
  close(): void | Promise<void>;
  /** Counters for the machine's report, by name. */
  counters?(): Readonly<Record<string, number>>;
}

/** What an activated device has of its transport; valid until `cancel()` without a queue. */
export interface DeviceLink {
  /** True when this feature was negotiated. */
  has(feature: number): boolean;
  /** The queue, when the driver has set it up and made it ready. */
  queue(index: number): Virtqueue | undefined;
  /** Sets DEVICE_NEEDS_RESET and tells the driver (VIRTIO 1.2 §2.1.2). The queues stand still until the reset. */
  needsReset(reason: string): void;
}

/** What a device may do whether it is active or not. */
export interface DeviceHost {
  /** Replaces bytes of the configuration space and tells the driver (VIRTIO 1.2 §2.5). */
  setConfig(offset: number, bytes: Uint8Array): void;
  /** One line for the machine's owner; the host limits how many get through. */
  warn(message: string): void;
  /**
   * Ends the machine by the device's name. For what goes wrong when nobody of the transport called: in a timer, in a
   * promise, in an answer of the device's host part.
   */
  fail(error: unknown): void;
}

export type { DescriptorChain, Virtqueue };
