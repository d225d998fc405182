// A virtio device for tests of transport and queue: answers at once, or holds chains as a slow host would.
// What it does is what its driver can check: a chain's writable bytes become its readable ones.
import type {
  DescriptorChain,
  DeviceHost,
  DeviceLink,
  VirtioDevice,
  VirtioOffer,
  Virtqueue,
} from '../../src/devices/virtio/device.js';

export interface Held {
  readonly queue: Virtqueue;
  readonly chain: DescriptorChain;
}

export class TestDevice implements VirtioDevice {
  readonly offer: VirtioOffer;
  /** Keeps chains in `held` until `finish`, also when they are cancelled: the host is at work on them. */
  holds = false;
  readonly held: Held[] = [];
  /** What was called, in order: `activate`, `notify 0`, `cancel`, `cancel 1`, `close`. */
  readonly calls: string[] = [];
  /** Heads in the order in which they came. */
  readonly heads: number[] = [];
  /** Called with each chain before anything is done with it. */
  onChain: ((chain: DescriptorChain, queue: Virtqueue) => void) | undefined;
  host: DeviceHost | undefined;
  link: DeviceLink | undefined;

  constructor(offer: Partial<VirtioOffer> = {}) {
    this.offer = {
      name: 'test0',
      deviceId: 4,
      features: [],
      queueSizes: [8],
      config: new Uint8Array(0),
      ...offer,
    };
  }

  attach(host: DeviceHost): void {
    this.host = host;
  }

  activate(link: DeviceLink): void {
    this.calls.push('activate');
    this.link = link;
  }

  notify(index: number): void {
    this.calls.push(`notify ${index}`);
    const queue = this.link?.queue(index);
    if (queue === undefined) throw new Error(`notify for queue ${index}, which this device does not have`);
    queue.each((chain) => {
      this.heads.push(chain.head);
      this.onChain?.(chain, queue);
      if (this.holds) this.held.push({ queue, chain });
      else queue.push(chain, echo(chain));
    });
  }

  /** Completes held chains, the given number or all, oldest first. */
  finish(count = this.held.length): void {
    const done = this.held.splice(0, count);
    for (const { queue, chain } of done) queue.push(chain, echo(chain));
    for (const queue of new Set(done.map((held) => held.queue))) queue.flush();
  }

  cancel(queue?: number): void {
    this.calls.push(queue === undefined ? 'cancel' : `cancel ${queue}`);
  }

  close(): void {
    this.calls.push('close');
  }
}

/** Copies what is readable to what is writable. @returns bytes written */
export function echo(chain: DescriptorChain): number {
  const bytes = new Uint8Array(Math.min(chain.readable.bytes, chain.writable.bytes));
  chain.readable.copyTo(bytes);
  return chain.writable.copyFrom(bytes);
}
