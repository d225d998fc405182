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

/**
 * The guest's output.
 * @param overflow what happens when nobody reads: `wait` stalls the guest's port, `drop` loses bytes and counts them
 * @param tap sees every byte, also those that are dropped
 */
export class SerialOutput extends Readable {
  /** Bytes lost because nobody read them. */
  dropped = 0;
  #full = false;

  constructor(
    private readonly line: SerialLine,
    overflow: 'drop' | 'wait',
    tap?: (bytes: Uint8Array) => void,
  ) {
    super({ highWaterMark: HIGH_WATER });
    line.onOutput((bytes) => {
      tap?.(bytes);
      if (this.#full && overflow === 'drop') {
        this.dropped += bytes.length;
        return;
      }
      if (!this.push(Buffer.from(bytes))) {
        this.#full = true;
        if (overflow === 'wait') line.pause();
      }
    });
  }

  override _read(): void {
    if (!this.#full) return;
    this.#full = false;
    this.line.resume();
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
