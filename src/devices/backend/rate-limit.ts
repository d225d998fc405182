// Rate limits as token buckets: so much a second, with a burst of at most one second's worth.

/** Milliseconds of a clock that does not go back. */
export type Clock = () => number;

/**
 * A bucket that may be overdrawn: whoever finds anything in it takes all that he needs, and the next one waits until it
 * is paid back. So a request may be larger than the bucket, and the rate is exact in the long run.
 */
export class TokenBucket {
  readonly #perSecond: number;
  readonly #now: Clock;
  #tokens: number;
  #time: number;

  /** @param perSecond above 0; also the size of the bucket, which is full at the start */
  constructor(perSecond: number, now: Clock) {
    this.#perSecond = perSecond;
    this.#now = now;
    this.#tokens = perSecond;
    this.#time = now();
  }

  /** Milliseconds until something can be taken; 0 when that is now. */
  wait(): number {
    this.#fill();
    return this.#tokens > 0 ? 0 : Math.floor((-this.#tokens / this.#perSecond) * 1000) + 1;
  }

  take(tokens: number): void {
    this.#tokens -= tokens;
  }

  #fill(): void {
    const time = this.#now();
    this.#tokens = Math.min(this.#perSecond, this.#tokens + ((time - this.#time) / 1000) * this.#perSecond);
    this.#time = time;
  }
}

export interface RateLimits {
  readonly bytesPerSecond?: number | undefined;
  readonly operationsPerSecond?: number | undefined;
}

/** The two limits of a disk. */
export class RateLimiter {
  readonly #bytes: TokenBucket | undefined;
  readonly #operations: TokenBucket | undefined;

  constructor({ bytesPerSecond, operationsPerSecond }: RateLimits, now: Clock = () => performance.now()) {
    this.#bytes = bytesPerSecond === undefined ? undefined : new TokenBucket(bytesPerSecond, now);
    this.#operations = operationsPerSecond === undefined ? undefined : new TokenBucket(operationsPerSecond, now);
  }

  /** @returns 0 when the operation may go, and then it counts; else the milliseconds after which to ask again */
  admit(bytes: number): number {
    const wait = Math.max(this.#bytes?.wait() ?? 0, this.#operations?.wait() ?? 0);
    if (wait > 0) return wait;
    this.#bytes?.take(bytes);
    this.#operations?.take(1);
    return 0;
  }
}
