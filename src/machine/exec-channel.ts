// Runs one command in the default guest over a serial line: stdin, stdout and stderr as streams, and its status.
// Or a shell on the guest's console; then the line only carries what a restored guest must be told.
// The frames are those of exec-protocol.ts; the line must not lose bytes (a UART that waits when it is full).
import { Readable, Writable } from 'node:stream';
import { randomBytes } from '../devices/backend/random-source.js';
import {
  ExecDecoder,
  ExecEncoder,
  exitStatus,
  type ExecCommand,
  type ExecEvent,
  type TerminalSize,
} from './exec-protocol.js';
import type { SerialLine } from './serial-streams.js';
import type { SavedExec } from './snapshot/state.js';

/** Bytes of the command's output that wait for a reader before the guest is stalled. */
const HIGH_WATER = 256 << 10;
/** Bytes of stdin that wait for credit before the writer is told to wait. */
const MAX_PENDING = 64 << 10;

/** As the agent takes it. */
const SEED_BYTES = 32;

/** What the guest's agent does: it waits to be told, runs a command, or has started the shell. */
export type ExecTask = 'awaited' | 'command' | 'shell';

/** Where the channel of a machine that was saved had come to, and whether the guest's clock is to be right again. */
export interface RestoredExec {
  readonly saved: SavedExec;
  readonly setsClock: boolean;
}

/** How the command ended. `message` is the guest's word when it could not be run. */
export interface CommandEnd {
  /** As a shell gives it: 128 + n for signal n, 126 and 127 when it could not be run. */
  readonly status: number;
  readonly message: string | undefined;
}

export class ExecChannel {
  readonly stdin: Writable;
  readonly stdout: Readable;
  readonly stderr: Readable;
  /** Resolves when the guest's agent is there; stays open when the guest ends before. */
  readonly ready: Promise<void>;
  /** Resolves with the command's end; rejects when the line carries what is no frame. */
  readonly ended: Promise<CommandEnd>;
  readonly #encoder = new ExecEncoder();
  readonly #decoder = new ExecDecoder();
  readonly #line: SerialLine;
  /** Whole frames, and the rest of one, that the line has not taken yet. */
  #toLine: Uint8Array[] = [];
  #isReady = false;
  #task: ExecTask = 'awaited';
  #isClosed = false;
  /** What the writer of stdin wants to do as soon as there is a command. */
  #afterStart: (() => void) | undefined;
  /** Outputs whose readers are behind. The line carries both, so one of them stalls it. */
  readonly #behind = new Set<Readable>();
  #waitingWriter: (() => void) | undefined;
  #message: string | undefined;
  #markReady: () => void = () => undefined;
  #end: (end: CommandEnd) => void = () => undefined;
  #fail: (error: Error) => void = () => undefined;

