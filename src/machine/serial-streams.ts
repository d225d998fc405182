// A serial port's host side as Node streams: what the guest prints is readable, what is written goes to the guest.
import { Readable, Writable } from 'node:stream';

/** What is needed of a UART's back: see UartBack. */
export interface SerialLine {
  onOutput(callback: (bytes: Uint8Array) => void): void;
  /** @returns how many bytes were taken; the rest is to be offered again after onWritable */
  write(bytes: Uint8Array): number;
  onWritable(callback: () => void): void;
  /** Stops and restarts the delivery of output; the guest's port fills up meanwhile. */
  pause(): void;
  resume(): void;
}

/** Bytes that wait for a reader before the guest is stalled, or loses what it prints. */
const HIGH_WATER = 1 << 20;
/** Of these a stream keeps so many itself, piece by piece: a piece of one byte takes a hundred. */
const READ_AHEAD = 16 << 10;
const FIRST_BACKLOG = 64 << 10;

/**
 * The guest's output. Bounded in memory, in whatever pieces the guest prints.
 * @param overflow what happens when nobody reads: `wait` stalls the guest's port, `drop` loses bytes and counts them
 * @param tap sees every byte, also those that are dropped
 */
export class SerialOutput extends Readable {
  /** Bytes lost because nobody read them. */
  dropped = 0;
  /** The stream wants nothing until `_read`: what comes meanwhile is appended to the backlog. */
  #isFull = false;
  #isPaused = false;
  #backlog = new Uint8Array();
  #waiting = 0;

  /** The guest is stalled, because nobody reads. */
  get isStalling(): boolean {
    return this.#isPaused;
  }

  constructor(
    private readonly line: SerialLine,
    private readonly overflow: 'drop' | 'wait',
    tap?: (bytes: Uint8Array) => void,
  ) {
    super({ highWaterMark: READ_AHEAD });
    line.onOutput((bytes) => {
      tap?.(bytes);
      if (this.destroyed) this.dropped += bytes.length;
      else if (this.#isFull) this.#keep(bytes);
      else this.#isFull = !this.push(Buffer.from(bytes));
    });
  }

  override _read(): void {
    this.#isFull = false;
    this.#pass();
    this.#goOn();
  }

  /** As by a loop over it that was left: nobody reads any more, and the guest prints on to nobody. */
  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    this.dropped += this.#waiting;
    this.#backlog = new Uint8Array();
    this.#waiting = 0;
    this.#goOn();
    done(error);
  }

  /** Nothing comes any more; what waits can still be read. */
  end(): void {
    this.#pass();
    this.push(null);
  }

  #goOn(): void {
    if (!this.#isPaused) return;
    this.#isPaused = false;
    this.line.resume();
  }

  #pass(): void {
    if (this.#waiting === 0) return;
    const bytes = Buffer.from(this.#backlog.buffer, 0, this.#waiting);
    this.#backlog = new Uint8Array();
    this.#waiting = 0;
    this.#isFull = !this.push(bytes);
  }

  #keep(bytes: Uint8Array): void {
    const room = this.overflow === 'wait' ? bytes.length : HIGH_WATER - this.#waiting;
    const kept = bytes.length <= room ? bytes : bytes.subarray(0, room);
    this.dropped += bytes.length - kept.length;
    const needed = this.#waiting + kept.length;
    if (needed > this.#backlog.length) {
      const grown = new Uint8Array(Math.max(needed, this.#backlog.length * 2, FIRST_BACKLOG));
      grown.set(this.#backlog.subarray(0, this.#waiting));
      this.#backlog = grown;
    }
    this.#backlog.set(kept, this.#waiting);
    this.#waiting = needed;
    if (this.overflow === 'wait' && needed >= HIGH_WATER && !this.#isPaused) {
      this.#isPaused = true;
      this.line.pause();
    }
  }
}

/** The guest's input, with back-pressure: a write is done when the guest's port has taken all of it. */
export class SerialInput extends Writable {
  #rest: Uint8Array = new Uint8Array();
  #done: (() => void) | undefined;

  constructor(private readonly line: SerialLine) {
    super({ decodeStrings: true });
    line.onWritable(() => this.#offer());
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: (error?: Error | null) => void): void {
    this.#rest = chunk;
    this.#done = done;
    this.#offer();
  }

  #offer(): void {
    if (this.#done === undefined) return;
    this.#rest = this.#rest.subarray(this.line.write(this.#rest));
    if (this.#rest.length > 0) return;
    const done = this.#done;
    this.#done = undefined;
    done();
  }
}
