// Text that grows, and waiting for something in it, for so long and not longer.

/** How long a guest may take for what a test waits for, when nothing else is said. */
export const DEFAULT_TIMEOUT_MS = 60_000;
/** Of a text, what an error shows. */
const TAIL = 2000;

/** A guest did not do what the test waited for. */
export class GuestTestError extends Error {
  override readonly name = 'GuestTestError';
}

/** What a stream has given so far, as Latin-1: one character for each byte. */
export class Transcript {
  #text = '';
  #isEnded = false;
  readonly #waiting = new Set<() => void>();

  constructor(stream: NodeJS.ReadableStream) {
    stream.on('data', (bytes: Uint8Array) => {
      this.#text += Buffer.from(bytes).toString('latin1');
      this.#wake();
    });
    const end = (): void => {
      this.#isEnded = true;
      this.#wake();
    };
    stream.once('end', end);
    stream.once('close', end);
  }

  get text(): string {
    return this.#text;
  }

  /**
   * Resolves when `pattern` occurs at or behind position `from`.
   * @returns the position behind it
   * @throws GuestTestError when the stream ends, or the time passes, before
   */
  async until(pattern: string | RegExp, { from = 0, timeoutMs = DEFAULT_TIMEOUT_MS } = {}): Promise<number> {
    const deadline = Date.now() + timeoutMs;
    for (;;) {
      const end = endOf(this.#text, pattern, from);
      if (end !== undefined) return end;
      const left = deadline - Date.now();
      if (this.#isEnded || left <= 0) {
        const why = this.#isEnded ? 'the guest ended' : `${timeoutMs} ms passed`;
        throw new GuestTestError(`${why} before ${String(pattern)} came; the last that came:\n${tail(this.#text)}`);
      }
      await this.#change(left);
    }
  }

  #change(milliseconds: number): Promise<void> {
    return new Promise((resolve) => {
      const done = (): void => {
        clearTimeout(timer);
        this.#waiting.delete(done);
        resolve();
      };
      const timer = setTimeout(done, milliseconds);
      this.#waiting.add(done);
    });
  }

  #wake(): void {
    for (const done of this.#waiting) done();
  }
}

export function tail(text: string): string {
  return text.slice(-TAIL);
}

function endOf(text: string, pattern: string | RegExp, from: number): number | undefined {
  if (typeof pattern === 'string') {
    const at = text.indexOf(pattern, from);
    return at < 0 ? undefined : at + pattern.length;
  }
  const found = new RegExp(pattern.source, pattern.flags.replace(/[gy]/g, '')).exec(text.slice(from));
  return found === null ? undefined : from + found.index + found[0].length;
}

/** @throws GuestTestError with `what` when `promise` takes longer */
export async function within<T>(promise: Promise<T>, timeoutMs: number, what: () => string): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new GuestTestError(`${timeoutMs} ms passed before ${what()}`)), timeoutMs);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}
