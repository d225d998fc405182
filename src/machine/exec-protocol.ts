// The exec protocol, host side: frames to and from the agent that runs one command or a shell in the default guest.
// guests/linux/init/protocol.h describes it; the numbers in both files are the same.

/** First payload bytes of the guest's READY frame; what comes before it on the line is noise of the line's driver. */
const MAGIC = Buffer.from('MVX');
const VERSION = 3;
const HEADER = 3;
export const EXEC_MAX_PAYLOAD = 4096;
/** Bytes that the guest takes for all arguments, and for all environment entries, with a NUL after each. */
export const EXEC_MAX_BLOCK = 131_072;

/** Frame types. */
export const ExecFrame = {
  READY: 0x01,
  STDOUT: 0x02,
  STDERR: 0x03,
  CREDIT: 0x04,
  EXIT: 0x05,
  ERROR: 0x06,
  ARGS: 0x81,
  ENV: 0x82,
  CWD: 0x83,
  START: 0x84,
  STDIN: 0x85,
  STDIN_EOF: 0x86,
  SIGNAL: 0x87,
  SEED: 0x88,
  CLOCK: 0x89,
  SHELL: 0x8a,
} as const;

/** What the guest says. */
export type ExecEvent =
  /** The line is raw, the host may send. `credit` is as in 'credit'. */
  | { readonly kind: 'ready'; readonly credit: number }
  | { readonly kind: 'stdout' | 'stderr'; readonly data: Buffer }
  /** So many more payload bytes of arguments, environment, directory and stdin may be sent. */
  | { readonly kind: 'credit'; readonly credit: number }
  /** The last one. `value` is the status, or the number of the signal that ended the command. */
  | { readonly kind: 'exit'; readonly how: 'exited' | 'signalled'; readonly value: number }
  /** Why the command could not be run; 'exit' with status 126 or 127 follows. */
  | { readonly kind: 'error'; readonly message: string };

/** What to run. */
export interface ExecCommand {
  /** The program, looked up in the guest's PATH when it has no slash, and its arguments. Not empty. */
  readonly argv: readonly string[];
  /** Added to the guest's own environment. */
  readonly env?: Readonly<Record<string, string>> | undefined;
  readonly cwd?: string | undefined;
}

/** The size of a terminal in characters, each up to 65535. */
export interface TerminalSize {
  readonly columns: number;
  readonly rows: number;
}

/** The status that a shell would give for this end: 128 + n for signal n. */
export function exitStatus(event: { readonly how: 'exited' | 'signalled'; readonly value: number }): number {
  return event.how === 'exited' ? event.value : (128 + event.value) & 0xff;
}

function frame(type: number, payload: Uint8Array): Buffer {
  const bytes = Buffer.alloc(HEADER + payload.length);
  bytes.writeUInt8(type, 0);
  bytes.writeUInt16LE(payload.length, 1);
  bytes.set(payload, HEADER);
  return bytes;
}

function parseFrame(type: number, payload: Buffer): ExecEvent {
  const size = payload.length;
  switch (type) {
    case ExecFrame.READY: {
      const version = payload[MAGIC.length];
      if (size !== 8 || version !== VERSION) {
        throw new Error(`the guest's agent speaks version ${version ?? '?'} of the exec protocol, not ${VERSION}`);
      }
      return { kind: 'ready', credit: payload.readUInt32LE(4) };
    }
    case ExecFrame.STDOUT:
      return { kind: 'stdout', data: payload };
    case ExecFrame.STDERR:
      return { kind: 'stderr', data: payload };
    case ExecFrame.CREDIT:
      if (size === 4) return { kind: 'credit', credit: payload.readUInt32LE(0) };
      break;
    case ExecFrame.EXIT:
      if (size === 2 && payload.readUInt8(0) <= 1) {
        return { kind: 'exit', how: payload.readUInt8(0) === 0 ? 'exited' : 'signalled', value: payload.readUInt8(1) };
      }
      break;
    case ExecFrame.ERROR:
      return { kind: 'error', message: payload.toString('utf8') };
  }
  throw new Error(`the guest's agent sent a frame of type 0x${type.toString(16)} with ${size} bytes, which is none`);
}

/**
 * Takes the bytes of the line in any pieces and gives the events that they complete.
 * Throws on what is no frame of the protocol; the stream is lost then.
 */
export class ExecDecoder {
  #rest: Buffer = Buffer.alloc(0);
  #synchronized = false;

  /** The beginning of a frame whose end has not come; for `resume`. */
  get rest(): Uint8Array {
    return this.#rest;
  }

  /** Goes on where another decoder was, after READY or before. */
  resume(isReady: boolean, rest: Uint8Array): void {
    this.#synchronized = isReady;
    this.#rest = Buffer.from(rest);
  }

