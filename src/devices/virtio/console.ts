// The console device, one port: what the guest prints on hvc0 goes to a callback, what is written goes to the guest.
// VIRTIO 1.2 §5.3 (console device): receiveq, transmitq, size in the configuration space.
import { DEVICE_ID } from './abi.js';
import type { DeviceHost, DeviceLink, VirtioDevice, VirtioOffer } from './device.js';
import type { DescriptorChain, Virtqueue } from './queue.js';

/** VIRTIO 1.2 §5.3.3. */
export const CONSOLE_FEATURE = { SIZE: 0 } as const;

const RECEIVE = 0;
const TRANSMIT = 1;
const QUEUE_SIZE = 64;
/** §5.3.4: cols, rows, max_nr_ports, emerg_wr. */
const CONFIG_BYTES = 12;
/** Bytes that are delivered at once. */
const PIECE = 64 << 10;
/** Bytes that one turn of the event loop delivers. */
const TURN_BYTES = 1 << 20;
/** What is delivered at most when the machine has ended: a chain may claim 4 GiB. */
const LAST_BYTES = 16 << 20;
const SIZE_MAX = 0xffff;
/** What the shortest chain takes of a turn. */
const CHAIN_COST = 64;

/**
 * The owner's side is that of a UART's back. While it is paused transmit buffers stay with the device, and the guest
 * waits when it has used up its queue; nothing is buffered in here, in either direction.
 */
export class VirtioConsole implements VirtioDevice {
  readonly offer: VirtioOffer;
  #host: DeviceHost | undefined;
  #receive: Virtqueue | undefined;
  #transmit: Virtqueue | undefined;
  #onOutput: (bytes: Uint8Array) => void = () => undefined;
  #onWritable: () => void = () => undefined;
  /** The chain that is being delivered, and how much of it was. */
  #current: DescriptorChain | undefined;
  #delivered = 0;
  #wantsSpace = false;
  #isPaused = false;
  #isClosed = false;
  #turn: NodeJS.Immediate | undefined;
  #lost = 0;
  #sum = { bytesOut: 0, bytesIn: 0 };

  /** @param size of the terminal behind it, in characters, until `resize` says otherwise */
  constructor(size: { readonly columns: number; readonly rows: number } = { columns: 80, rows: 24 }) {
    const config = new Uint8Array(CONFIG_BYTES);
    config.set(sizeBytes(size.columns, size.rows));
    // max_nr_ports: one, though it means something with MULTIPORT only.
    config[4] = 1;
    this.offer = {
      name: 'console',
      deviceId: DEVICE_ID.CONSOLE,
      features: [CONSOLE_FEATURE.SIZE],
      queueSizes: [QUEUE_SIZE, QUEUE_SIZE],
      config,
    };
  }

  attach(host: DeviceHost): void {
    this.#host = host;
  }

  activate(link: DeviceLink): void {
    this.#receive = link.queue(RECEIVE);
    this.#transmit = link.queue(TRANSMIT);
  }

  notify(queue: number): void {
    if (queue === TRANSMIT) this.#deliver(TURN_BYTES);
    else if (this.#wantsSpace) {
      this.#wantsSpace = false;
      this.#onWritable();
    }
  }

  cancel(queue?: number): void {
    if (queue !== RECEIVE) {
      clearImmediate(this.#turn);
      const chain = this.#current;
      const transmit = this.#transmit;
      this.#current = this.#transmit = undefined;
      this.#delivered = 0;
      if (chain !== undefined) transmit?.push(chain, 0);
    }
    if (queue !== TRANSMIT) this.#receive = undefined;
  }

  /** `callback` gets its own copy of the bytes, in the guest's order. */
  onOutput(callback: (bytes: Uint8Array) => void): void {
    this.#onOutput = callback;
  }

  /** Called when `write` had refused bytes and the guest has given buffers again. */
  onWritable(callback: () => void): void {
    this.#onWritable = callback;
  }

  /** Bytes that the guest had sent and that nobody was given, because the machine ended. */
  get lostBytes(): number {
    return this.#lost;
  }

  /** Hands input to the guest. @returns how many bytes were accepted; `onWritable` tells when to offer the rest */
  write(bytes: Uint8Array): number {
    const queue = this.#receive;
    let done = 0;
    if (!this.#isClosed && queue !== undefined) {
      while (done < bytes.length) {
        const chain = queue.pop();
        if (chain === undefined) break;
        const count = chain.writable.copyFrom(done === 0 ? bytes : bytes.subarray(done));
        queue.push(chain, count);
        done += count;
      }
      queue.flush();
    }
    this.#wantsSpace = done < bytes.length;
    this.#sum.bytesIn += done;
    return done;
  }

  /** Delivers what the guest has sent so far. @returns how many bytes */
  drain(): number {
    return this.#isPaused ? 0 : this.#deliver(LAST_BYTES);
  }

  /** Leaves the guest's output where it is, because its taker is behind. */
  pause(): void {
    this.#isPaused = true;
  }

  resume(): void {
    if (!this.#isPaused) return;
    this.#isPaused = false;
    this.#deliver(TURN_BYTES);
  }

  /**
   * Tells the driver the size of the terminal.
   * @throws RangeError when one of them is not a whole number from 1 to 65535
   */
  resize(columns: number, rows: number): void {
    this.#host?.setConfig(0, sizeBytes(columns, rows));
  }

  counters(): Readonly<Record<string, number>> {
    return { ...this.#sum };
  }

  /** Delivers what is left and stops. The vCPUs must have stopped. */
  close(): void {
    if (this.#isClosed) return;
    this.#isPaused = false;
    this.#deliver(LAST_BYTES);
    this.#isClosed = true;
    clearImmediate(this.#turn);
    if (this.#current !== undefined) this.#lost = this.#current.readable.bytes - this.#delivered;
  }

  /** @returns how many bytes were delivered; when `budget` was not enough, the rest comes in another turn */
  #deliver(budget: number): number {
    const queue = this.#transmit;
    if (queue === undefined || this.#isClosed) return 0;
    let done = 0;
    let cost = 0;
    // A callback of the output may pause or close us.
    while (!this.#isPaused && !this.#isClosed) {
      if (cost >= budget) {
        clearImmediate(this.#turn);
        this.#turn = setImmediate(() => void this.#deliver(TURN_BYTES));
        break;
      }
      const chain = (this.#current ??= queue.pop());
      if (chain === undefined) break;
      const left = chain.readable.bytes - this.#delivered;
      const piece = new Uint8Array(Math.min(left, PIECE));
      chain.readable.copyTo(piece, this.#delivered);
      this.#delivered += piece.length;
      done += piece.length;
      // A driver that sends empty chains without end has its turn, too.
      cost += Math.max(piece.length, CHAIN_COST);
      if (this.#delivered === chain.readable.bytes) {
        this.#current = undefined;
        this.#delivered = 0;
        queue.push(chain, 0);
      }
      if (piece.length > 0) this.#onOutput(piece);
    }
    queue.flush();
    this.#sum.bytesOut += done;
    return done;
  }
}

function sizeBytes(columns: number, rows: number): Uint8Array {
  for (const size of [columns, rows])
    if (!Number.isInteger(size) || size < 1 || size > SIZE_MAX)
      throw new RangeError(`a terminal has 1 to ${SIZE_MAX} columns and rows, not ${columns} by ${rows}`);
  return Uint8Array.of(columns & 0xff, columns >>> 8, rows & 0xff, rows >>> 8);
}