  /** @param restored of a machine that was saved */
  constructor(line: SerialLine, restored?: RestoredExec) {
    this.#line = line;
    this.ready = new Promise((resolve) => (this.#markReady = resolve));
    this.ended = new Promise((resolve, reject) => {
      this.#end = resolve;
      this.#fail = reject;
    });
    this.ended.catch(() => undefined);
    this.stdout = this.#output();
    this.stderr = this.#output();
    this.stdin = new Writable({
      write: (chunk: Buffer, _encoding, done) =>
        this.#onceStarted(() => {
          this.#send(this.#encoder.stdin(chunk));
          if (this.#encoder.pending <= MAX_PENDING) done();
          else this.#waitingWriter = done;
        }),
      final: (done) =>
        this.#onceStarted(() => {
          this.#send(this.#encoder.stdinEnd());
          done();
        }),
    });
    // The guest may be gone while a writer still has something: that is the command's end, not an error.
    this.stdin.on('error', () => undefined);
    line.onOutput((bytes) => this.#receive(bytes));
    line.onWritable(() => this.#offer());
    if (restored !== undefined) this.#resume(restored.saved, restored.setsClock);
  }

  /** What the agent was told, here or in the machine that was saved. */
  get task(): ExecTask {
    return this.#task;
  }

  /**
   * What to run; once, before the agent is ready or after.
   * @throws RangeError for a command that the guest would not take; Error when there is one already
   */
  start(command: ExecCommand): void {
    this.#refuseSecond();
    this.#send(this.#encoder.start(command));
    this.#task = 'command';
    const action = this.#afterStart;
    this.#afterStart = undefined;
    action?.();
  }

  /**
   * A shell on the console instead of a command; once. The streams stay empty.
   * @param size of the terminal behind the console, when it is one that cannot tell
   * @throws Error when there is a command or a shell already
   */
  startShell(size: TerminalSize | undefined): void {
    this.#refuseSecond();
    this.#send(this.#encoder.shell(size));
    this.#task = 'shell';
  }

  #refuseSecond(): void {
    if (this.#task !== 'awaited') throw new Error(`the guest has its ${this.#task} already, and its agent runs one`);
  }

  /** For a snapshot, when the line was drained: bytes that lie on it are the line's own to save. */
  save(): SavedExec {
    return {
      isReady: this.#isReady,
      task: this.#task,
      credit: this.#encoder.credit,
      waiting: this.#encoder.waiting.map(([type, payload]) => [type, payload]),
      toLine: Buffer.concat(this.#toLine),
      fromLine: this.#decoder.rest,
    };
  }

  /** Sends a signal (1 to 64) to the command's process group. */
  signal(number: number): void {
    this.#send(this.#encoder.signal(number));
  }

  /** Ends the streams: nothing comes any more. */
  close(): void {
    for (const output of [this.stdout, this.stderr]) output.push(null);
    const writer = this.#waitingWriter;
    this.#waitingWriter = undefined;
    writer?.();
    this.stdin.destroy();
    this.#isClosed = true;
    this.#toLine = [];
  }

  #resume({ isReady, task, credit, waiting, toLine, fromLine }: SavedExec, setsClock: boolean): void {
    this.#task = task;
    this.#encoder.resume(credit, waiting);
    this.#decoder.resume(isReady, fromLine);
    this.#send(toLine);
    if (setsClock) this.#sendClock();
    this.#send(this.#encoder.seed(randomBytes(SEED_BYTES)));
    if (isReady) this.#becomeReady();
  }

  #becomeReady(): void {
    this.#isReady = true;
    this.#markReady();
  }

  #sendClock(): void {
    this.#send(this.#encoder.clock(BigInt(Date.now()) * 1_000_000n));
  }

  #onceStarted(action: () => void): void {
    if (this.#task === 'command') action();
    else this.#afterStart = action;
  }

  #output(): Readable {
    const goOn = (): void => {
      if (this.#behind.delete(output) && this.#behind.size === 0) this.#line.resume();
    };
    const output: Readable = new Readable({
      highWaterMark: HIGH_WATER,
      read: goOn,
      destroy: (error, done) => {
        goOn();
        done(error);
      },
    });
    return output;
  }

  #send(bytes: Uint8Array): void {
    if (bytes.length === 0 || this.#isClosed) return;
    this.#toLine.push(bytes);
    if (this.#toLine.length === 1) this.#offer();
  }

  #offer(): void {
    for (let first = this.#toLine[0]; first !== undefined; first = this.#toLine[0]) {
      const taken = this.#line.write(first);
      if (taken < first.length) {
        this.#toLine[0] = first.subarray(taken);
        return;
      }
      this.#toLine.shift();
    }
  }

  #receive(bytes: Uint8Array): void {
    let events: readonly ExecEvent[];
    try {
      events = this.#decoder.push(bytes);
    } catch (error) {
      this.#fail(error instanceof Error ? error : new Error(String(error)));
      return;
    }
    for (const event of events) this.#handle(event);
  }

  #handle(event: ExecEvent): void {
    switch (event.kind) {
      case 'ready':
        this.#becomeReady();
        this.#sendClock();
        this.#grant(event.credit);
        break;
      case 'credit':
        this.#grant(event.credit);
        break;
      case 'stdout':
        this.#forward(this.stdout, event.data);
        break;
      case 'stderr':
        this.#forward(this.stderr, event.data);
        break;
      case 'error':
        this.#message = event.message;
        break;
      case 'exit':
        this.#end({ status: exitStatus(event), message: this.#message });
        break;
    }
  }

  #grant(credit: number): void {
    this.#send(this.#encoder.grant(credit));
    if (this.#encoder.pending > MAX_PENDING) return;
    const writer = this.#waitingWriter;
    this.#waitingWriter = undefined;
    writer?.();
  }

  #forward(output: Readable, data: Buffer): void {
    // Nobody reads one that was destroyed, such as by a loop that was left: the guest writes on, to nobody.
    if (output.destroyed || output.push(data)) return;
    this.#behind.add(output);
    this.#line.pause();
  }
}