  push(chunk: Uint8Array): ExecEvent[] {
    let bytes: Buffer = Buffer.concat([this.#rest, chunk]);
    if (!this.#synchronized) bytes = this.#skipNoise(bytes);
    const events: ExecEvent[] = [];
    let at = 0;
    while (this.#synchronized && bytes.length - at >= HEADER) {
      const length = bytes.readUInt16LE(at + 1);
      if (length > EXEC_MAX_PAYLOAD) {
        throw new Error(`the guest's agent announced a frame of ${length} bytes; ${EXEC_MAX_PAYLOAD} is the most`);
      }
      if (bytes.length - at < HEADER + length) break;
      events.push(parseFrame(bytes.readUInt8(at), bytes.subarray(at + HEADER, at + HEADER + length)));
      at += HEADER + length;
    }
    this.#rest = bytes.subarray(at);
    return events;
  }

  /** Drops what precedes the header of READY, and keeps a tail that may be its beginning. */
  #skipNoise(bytes: Buffer): Buffer {
    const start = Buffer.concat([Buffer.from([ExecFrame.READY, 8, 0]), MAGIC]);
    const found = bytes.indexOf(start);
    this.#synchronized = found >= 0;
    return bytes.subarray(found >= 0 ? found : Math.max(bytes.length - start.length + 1, 0));
  }
}

function block(words: readonly string[], what: string): Buffer {
  for (const word of words) {
    if (word.includes('\0')) throw new RangeError(`the command's ${what} have a NUL byte in ${JSON.stringify(word)}`);
  }
  const bytes = Buffer.from(words.map((word) => `${word}\0`).join(''));
  if (bytes.length > EXEC_MAX_BLOCK) {
    throw new RangeError(`the command's ${what} take ${bytes.length} bytes; the guest takes ${EXEC_MAX_BLOCK}`);
  }
  return bytes;
}

/** One payload waiting for credit. */
interface Pending {
  readonly type: number;
  readonly payload: Buffer;
}

/**
 * Makes the bytes for the line, never more than the guest has granted: what has no credit yet waits in here.
 * `pending` tells how much that is, so that a caller can stop reading its own input.
 */
export class ExecEncoder {
  #credit = 0;
  readonly #queue: Pending[] = [];

  /** Payload bytes that wait for credit. */
  get pending(): number {
    return this.#queue.reduce((sum, { payload }) => sum + payload.length, 0);
  }

  /** Payload bytes that could be sent at once. */
  get credit(): number {
    return this.#credit;
  }

  /** Frames that wait for credit; for `resume`. */
  get waiting(): readonly (readonly [type: number, payload: Uint8Array])[] {
    return this.#queue.map(({ type, payload }) => [type, payload]);
  }

  /** Goes on where another encoder was. */
  resume(credit: number, waiting: readonly (readonly [type: number, payload: Uint8Array])[]): void {
    this.#credit = credit;
    for (const [type, payload] of waiting) this.#queue.push({ type, payload: Buffer.from(payload) });
  }

  /** Adds what a 'ready' or 'credit' event granted. @returns what may be sent now */
  grant(credit: number): Buffer {
    this.#credit += credit;
    return this.#drain();
  }

  /** What to run; once. Throws RangeError for a command that the guest would not take. */
  start(command: ExecCommand): Buffer {
    if (command.argv.length === 0 || command.argv[0] === '') throw new RangeError('there is no command to run');
    const variables = Object.entries(command.env ?? {}).map(([name, value]) => `${name}=${value}`);
    const environment = block(variables, 'environment entries');
    this.#queue.push({ type: ExecFrame.ARGS, payload: block(command.argv, 'arguments') });
    if (environment.length > 0) this.#queue.push({ type: ExecFrame.ENV, payload: environment });
    if (command.cwd !== undefined) {
      const path = block([command.cwd], 'directory').subarray(0, -1);
      if (path.length >= EXEC_MAX_PAYLOAD) throw new RangeError(`the command's directory has ${path.length} bytes`);
      this.#queue.push({ type: ExecFrame.CWD, payload: path });
    }
    this.#queue.push({ type: ExecFrame.START, payload: Buffer.alloc(0) });
    return this.#drain();
  }

  /** A shell on the guest's console, instead of a command; once. */
  shell(size: TerminalSize | undefined): Buffer {
    const payload = Buffer.alloc(4);
    payload.writeUInt16LE(size?.columns ?? 0, 0);
    payload.writeUInt16LE(size?.rows ?? 0, 2);
    this.#queue.push({ type: ExecFrame.SHELL, payload });
    return this.#drain();
  }

  /** The time, from which the guest's clock is put right; overtakes what waits. @param nanoseconds since 1970 */
  clock(nanoseconds: bigint): Buffer {
    const payload = Buffer.alloc(8);
    payload.writeBigUInt64LE(nanoseconds);
    this.#queue.unshift({ type: ExecFrame.CLOCK, payload });
    return this.#drain();
  }

  /** Random bytes for a guest that comes from a snapshot, as every other one of that snapshot; overtakes what waits. */
  seed(bytes: Uint8Array): Buffer {
    this.#queue.unshift({ type: ExecFrame.SEED, payload: Buffer.from(bytes) });
    return this.#drain();
  }

  /** Bytes for the command's stdin. */
  stdin(data: Uint8Array): Buffer {
    if (data.length > 0) this.#queue.push({ type: ExecFrame.STDIN, payload: Buffer.from(data) });
    return this.#drain();
  }

  /** After all of stdin; comes out behind it. */
  stdinEnd(): Buffer {
    this.#queue.push({ type: ExecFrame.STDIN_EOF, payload: Buffer.alloc(0) });
    return this.#drain();
  }

  /** A signal for the command's process group; overtakes what waits. `number` from 1 to 64. */
  signal(number: number): Buffer {
    return frame(ExecFrame.SIGNAL, Buffer.from([number]));
  }

  #drain(): Buffer {
    const frames: Buffer[] = [];
    for (let next = this.#queue[0]; next !== undefined; next = this.#queue[0]) {
      const length = Math.min(next.payload.length, this.#credit, EXEC_MAX_PAYLOAD);
      // Without credit only frames that have no payload go on.
      if (length === 0 && next.payload.length > 0) break;
      frames.push(frame(next.type, next.payload.subarray(0, length)));
      this.#credit -= length;
      if (length === next.payload.length) this.#queue.shift();
      else this.#queue[0] = { type: next.type, payload: next.payload.subarray(length) };
    }
    return Buffer.concat(frames);
  }
}

/** For who starts a command later than it is given. @throws RangeError for one that the guest would not take */
export function checkCommand(command: ExecCommand): void {
  new ExecEncoder().start(command);
}
