// The owner's half of a 16550A: takes what the guest sends off the ring, and puts the host's input into it.
// PC16550D data sheet §8.4–8.7; no vCPU ever waits for anything in here.
import type { IrqLine } from '../irq-line.js';
import { Wake } from '../wake.js';
import {
  FIFO_DEPTH,
  IER,
  inputIsOpen,
  raiseTransmitterEmpty,
  type UartOptions,
  type UartState,
} from './uart16550-state.js';

/** What the back needs of an EventFd. */
export interface Bell {
  signal(): void;
  onReadable(callback: () => void): { close(): void };
}

/** After output the owner collects for so long before it asks for a signal again. */
const BATCH_MILLISECONDS = 4;
/** Shortest and longest time after which input that nobody takes is announced again. */
const TIME_OUT_FIRST = 8;
const TIME_OUT_LAST = 1024;

/**
 * Output: the first byte after a silence rings the bell and is delivered at once; from then on the owner comes by
 * itself every few milliseconds, until it finds nothing.
 * Input: `write` takes what fits; when that was not all, `onWritable` tells when half of the ring is free.
 */
export class UartBack {
  readonly #state: UartState;
  readonly #options: UartOptions;
  readonly #irq: IrqLine;
  readonly #wake: Wake;
  readonly #watch: { close(): void };
  readonly #batchMilliseconds: number;
  readonly #scratch: Uint8Array;
  #onOutput: (bytes: Uint8Array) => void = () => undefined;
  #onWritable: () => void = () => undefined;
  #batchTimer: NodeJS.Timeout | undefined;
  #inputTimer: NodeJS.Timeout | undefined;
  #isPaused = false;
  #isClosed = false;
  #wantsSpace = false;

  constructor(
    state: UartState,
    options: UartOptions,
    parts: { readonly irq: IrqLine; readonly bell: Bell; readonly batchMilliseconds?: number },
  ) {
    this.#state = state;
    this.#options = options;
    this.#irq = parts.irq;
    this.#batchMilliseconds = parts.batchMilliseconds ?? BATCH_MILLISECONDS;
    this.#wake = new Wake(state.fields.OWNER_ASLEEP, parts.bell);
    this.#scratch = new Uint8Array(state.tx.capacity);
    this.#watch = parts.bell.onReadable(() => this.#onBell());
    this.#sleep();
  }

  /** `callback` gets its own copy of the bytes, in the order in which the guest sent them. */
  onOutput(callback: (bytes: Uint8Array) => void): void {
    this.#onOutput = callback;
  }

  /** Called when `write` had refused bytes and there is room again. */
  onWritable(callback: () => void): void {
    this.#onWritable = callback;
  }

  /** Bytes that the guest sent while the ring was full, modulo 2^32. */
  get lostBytes(): number {
    return this.#state.fields.TX_LOST.get();
  }

  /**
   * Delivers what has been sent so far. Once all vCPUs have stopped, one call delivers every byte that is left.
   * @returns how many bytes were delivered
   */
  drain(): number {
    const { tx, fields } = this.#state;
    const count = tx.takeMany(this.#scratch);
    // Partner: Uart16550's withhold. The ring is freed first, so one of the two sees the other.
    if (!this.#isClosed && tx.free >= FIFO_DEPTH && fields.TX_WITHHELD.exchange(0) !== 0)
      raiseTransmitterEmpty(this.#state, this.#irq);
    if (count > 0) this.#onOutput(this.#scratch.slice(0, count));
    return count;
  }

  /**
   * After the state of a saved machine was put in, before its vCPUs run: what the guest was told, and may not have
   * heard, it is told again.
   */
  adopt(): void {
    const { rx, fields } = this.#state;
    if (fields.IER.get() !== 0) this.#irq.pulse();
    if (rx.length > 0) this.#watchInput(TIME_OUT_FIRST);
  }

  /** Leaves output in the ring, because its taker is behind; with `onFull: 'wait'` the guest feels it. */
  pause(): void {
    this.#isPaused = true;
    clearTimeout(this.#batchTimer);
    this.#batchTimer = undefined;
  }

  resume(): void {
    if (!this.#isPaused || this.#isClosed) return;
    this.#isPaused = false;
    this.#collect();
  }

  /** Hands input to the guest. @returns how many bytes were accepted; `onWritable` tells when to offer the rest */
  write(bytes: Uint8Array): number {
    if (this.#isClosed) return 0;
    const { rx, fields } = this.#state;
    let count = rx.pushMany(bytes);
    if (count < bytes.length) {
      this.#wantsSpace = true;
      // Say so first, then try again: the front looks at the flag after it took a byte.
      fields.RX_SPACE_WANTED.set(1);
      count += rx.pushMany(bytes.subarray(count));
      if (count === bytes.length) {
        this.#wantsSpace = false;
        fields.RX_SPACE_WANTED.set(0);
      }
    }
    if (count > 0) {
      this.#announceInput();
      this.#watchInput(TIME_OUT_FIRST);
    }
    return count;
  }

  /** Delivers what is there and stops; it interrupts no one any more. The vCPUs must have stopped. */
  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#watch.close();
    clearTimeout(this.#batchTimer);
    clearTimeout(this.#inputTimer);
    this.drain();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #onBell(): void {
    if (this.#isClosed) return;
    if (!this.#isPaused) this.#collect();
    if (this.#wantsSpace && this.#state.fields.RX_SPACE_WANTED.get() === 0) {
      this.#wantsSpace = false;
      this.#onWritable();
    }
  }

  #collect(): void {
    if (this.drain() > 0) this.#comeAgain();
    else if (this.#batchTimer === undefined) this.#sleep();
  }

  #comeAgain(): void {
    // A callback of the output may have paused or closed us.
    if (this.#isPaused || this.#isClosed || this.#batchTimer !== undefined) return;
    this.#batchTimer = setTimeout(() => {
      this.#batchTimer = undefined;
      this.#collect();
    }, this.#batchMilliseconds);
    this.#batchTimer.unref();
  }

  #sleep(): void {
    this.#wake.prepareSleep();
    // A byte that came before the flag was up rang no bell; one that came after it has.
    if (this.#state.tx.isReady && this.#wake.stayAwake()) this.#comeAgain();
  }

  #announceInput(): void {
    const { rx, fields } = this.#state;
    if ((fields.IER.get() & IER.RDI) !== 0 && rx.isReady && inputIsOpen(this.#state, this.#options.flowControl))
      this.#irq.pulse();
  }

  /**
   * The receiver's time-out: as long as characters wait and the processor reads none, the interrupt comes again, for
   * drivers that take one character an interrupt; ever more seldom, for guests that do not care.
   */
  #watchInput(milliseconds: number): void {
    const { rx } = this.#state;
    const taken = rx.taken;
    // One at a time: input may have been written before the state of a saved machine was adopted.
    clearTimeout(this.#inputTimer);
    this.#inputTimer = setTimeout(() => {
      if (rx.length === 0) return;
      const hasMoved = rx.taken !== taken;
      this.#announceInput();
      this.#watchInput(hasMoved ? TIME_OUT_FIRST : Math.min(milliseconds * 2, TIME_OUT_LAST));
    }, milliseconds);
    this.#inputTimer.unref();
  }
}
