// The console device, one port: what the guest prints on hvc0 goes to a callback, what is written goes to the guest.
// VIRTIO 1.2 §5.3 (console device): receiveq, transmitq, size in the configuration space.
import { DEVICE_ID } from './abi.js';
import type { DeviceHost, DeviceLink, VirtioDevice, VirtioOffer } from './device.js';
import { guarded } from './guarded.js';
import type { DescriptorChain, Virtqueue } from './queue.js';

/** VIRTIO 1.2 §5.3.3. */
export const CONSOLE_FEATURE = { SIZE: 0 } as const;

const RECEIVE = 0;
const TRANSMIT = 1;
const QUEUE_SIZE = 64;
/** §5.3.4: cols, rows, max_nr_ports, emerg_wr. */
const CONFIG_BYTES = 12;
/** Bytes that are delivered at once, at most. */
const PIECE = 64 << 10;
/** Bytes that one turn of the event loop delivers, and the machine's end: a chain may claim 4 GiB. */
const TURN_BYTES = 1 << 20;
const SIZE_MAX = 0xffff;
/** What a chain takes of a turn, besides its bytes. */
const CHAIN_COST = 64;
/** A driver that gives empty buffers as fast as they are taken holds nobody up for longer. */
const CHAINS_AT_ONCE = 1024;

/**
 * The owner's side is that of a UART's back. While it is paused transmit buffers stay with the device, and the guest
 * waits (Linux for every single one, spinning); nothing is buffered in here, in either direction.
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
  readonly #piece = new Uint8Array(PIECE);
  #wantsSpace = false;
  #isPaused = false;
  #isClosed = false;
  /** The next turns of output and input, when one was not enough. */
  #turn: NodeJS.Immediate | undefined;
  #inputTurn: NodeJS.Immediate | undefined;
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
    if (queue === TRANSMIT) {
      // Doorbells do not add to the work of a turn.
      if (this.#turn === undefined) this.#deliver(TURN_BYTES);
    } else this.#tellWritable();
  }

  cancel(queue?: number): void {
    if (queue !== RECEIVE) {
      clearImmediate(this.#turn);
      this.#turn = undefined;
      const chain = this.#current;
      const transmit = this.#transmit;
      this.#current = this.#transmit = undefined;
      this.#delivered = 0;
      if (chain !== undefined) transmit?.push(chain, 0);
    }
    if (queue !== TRANSMIT) {
      clearImmediate(this.#inputTurn);
      this.#inputTurn = undefined;
      this.#receive = undefined;
    }
  }

  /** A chain that was delivered in part is delivered whole: its first bytes must not come a second time. */
  settle(): void {
    const queue = this.#transmit;
    if (queue === undefined) return;
    while (this.#current !== undefined) {
      const { bytes } = this.#collect(queue);
      if (bytes > 0) this.#onOutput(this.#piece.slice(0, bytes));
    }
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

  /** Hands input to the guest. @returns how many bytes fitted into its buffers; `onWritable` tells when to offer the rest */
  write(bytes: Uint8Array): number {
    if (this.#isClosed) return 0;
    const queue = this.#receive;
    let done = 0;
    let chains = 0;
    while (done < bytes.length && chains < CHAINS_AT_ONCE) {
      const chain = queue?.pop();
      if (chain === undefined) break;
      const count = chain.writable.copyFrom(done === 0 ? bytes : bytes.subarray(done));
      queue?.push(chain, count);
      done += count;
      chains++;
    }
    queue?.flush();
    if (chains === CHAINS_AT_ONCE) this.#askAgain();
    this.#wantsSpace = done < bytes.length;
    this.#sum.bytesIn += done;
    return done;
  }

  /** Delivers what the guest has sent so far, a turn's bytes at most. @returns how many; none while it is paused */
  drain(): number {
    return this.#deliver(TURN_BYTES);
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
    const bytes = sizeBytes(columns, rows);
    this.#host?.setConfig(0, bytes);
  }

  counters(): Readonly<Record<string, number>> {
    return { ...this.#sum };
  }

  /** Delivers what is left, a turn's bytes at most, and stops. The vCPUs must have stopped. */
  close(): void {
    if (this.#isClosed) return;
    this.#deliver(TURN_BYTES, true);
    this.#isClosed = true;
    clearImmediate(this.#turn);
    clearImmediate(this.#inputTurn);
    this.#lost = this.#countLeft();
  }

  /**
   * Delivers what the guest has sent, in pieces as large as there are bytes; what the budget is not enough for comes in
   * another turn.
   * @param isLast goes on when the taker asks for a pause, because no other turn comes
   * @returns how many bytes
   */
  #deliver(budget: number, isLast = false): number {
    let done = 0;
    let cost = 0;
    // A callback of the output may pause or close us.
    for (;;) {
      const queue = this.#isClosed || (this.#isPaused && !isLast) ? undefined : this.#transmit;
      if (queue === undefined) break;
      if (cost >= budget) {
        this.#comeAgain();
        break;
      }
      const { bytes, chains } = this.#collect(queue);
      if (chains === 0) break;
      done += bytes;
      // A driver that sends empty chains without end has its turn, too.
      cost += bytes + chains * CHAIN_COST;
      if (bytes > 0) this.#onOutput(this.#piece.slice(0, bytes));
    }
    this.#sum.bytesOut += done;
    return done;
  }

  /** Copies what the guest has sent into the piece, and gives back the chains of which everything was copied. */
  #collect(queue: Virtqueue): { readonly bytes: number; readonly chains: number } {
    let bytes = 0;
    let chains = 0;
    while (bytes < PIECE && chains < CHAINS_AT_ONCE) {
      const chain = (this.#current ??= queue.pop());
      if (chain === undefined) break;
      chains++;
      const count = chain.readable.copyTo(bytes === 0 ? this.#piece : this.#piece.subarray(bytes), this.#delivered);
      bytes += count;
      this.#delivered += count;
      if (this.#delivered < chain.readable.bytes) break;
      this.#current = undefined;
      this.#delivered = 0;
      queue.push(chain, 0);
    }
    // Before the bytes are looked at: Linux spins until it has its buffer back.
    queue.flush();
    return { bytes, chains };
  }

  #comeAgain(): void {
    this.#turn ??= setImmediate(() => {
      this.#turn = undefined;
      guarded(this.#host, () => this.#deliver(TURN_BYTES));
    });
  }

  #tellWritable(): void {
    if (!this.#wantsSpace || this.#isClosed) return;
    this.#wantsSpace = false;
    this.#onWritable();
  }

  // No doorbell would tell: it is armed only when there was no buffer left.
  #askAgain(): void {
    this.#inputTurn ??= setImmediate(() => {
      this.#inputTurn = undefined;
      guarded(this.#host, () => this.#tellWritable());
    });
  }

  /** Bytes of the chains that nobody was given; they go back. */
  #countLeft(): number {
    let left = 0;
    for (let n = 0; n < QUEUE_SIZE; n++) {
      const chain = this.#current ?? this.#transmit?.pop();
      if (chain === undefined) break;
      left += chain.readable.bytes - this.#delivered;
      this.#current = undefined;
      this.#delivered = 0;
      this.#transmit?.push(chain, 0);
    }
    return left;
  }
}

function sizeBytes(columns: number, rows: number): Uint8Array {
  for (const size of [columns, rows])
    if (!Number.isInteger(size) || size < 1 || size > SIZE_MAX)
      throw new RangeError(`a terminal has 1 to ${SIZE_MAX} columns and rows, not ${columns} by ${rows}`);
  return Uint8Array.of(columns & 0xff, columns >>> 8, rows & 0xff, rows >>> 8);
}
