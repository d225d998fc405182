// A ring of bytes in shared memory for any number of producers and consumers, without locks.
// Compare the wrap counter of VIRTIO 1.2 §2.8.1: a cell says by one bit on which lap it was written.
import type { Field, RegisterFile } from './register-file.js';

const PHASE = 0x100;
/** `take` found nothing. */
export const RING_EMPTY = -1;

/**
 * `tail` and `head` count bytes ever claimed by producers and consumers, modulo 2^32. A producer claims a cell by
 * compareExchange on `tail`, then stores the byte with the phase of this lap: that store publishes it. A consumer
 * looks at the cell at `head`: the other phase means that it is not written yet; else it copies the byte and claims it
 * by compareExchange on `head`. A cell is written again only after `head` has passed it, so a consumer whose
 * compareExchange succeeds has copied the right byte. No interleaving loses or doubles a byte or harms a cursor.
 */
export class ByteRing {
  /** In bytes, a power of two. */
  readonly capacity: number;
  readonly #head: Field;
  readonly #tail: Field;
  readonly #cells: Uint16Array<SharedArrayBuffer>;

  private constructor(head: Field, tail: Field, cells: Uint16Array<SharedArrayBuffer>) {
    this.capacity = cells.length;
    this.#head = head;
    this.#tail = tail;
    this.#cells = cells;
  }

  /** @throws RangeError when `capacity` is no power of two from 2 to 2^24 */
  static allocate(registers: RegisterFile, device: string, name: string, capacity: number): ByteRing {
    if (!(capacity >= 2 && capacity <= 1 << 24) || (capacity & (capacity - 1)) !== 0)
      throw new RangeError(
        `${device}.${name}: a ring's capacity must be a power of two from 2 to 2^24, not ${capacity}`,
      );
    const { head, tail } = registers.allocate(`${device}.${name}`, {
      head: { doc: 'bytes taken so far, modulo 2^32' },
      tail: { doc: 'bytes claimed by producers so far, modulo 2^32' },
    });
    const doc = `${capacity} cells of 16 bits: the byte, and in bit 8 the phase of the lap that wrote it`;
    const area = registers.allocateArea(device, `${name}.cells`, capacity * 2, doc);
    return new ByteRing(head, tail, new Uint16Array(area.buffer, area.byteOffset, capacity));
  }

  /**
   * Whether the ring, while nobody uses it, is one that its operations can have left: cursors that lie less than a lap
   * apart, and cells that are written between them and nowhere else. Others (a file made by hand) would never end a
   * wait for room.
   */
  isSound(): boolean {
    const head = this.#head.get();
    const length = (this.#tail.get() - head) >>> 0;
    if (length > this.capacity) return false;
    for (let i = 0; i < this.capacity; i++) {
      const isWritten = this.#isPublished(head + i, this.#cells[(head + i) & (this.capacity - 1)] as number);
      if (isWritten !== i < length) return false;
    }
    return true;
  }

  /** Bytes claimed by producers and not yet taken. */
  get length(): number {
    const tail = this.#tail.get();
    return Math.min(Math.max((tail - this.#head.get()) | 0, 0), this.capacity);
  }

  get free(): number {
    return this.capacity - this.length;
  }

  /** How many bytes were taken ever, modulo 2^32: a sign of life of the consumers. */
  get taken(): number {
    return this.#head.get();
  }

  /** True when `take` would find a byte now. */
  get isReady(): boolean {
    const head = this.#head.get();
    return this.#isPublished(head, this.#cell(head));
  }

  /** @returns false when the ring is full */
  push(byte: number): boolean {
    const at = this.#claim(1);
    if (this.#claimed === 0) return false;
    this.#publish(at, byte);
    return true;
  }

  /** Adds what fits of `bytes`, in order and contiguously. @returns how many */
  pushMany(bytes: Uint8Array): number {
    const at = this.#claim(bytes.length);
    const count = this.#claimed;
    for (let i = 0; i < count; i++) this.#publish(at + i, bytes[i] ?? 0);
    return count;
  }

  /** @returns the next byte, or RING_EMPTY */
  take(): number {
    for (;;) {
      const head = this.#head.get();
      const cell = this.#cell(head);
      if (!this.#isPublished(head, cell)) {
        // Another consumer may have passed this cell and a producer rewritten it: only an unmoved head means empty.
        if (this.#head.get() === head) return RING_EMPTY;
        continue;
      }
      if (this.#head.compareExchange(head, head + 1) === head) return cell & 0xff;
    }
  }

  /** Moves up to `into.length` bytes. @returns how many */
  takeMany(into: Uint8Array): number {
    for (;;) {
      const head = this.#head.get();
      let count = 0;
      for (; count < into.length && count < this.capacity; count++) {
        const cell = this.#cell(head + count);
        if (!this.#isPublished(head + count, cell)) break;
        into[count] = cell & 0xff;
      }
      if (count === 0) {
        if (this.#head.get() === head) return 0;
      } else if (this.#head.compareExchange(head, head + count) === head) return count;
    }
  }

  /** Drops what is published now. */
  clear(): void {
    for (let left = this.capacity; left > 0 && this.take() !== RING_EMPTY; left--);
  }

  /** Result of the last #claim: a second result without an object. It never outlives the call that reads it. */
  #claimed = 0;

  #claim(wanted: number): number {
    for (;;) {
      // Tail before head: a tail grown old only makes the ring look emptier, and then the compareExchange fails.
      const tail = this.#tail.get();
      const used = (tail - this.#head.get()) | 0;
      if (used < 0) continue;
      const count = Math.min(wanted, this.capacity - used);
      this.#claimed = count;
      if (count <= 0) {
        this.#claimed = 0;
        return tail;
      }
      if (this.#tail.compareExchange(tail, tail + count) === tail) return tail;
    }
  }

  #publish(position: number, byte: number): void {
    Atomics.store(this.#cells, position & (this.capacity - 1), (byte & 0xff) | this.#phase(position));
  }

  #cell(position: number): number {
    return Atomics.load(this.#cells, position & (this.capacity - 1));
  }

  #isPublished(position: number, cell: number): boolean {
    return (cell & PHASE) === this.#phase(position);
  }

  // The first lap has the phase set, since cells start as zero.
  #phase(position: number): number {
    return position & this.capacity ? 0 : PHASE;
  }
}
