// The block device: takes requests off its queue, hands them to a backend, and answers in whatever order it is done.
// VIRTIO 1.2 §5.2 (block device).
import { SECTOR_BYTES, type BlockBackend } from '../backend/block-backend.js';
import { errnoWords } from '../backend/host-file.js';
import { RateLimiter, type RateLimits } from '../backend/rate-limit.js';
import { BLOCK_QUEUE_SIZE, blockOffer } from './block-config.js';
import {
  ANSWER,
  BLOCK_FEATURE,
  checkRequest,
  ID_BYTES,
  parseHeader,
  parseRanges,
  REQUEST,
  REQUEST_HEADER_BYTES,
  type Answer,
  type BlockHeader,
  type BlockLimits,
  type ByteRange,
} from './block-request.js';
import type { DeviceHost, DeviceLink, VirtioDevice, VirtioOffer } from './device.js';
import { guarded } from './guarded.js';
import type { DescriptorChain, Virtqueue } from './queue.js';

/** When a rate limit lets the next request through. */
export interface BlockTimer {
  /** Milliseconds of a clock that does not go back. */
  now(): number;
  /** @returns what calls it off */
  after(milliseconds: number, callback: () => void): () => void;
}

export interface BlockOptions {
  /** `disk0`. */
  readonly name: string;
  readonly backend: BlockBackend;
  /** What GET_ID gives: the first 20 bytes of its UTF-8. */
  readonly id: string;
  readonly limits?: RateLimits;
  /** Default: the host's. */
  readonly timer?: BlockTimer;
}

const HOST_TIMER: BlockTimer = {
  now: () => performance.now(),
  after: (milliseconds, callback) => {
    const timeout = setTimeout(callback, milliseconds);
    return () => clearTimeout(timeout);
  },
};

/** What a backend is asked for, to a person. */
const WORDS: Readonly<Record<number, string>> = {
  [REQUEST.IN]: 'a read',
  [REQUEST.OUT]: 'a write',
  [REQUEST.FLUSH]: 'a flush',
  [REQUEST.DISCARD]: 'a discard',
  [REQUEST.WRITE_ZEROES]: 'a write of zeros',
};

