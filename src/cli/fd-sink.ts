// A stream into a file descriptor that never blocks the event loop, whatever stands behind it and however slow it is.
// open(2) O_NONBLOCK, proc(5) /proc/self/fd. Node's own stdout blocks on a terminal: a stopped one would stop us too.
import { closeSync, constants, fstatSync, openSync, write, writeSync } from 'node:fs';
import { Writable } from 'node:stream';

const FIRST_RETRY_MS = 1;
const LAST_RETRY_MS = 32;

/**
 * Opens what `fd` stands for a second time, so that O_NONBLOCK concerns us and not those who share the descriptor.
 * Undefined where that cannot be done (a socket, another user's terminal) or is not needed (a file).
 */
function openAgain(fd: number): number | undefined {
  const stats = fstatSync(fd);
  if (!stats.isFIFO() && !stats.isCharacterDevice()) return undefined;
  try {
    return openSync(`/proc/self/fd/${fd}`, constants.O_WRONLY | constants.O_NONBLOCK | constants.O_NOCTTY);
  } catch {
    return undefined;
  }
}

const isAgain = (error: unknown): boolean => error instanceof Error && 'code' in error && error.code === 'EAGAIN';

export class FdSink extends Writable {
  readonly #fd: number;
  readonly #nonBlocking: number | undefined;
  #retry: NodeJS.Timeout | undefined;

  /** @param fd stays open, and stays its owner's, when this stream ends */
  constructor(fd: number) {
    super({ highWaterMark: 65_536, decodeStrings: true });
    this.#fd = fd;
    this.#nonBlocking = openAgain(fd);
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: (error?: Error | null) => void): void {
    this.#put(chunk, FIRST_RETRY_MS, done);
  }

  override _writev(chunks: readonly { readonly chunk: Buffer }[], done: (error?: Error | null) => void): void {
    this.#put(Buffer.concat(chunks.map(({ chunk }) => chunk)), FIRST_RETRY_MS, done);
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    clearTimeout(this.#retry);
    if (this.#nonBlocking !== undefined) closeSync(this.#nonBlocking);
    done(error);
  }

  #put(bytes: Buffer, delay: number, done: (error?: Error | null) => void): void {
    if (bytes.length === 0) {
      done();
      return;
    }
    if (this.#nonBlocking === undefined) {
      write(this.#fd, bytes, (error, count) => {
        if (isAgain(error)) this.#later(bytes, delay, done);
        else if (error !== null) done(error);
        else this.#put(bytes.subarray(count), FIRST_RETRY_MS, done);
      });
      return;
    }
    let rest = bytes;
    try {
      while (rest.length > 0) rest = rest.subarray(writeSync(this.#nonBlocking, rest));
      done();
    } catch (error) {
      if (isAgain(error)) this.#later(rest, rest.length < bytes.length ? FIRST_RETRY_MS : delay, done);
      else done(error instanceof Error ? error : new Error(String(error)));
    }
  }

  #later(bytes: Buffer, delay: number, done: (error?: Error | null) => void): void {
    this.#retry = setTimeout(() => this.#put(bytes, Math.min(delay * 2, LAST_RETRY_MS), done), delay);
  }
}
