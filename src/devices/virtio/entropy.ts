// The entropy device: fills the driver's buffers with random bytes of the host's kernel.
// VIRTIO 1.2 §5.4 (entropy device): one queue, no features, no configuration.
import { DEVICE_ID } from './abi.js';
import type { DeviceLink, VirtioDevice, VirtioOffer } from './device.js';
import type { DescriptorChain, Virtqueue } from './queue.js';

const QUEUE_SIZE = 64;
/**
 * Most bytes of one chain; §5.4.6.2: "it MAY use less than the entire buffer length". random(4): a read of so many is
 * never cut short by a signal.
 */
const CHAIN_BYTES = 256;

export class VirtioEntropy implements VirtioDevice {
  readonly offer: VirtioOffer = {
    name: 'entropy',
    deviceId: DEVICE_ID.ENTROPY,
    features: [],
    queueSizes: [QUEUE_SIZE],
    config: new Uint8Array(),
  };
  readonly #fill: (bytes: Uint8Array) => void;
  readonly #release: () => void;
  readonly #scratch = new Uint8Array(CHAIN_BYTES);
  #queue: Virtqueue | undefined;
  #bytes = 0;

  /** @param source fills an array with random bytes; `close` is called once, at the machine's end */
  constructor(source: { fill(bytes: Uint8Array): void; close(): void }) {
    this.#fill = (bytes) => source.fill(bytes);
    this.#release = () => source.close();
  }

  activate(link: DeviceLink): void {
    this.#queue = link.queue(0);
  }

  notify(): void {
    const queue = this.#queue;
    queue?.each((chain) => queue.push(chain, this.#answer(chain)));
  }

  cancel(): void {
    this.#queue = undefined;
  }

  close(): void {
    this.#release();
  }

  counters(): Readonly<Record<string, number>> {
    return { bytes: this.#bytes };
  }

  #answer({ writable }: DescriptorChain): number {
    const count = Math.min(writable.bytes, CHAIN_BYTES);
    const bytes = this.#scratch.subarray(0, count);
    this.#fill(bytes);
    this.#bytes += count;
    return writable.copyFrom(bytes);
  }
}
