// Runs one command in the default guest over a serial line: stdin, stdout and stderr as streams, and its status.
// The frames are those of exec-protocol.ts; the line must not lose bytes (a UART that waits when it is full).
import { Readable, Writable } from 'node:stream';
import { ExecDecoder, ExecEncoder, exitStatus, type ExecCommand, type ExecEvent } from './exec-protocol.js';
import { SerialInput, type SerialLine } from './serial-streams.js';

/** Bytes of the command's output that wait for a reader before the guest is stalled. */
const HIGH_WATER = 256 << 10;
/** Bytes of stdin that wait for credit before the writer is told to wait. */
const MAX_PENDING = 64 << 10;

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
  readonly #toGuest: SerialInput;
  readonly #line: SerialLine;
  /** Outputs whose readers are behind. The line carries both, so one of them stalls it. */
  readonly #behind = new Set<Readable>();
  #waitingWriter: (() => void) | undefined;
  #message: string | undefined;
  #isReady: () => void = () => undefined;
  #end: (end: CommandEnd) => void = () => undefined;
  #fail: (error: Error) => void = () => undefined;

  /** @throws RangeError for a command that the guest would not take */
  constructor(line: SerialLine, command: ExecCommand) {
    this.#line = line;
    this.#toGuest = new SerialInput(line);
    this.ready = new Promise((resolve) => (this.#isReady = resolve));
    this.ended = new Promise((resolve, reject) => {
      this.#end = resolve;
      this.#fail = reject;
    });
    this.ended.catch(() => undefined);
    this.stdout = this.#output();
    this.stderr = this.#output();
    this.#send(this.#encoder.start(command));
    this.stdin = new Writable({
      write: (chunk: Buffer, _encoding, done) => {
        this.#send(this.#encoder.stdin(chunk));
        if (this.#encoder.pending <= MAX_PENDING) done();
        else this.#waitingWriter = done;
      },
      final: (done) => {
        this.#send(this.#encoder.stdinEnd());
        done();
      },
    });
    // The guest may be gone while a writer still has something: that is the command's end, not an error.
    this.stdin.on('error', () => undefined);
    line.onOutput((bytes) => this.#receive(bytes));
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
    this.#toGuest.destroy();
  }

  #output(): Readable {
    const output: Readable = new Readable({
      highWaterMark: HIGH_WATER,
      read: () => {
        if (this.#behind.delete(output) && this.#behind.size === 0) this.#line.resume();
      },
    });
    return output;
  }

  #send(bytes: Buffer): void {
    if (bytes.length > 0) this.#toGuest.write(bytes);
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
        this.#isReady();
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
    if (output.push(data)) return;
    this.#behind.add(output);
    this.#line.pause();
  }
}
