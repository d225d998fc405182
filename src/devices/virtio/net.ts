// A network card: frames of the guest to a backend, frames of the backend into the guest's buffers.
// VIRTIO 1.2 §5.1 (network device).
import { ETHERNET_HEADER, FRAME_MAX, formatMac, MAC_BYTES, SOURCE_ADDRESS } from '../backend/ethernet.js';
import type { NetBackend, NetLink } from '../backend/net-backend.js';
import { DEVICE_ID } from './abi.js';
import { CopyBuffer } from './copy-buffer.js';
import type { DescriptorChain, DeviceHost, DeviceLink, VirtioDevice, VirtioOffer, Virtqueue } from './device.js';
import { guarded } from './guarded.js';
import type { GuestVector } from './guest-vector.js';
import { checkTransmitHeader, NET_FEATURE, NET_HEADER, setBufferCount, type TransmitOffloads } from './net-header.js';

export interface NetOptions {
  /** Unique among the machine's devices: `net0`. */
  readonly name: string;
  readonly backend: NetBackend;
  /** 6 bytes, the address of one station. */
  readonly mac: Uint8Array;
  /** True: what the guest sends from another address than `mac` is dropped. Default false. */
  readonly lockMac?: boolean;
}

const RECEIVE = 0;
const TRANSMIT = 1;
const QUEUE_SIZE = 256;
/** Device configuration: mac, status, max_virtqueue_pairs, mtu. */
const CONFIG = { STATUS: 6, MAX_PAIRS: 8, MTU: 10, BYTES: 12 } as const;
const LINK_UP = 1;

const OFFLOAD_FEATURES = [
  NET_FEATURE.CSUM,
  NET_FEATURE.GUEST_CSUM,
  NET_FEATURE.GUEST_TSO4,
  NET_FEATURE.GUEST_TSO6,
  NET_FEATURE.HOST_TSO4,
  NET_FEATURE.HOST_TSO6,
] as const;

const NO_OFFLOADS: TransmitOffloads = { checksum: false, tso4: false, tso6: false };