export class VirtioBlock implements VirtioDevice {
  readonly offer: VirtioOffer;
  readonly #backend: BlockBackend;
  readonly #id = new Uint8Array(ID_BYTES);
  readonly #timer: BlockTimer;
  readonly #rate: RateLimiter | undefined;
  readonly #counters = {
    reads: 0,
    writes: 0,
    flushes: 0,
    discards: 0,
    bytesRead: 0,
    bytesWritten: 0,
    errors: 0,
    waits: 0,
  };
  readonly #header: BlockHeader = { type: 0, sector: 0 };
  readonly #headerBytes = new Uint8Array(REQUEST_HEADER_BYTES);
  readonly #headerView = new DataView(this.#headerBytes.buffer);
  readonly #handleOne = (chain: DescriptorChain): boolean => this.#handle(chain);
  readonly #flushOne = (): void => this.#flushQueue();
  #limits: BlockLimits;
  #hasFlush = false;
  #host: DeviceHost | undefined;
  #queue: Virtqueue | undefined;
  /** By head of their chain; each belongs to the queue of its chain. */
  #transfers: (Transfer | undefined)[] = [];
  /** The queue is flushed when the batch that is being handled, or answered, is over. */
  #isFlushDue = false;
  #callOff: (() => void) | undefined;

  constructor({ name, backend, id, limits = {}, timer = HOST_TIMER }: BlockOptions) {
    const { capacityBytes, readOnly } = backend;
    const capacitySectors = capacityBytes / SECTOR_BYTES;
    this.offer = blockOffer(name, capacitySectors, readOnly);
    this.#backend = backend;
    this.#timer = timer;
    this.#limits = { capacitySectors, readOnly, hasDiscard: false, hasWriteZeroes: false };
    new TextEncoder().encodeInto(id, this.#id);
    if (limits.bytesPerSecond !== undefined || limits.operationsPerSecond !== undefined)
      this.#rate = new RateLimiter(limits, () => timer.now());
  }

  attach(host: DeviceHost): void {
    this.#host = host;
    this.#backend.attach?.((error) => host.fail(error));
  }

  activate(link: DeviceLink): void {
    this.#queue = link.queue(0);
    this.#transfers = Array.from({ length: BLOCK_QUEUE_SIZE });
    this.#hasFlush = link.has(BLOCK_FEATURE.FLUSH);
    this.#limits = {
      ...this.#limits,
      hasDiscard: link.has(BLOCK_FEATURE.DISCARD),
      hasWriteZeroes: link.has(BLOCK_FEATURE.WRITE_ZEROES),
    };
  }

  notify(): void {
    const queue = this.#queue;
    if (queue === undefined) return;
    // Answers that come while the batch is handed over are shown to the driver together.
    this.#isFlushDue = true;
    queue.each(this.#handleOne);
    this.#backend.submit();
    this.#isFlushDue = false;
    queue.flush();
  }

  cancel(): void {
    // Requests that wait for their turn were never taken off the queue.
    this.#callOff?.();
    this.#callOff = undefined;
    this.#queue = undefined;
  }

  /** An overlay's map, too: so nothing is left to be written when the disk is closed. */
  async persist(): Promise<void> {
    if (this.#backend.readOnly) return;
    const errno = await new Promise<number>((resolve) => {
      this.#backend.flush(resolve);
      this.#backend.submit();
    });
    if (errno !== 0) throw new Error(`${this.offer.name}: a flush failed: ${errnoWords(errno)}`);
  }

  async close(): Promise<void> {
    this.cancel();
    await this.#backend.close();
  }

  counters(): Readonly<Record<string, number>> {
    return { ...this.#counters };
  }

  /** Called by a transfer whose backend is done. */
  finish(transfer: Transfer, errno: number): void {
    guarded(this.#host, () => this.#finish(transfer, errno));
  }

  #finish(transfer: Transfer, errno: number): void {
    if (errno !== 0) {
      const { type, position, bytes } = transfer;
      this.#host?.warn(`${WORDS[type]} of ${bytes} bytes at ${position} failed: ${errnoWords(errno)}`);
    }
    this.#answer(transfer.queue, transfer.chain, transfer.place, errno === 0 ? ANSWER.OK : ANSWER.IOERR);
    if (this.#isFlushDue) return;
    // Answers come in batches, too: all of this turn of the event loop cost one interrupt.
    this.#isFlushDue = true;
    queueMicrotask(this.#flushOne);
  }

  #flushQueue(): void {
    this.#isFlushDue = false;
    guarded(this.#host, () => this.#queue?.flush());
  }

  /** @returns false when the chain went back, and the ones behind it have to wait */
  #handle(chain: DescriptorChain): boolean {
    const { readable, writable } = chain;
    const queue = this.#queue;
    if (queue === undefined) return false;
    // §5.2.6: the status is the last byte that the device writes. Without it there is nobody to tell.
    const place = writable.takeLastByte();
    if (place < 0) {
      this.#counters.errors++;
      queue.push(chain, 0);
      return true;
    }
    // Framed in any way: §2.7.4.
    readable.copyTo(this.#headerBytes);
    if (!readable.dropFirst(REQUEST_HEADER_BYTES)) {
      this.#answer(queue, chain, place, ANSWER.IOERR);
      return true;
    }
    const header = this.#header;
    parseHeader(this.#headerView, header);
    const { type } = header;
    const verdict = checkRequest(header, writable.bytes, readable.bytes, this.#limits);
    if (verdict !== ANSWER.OK) {
      this.#answer(queue, chain, place, verdict);
      return true;
    }
    if (type === REQUEST.GET_ID) {
      writable.fill(0);
      writable.copyFrom(this.#id);
      this.#answer(queue, chain, place, ANSWER.OK);
      return true;
    }
    let ranges: readonly ByteRange[] | undefined;
    if (type === REQUEST.DISCARD || type === REQUEST.WRITE_ZEROES) {
      const bytes = new Uint8Array(readable.bytes);
      readable.copyTo(bytes);
      const parsed = parseRanges(type, bytes, this.#limits);
      if (typeof parsed === 'number') {
        this.#answer(queue, chain, place, parsed);
        return true;
      }
      ranges = parsed;
    }
    const data = type === REQUEST.IN ? writable : readable;
    const bytes = ranges === undefined && type !== REQUEST.FLUSH ? data.bytes : 0;
    if (this.#rate !== undefined) {
      const wait = this.#rate.admit(bytes);
      if (wait > 0) {
        queue.unpop(chain);
        this.#waitFor(wait);
        return false;
      }
    }
    const transfer = (this.#transfers[chain.head] ??= new Transfer(this, queue, chain));
    transfer.type = type;
    transfer.place = place;
    transfer.position = header.sector * SECTOR_BYTES;
    transfer.bytes = bytes;
    this.#start(transfer, ranges);
    return true;
  }

  #start(transfer: Transfer, ranges: readonly ByteRange[] | undefined): void {
    const { chain, type, position, bytes, done } = transfer;
    const backend = this.#backend;
    const counters = this.#counters;
    if (type === REQUEST.IN) {
      counters.reads++;
      counters.bytesRead += bytes;
      backend.read(position, chain.writable, done);
    } else if (type === REQUEST.OUT) {
      counters.writes++;
      counters.bytesWritten += bytes;
      backend.write(position, chain.readable, this.#hasFlush ? done : this.#durable(done));
    } else if (ranges === undefined) {
      counters.flushes++;
      backend.flush(done);
    } else {
      counters.discards++;
      this.#startRange(transfer, ranges, 0);
    }
  }

  /** One after the other. */
  #startRange(transfer: Transfer, ranges: readonly ByteRange[], index: number): void {
    const range = ranges[index] as ByteRange;
    const isLast = index === ranges.length - 1;
    const done = this.#hasFlush ? transfer.done : this.#durable(transfer.done);
    transfer.position = range.position;
    transfer.bytes = range.length;
    const next = (errno: number): void => {
      if (isLast || errno !== 0) {
        done(errno);
        return;
      }
      guarded(this.#host, () => {
        this.#startRange(transfer, ranges, index + 1);
        this.#backend.submit();
      });
    };
    if (transfer.type === REQUEST.DISCARD) this.#backend.discard(range.position, range.length, next);
    else this.#backend.writeZeroes(range.position, range.length, next);
  }

  /** §5.2.6.2: without FLUSH the driver may rely on every write once it is answered. */
  #durable(done: (errno: number) => void): (errno: number) => void {
    return (errno) => {
      if (errno !== 0) {
        done(errno);
        return;
      }
      guarded(this.#host, () => {
        this.#backend.flush(done);
        this.#backend.submit();
      });
    };
  }

  #answer(queue: Virtqueue, chain: DescriptorChain, place: number, answer: Answer): void {
    const { writable } = chain;
    if (answer !== ANSWER.OK) this.#counters.errors++;
    writable.storeAt(place, answer);
    queue.push(chain, writable.bytes + 1);
  }

  #waitFor(milliseconds: number): void {
    if (this.#callOff !== undefined) return;
    this.#counters.waits++;
    this.#callOff = this.#timer.after(milliseconds, () => {
      this.#callOff = undefined;
      guarded(this.#host, () => this.notify());
    });
  }
}

/** One request with the backend. There is one for each chain of a queue, used again and again. */
class Transfer {
  type = 0;
  /** Where the status goes. */
  place = 0;
  position = 0;
  bytes = 0;
  readonly done: (errno: number) => void;

  constructor(
    device: VirtioBlock,
    readonly queue: Virtqueue,
    readonly chain: DescriptorChain,
  ) {
    this.done = (errno) => device.finish(this, errno);
  }
}