export class NetDevice implements VirtioDevice {
  readonly offer: VirtioOffer;
  readonly #backend: NetBackend;
  readonly #mac: Uint8Array;
  readonly #isMacLocked: boolean;
  /** Whether the backend's frames have a virtio_net_hdr in front. */
  readonly #hasHeader: boolean;
  /** The guest may write its bytes at any time: a frame is copied here once, checked here, and sent from here. */
  readonly #sending = new CopyBuffer(NET_HEADER + FRAME_MAX);
  /** Not the same: a backend may hand back the very bytes that it is given. */
  readonly #filling = new CopyBuffer(NET_HEADER + FRAME_MAX);
  readonly #header = new Uint8Array(NET_HEADER);
  /** Buffers of the guest that were taken for a frame and not filled yet. */
  readonly #buffers: DescriptorChain[] = [];
  #room = 0;
  /** No buffer was given back that came after one of `#buffers`: they can be put back into the queue. */
  #isInOrder = true;
  #host: DeviceHost | undefined;
  #receiving: Virtqueue | undefined;
  #transmitting: Virtqueue | undefined;
  #isMergeable = false;
  #granted = NO_OFFLOADS;
  #isLinkUp = true;
  /** The backend was told that there is no room; it waits for `resume`. */
  #isBackendWaiting = false;
  /** The backend took no frame; the queue waits for `ready`. */
  #isQueueWaiting = false;
  #isFlushDue = false;
  #isClosed = false;
  readonly #counters = {
    framesSent: 0,
    bytesSent: 0,
    framesReceived: 0,
    bytesReceived: 0,
    /** Bytes of the largest frame each way: larger than the network's when segments are cut here. */
    largestSent: 0,
    largestReceived: 0,
    /** Sent by the guest: too short, too long, or with a header that cannot be believed. */
    malformed: 0,
    /** Sent from an address that is not the guest's. */
    foreignMac: 0,
    /** For the guest, while no driver was there. */
    noDriver: 0,
    /** For the guest: no frame at all, or one that all its buffers together cannot hold. */
    unfit: 0,
    /** Buffers of the guest that hold nothing, or (unmerged) less than a frame. */
    uselessBuffers: 0,
  };

  /** @param options a backend whose `mtu` is known, and that nobody has opened */
  constructor({ name, backend, mac, lockMac = false }: NetOptions) {
    const { mtu } = backend;
    this.#backend = backend;
    this.#mac = mac.slice(0, MAC_BYTES);
    this.#isMacLocked = lockMac;
    this.#hasHeader = backend.setOffloads !== undefined;
    const config = new Uint8Array(CONFIG.BYTES);
    const view = new DataView(config.buffer);
    config.set(this.#mac);
    view.setUint16(CONFIG.STATUS, LINK_UP, true);
    view.setUint16(CONFIG.MAX_PAIRS, 1, true);
    view.setUint16(CONFIG.MTU, mtu ?? 0, true);
    this.offer = {
      name,
      deviceId: DEVICE_ID.NET,
      features: [
        NET_FEATURE.MAC,
        NET_FEATURE.STATUS,
        NET_FEATURE.MRG_RXBUF,
        ...(mtu === undefined ? [] : [NET_FEATURE.MTU]),
        ...(this.#hasHeader ? OFFLOAD_FEATURES : []),
      ],
      queueSizes: [QUEUE_SIZE, QUEUE_SIZE],
      config,
    };
  }

  /** Opens the backend. @throws what it throws, and it is closed then */
  async open(): Promise<void> {
    const backend = this.#backend;
    const link: NetLink = {
      mac: this.#mac.slice(),
      // A frame that ended the machine is taken.
      receive: (frame) => guarded(this.#host, () => this.#receive(frame)) ?? true,
      ready: () => guarded(this.#host, () => this.#ready()),
      setLinkUp: (isUp) => guarded(this.#host, () => this.#setLinkUp(isUp)),
      warn: (message) => this.#warn(message),
    };
    try {
      await backend.open(link);
    } catch (error) {
      await backend.close();
      throw error;
    }
  }

  attach(host: DeviceHost): void {
    this.#host = host;
    if (!this.#isLinkUp) this.#publishLink();
  }

  activate(link: DeviceLink): void {
    const has = (feature: number): boolean => link.has(feature);
    this.#receiving = link.queue(RECEIVE);
    this.#transmitting = link.queue(TRANSMIT);
    this.#isMergeable = has(NET_FEATURE.MRG_RXBUF);
    const checksum = has(NET_FEATURE.CSUM);
    this.#granted = { checksum, tso4: has(NET_FEATURE.HOST_TSO4), tso6: has(NET_FEATURE.HOST_TSO6) };
    const guestChecksum = has(NET_FEATURE.GUEST_CSUM);
    // §5.1.3.1: VIRTIO_NET_F_GUEST_TSO4 and 6 require VIRTIO_NET_F_GUEST_CSUM.
    this.#backend.setOffloads?.({
      checksum: guestChecksum,
      tso4: guestChecksum && has(NET_FEATURE.GUEST_TSO4),
      tso6: guestChecksum && has(NET_FEATURE.GUEST_TSO6),
    });
  }

  notify(queue: number): void {
    if (queue === RECEIVE) this.#resumeBackend();
    else if (!this.#isQueueWaiting) this.#transmitting?.each((chain) => this.#transmit(chain));
  }

  cancel(queue?: number): void {
    if (queue === undefined || queue === RECEIVE) {
      const receiving = this.#receiving;
      this.#receiving = undefined;
      for (const chain of this.#buffers.splice(0)) receiving?.push(chain, 0);
      this.#isInOrder = true;
      this.#room = 0;
      // What waited for the old driver is not for the next one: it is dropped as soon as it comes.
      this.#resumeBackend();
    }
    if (queue === undefined || queue === TRANSMIT) this.#transmitting = undefined;
  }

  settle(): void {
    const queue = this.#receiving;
    if (queue === undefined) return;
    for (const chain of this.#buffers.splice(0).toReversed()) {
      if (this.#isInOrder) queue.unpop(chain);
      else queue.push(chain, 0);
    }
    this.#isInOrder = true;
    this.#room = 0;
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    await this.#backend.close();
  }

  counters(): Readonly<Record<string, number>> {
    return { ...this.#counters, ...this.#backend.counters?.() };
  }

  #receive(frame: Uint8Array): boolean {
    const queue = this.#receiving;
    if (queue === undefined || this.#isClosed) {
      this.#counters.noDriver++;
      return true;
    }
    const skip = this.#hasHeader ? NET_HEADER : 0;
    const length = NET_HEADER + frame.length - skip;
    if (length > NET_HEADER + FRAME_MAX || frame.length < skip + ETHERNET_HEADER) {
      this.#counters.unfit++;
      return true;
    }
    const found = this.#gather(queue, length);
    if (found === 'none') {
      this.#isBackendWaiting = true;
      return false;
    }
    if (found === 'never') {
      this.#counters.unfit++;
      return true;
    }
    if (this.#hasHeader) this.#header.set(frame.subarray(0, NET_HEADER));
    else this.#header.fill(0);
    this.#fill(queue, skip === 0 ? frame : frame.subarray(skip), length);
    this.#counters.framesReceived++;
    this.#counters.bytesReceived += length - NET_HEADER;
    this.#counters.largestReceived = Math.max(this.#counters.largestReceived, length - NET_HEADER);
    return true;
  }

  #ready(): void {
    if (!this.#isQueueWaiting) return;
    this.#isQueueWaiting = false;
    this.notify(TRANSMIT);
  }

  #setLinkUp(isUp: boolean): void {
    if (isUp === this.#isLinkUp) return;
    this.#isLinkUp = isUp;
    this.#publishLink();
  }

  #warn(message: string): void {
    if (!this.#isClosed) this.#host?.warn(message);
  }

  /** Takes buffers until they have `length` bytes. `none`: not now. `never`: not even with the whole ring. */
  #gather(queue: Virtqueue, length: number): 'found' | 'none' | 'never' {
    // A driver that publishes useless buffers without end has its frame dropped.
    for (let tries = 0; this.#room < length; tries++) {
      if (this.#buffers.length === queue.size || tries > queue.size) return 'never';
      const chain = queue.pop();
      if (chain === undefined) return 'none';
      const { bytes } = chain.writable;
      if (bytes === 0 || (!this.#isMergeable && bytes < length)) {
        this.#counters.uselessBuffers++;
        this.#warn('the guest gave a receive buffer that is too short for a frame; it got it back');
        queue.push(chain, 0);
        if (this.#buffers.length > 0) this.#isInOrder = false;
        this.#flushSoon();
        continue;
      }
      this.#buffers.push(chain);
      this.#room += bytes;
    }
    return 'found';
  }

  /** §5.1.6.4: the header once, num_buffers in it, and the frame behind it through all buffers. */
  #fill(queue: Virtqueue, body: Uint8Array, length: number): void {
    const buffers = this.#buffers;
    const header = this.#header;
    let count = 0;
    for (let room = 0; room < length; count++) room += (buffers[count] as DescriptorChain).writable.bytes;
    setBufferCount(header, count);
    let done = 0;
    for (let i = 0; i < count; i++) {
      const { writable } = buffers[i] as DescriptorChain;
      const part = Math.min(writable.bytes, length - done);
      const bytes = this.#filling.for(writable);
      const ofHeader = Math.max(0, Math.min(NET_HEADER - done, part));
      for (let k = 0; k < ofHeader; k++) bytes[k] = header[done + k] as number;
      const from = done + ofHeader - NET_HEADER;
      if (part > ofHeader) bytes.set(count === 1 ? body : body.subarray(from, from + part - ofHeader), ofHeader);
      writable.copyFrom(bytes.subarray(0, part));
      this.#room -= writable.bytes;
      queue.push(buffers[i] as DescriptorChain, part);
      done += part;
    }
    if (count === buffers.length) {
      buffers.length = 0;
      this.#isInOrder = true;
    } else buffers.splice(0, count);
    this.#flushSoon();
  }

  /** @returns false when the backend has no room: the chain is back in its queue, and nothing more is wanted of it */
  #transmit(chain: DescriptorChain): boolean {
    const queue = this.#transmitting as Virtqueue;
    const { readable } = chain;
    const length = readable.bytes;
    const bytes = this.#sending.for(readable);
    const problem = this.#problem(readable, bytes);
    if (problem !== undefined) {
      this.#warn(`the guest sent a frame that ${problem}; it was dropped`);
      queue.push(chain, 0);
      return true;
    }
    const isTaken = this.#backend.send(bytes.subarray(this.#hasHeader ? 0 : NET_HEADER, length));
    if (isTaken === false) {
      queue.unpop(chain);
      this.#isQueueWaiting = true;
      return false;
    }
    this.#counters.framesSent++;
    this.#counters.bytesSent += length - NET_HEADER;
    this.#counters.largestSent = Math.max(this.#counters.largestSent, length - NET_HEADER);
    queue.push(chain, 0);
    return true;
  }

  /** Copies the frame; why it is not to be sent, or undefined. */
  #problem(readable: GuestVector, bytes: Uint8Array): string | undefined {
    const counters = this.#counters;
    const length = readable.bytes;
    const isLengthWrong = length < NET_HEADER + ETHERNET_HEADER || length > NET_HEADER + FRAME_MAX;
    if (isLengthWrong) {
      counters.malformed++;
      return length < NET_HEADER + ETHERNET_HEADER ? 'is shorter than its headers' : 'is longer than any frame';
    }
    readable.copyTo(bytes);
    const problem = checkTransmitHeader(bytes, length, this.#granted);
    if (problem !== undefined) {
      counters.malformed++;
      return problem;
    }
    if (this.#isMacLocked && !this.#isOwnAddress(bytes, NET_HEADER + SOURCE_ADDRESS)) {
      counters.foreignMac++;
      const from = formatMac(bytes.subarray(NET_HEADER + SOURCE_ADDRESS));
      return `comes from ${from} and not from its own address ${formatMac(this.#mac)}`;
    }
    return undefined;
  }

  #isOwnAddress(bytes: Uint8Array, at: number): boolean {
    for (let i = 0; i < MAC_BYTES; i++) if (bytes[at + i] !== this.#mac[i]) return false;
    return true;
  }

  #resumeBackend(): void {
    if (!this.#isBackendWaiting) return;
    this.#isBackendWaiting = false;
    this.#backend.resume?.();
  }

  /** One interrupt for all frames of the backend's turn: after it, before anything else. */
  #flushSoon(): void {
    if (this.#isFlushDue) return;
    this.#isFlushDue = true;
    queueMicrotask(() => {
      this.#isFlushDue = false;
      guarded(this.#host, () => this.#receiving?.flush());
    });
  }

  #publishLink(): void {
    // §5.1.4: status, of which the lowest bit is VIRTIO_NET_S_LINK_UP.
    this.#host?.setConfig(CONFIG.STATUS, Uint8Array.of(this.#isLinkUp ? LINK_UP : 0, 0));
  }
}
