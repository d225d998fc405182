// Waking a consumer only when it sleeps, so that a stream of events costs one wake-up and not one an event.
// The same protocol as a virtqueue's notification suppression, VIRTIO 1.2 §2.7.10, with a flag in a field.
import type { Signal } from './irq-line.js';
import type { Field } from './register-file.js';

/**
 * The consumer sleeps in two steps: `prepareSleep`, then look for work *again*; when there is some, `stayAwake`.
 * A producer publishes its work and then calls `notify`. All accesses are sequentially consistent, so either the
 * consumer's second look finds the work, or the producer finds the flag.
 */
export class Wake {
  readonly #asleep: Field;
  readonly #signal: Signal;

  constructor(asleep: Field, signal: Signal) {
    this.#asleep = asleep;
    this.#signal = signal;
  }

  /** Producer: after publishing. One load when the consumer is awake. */
  notify(): void {
    // The exchange is the partner of prepareSleep: of many producers, one signals.
    if (this.#asleep.get() !== 0 && this.#asleep.exchange(0) !== 0) this.#signal.signal();
  }

  /** Producer: the consumer is wanted at once, even if it is only waiting for more to collect. */
  force(): void {
    this.#asleep.set(0);
    this.#signal.signal();
  }

  /** Consumer: says that from now on it wants to be signalled. */
  prepareSleep(): void {
    this.#asleep.set(1);
  }

  /** Consumer: found work after all. @returns false when a producer has signalled already */
  stayAwake(): boolean {
    return this.#asleep.exchange(0) !== 0;
  }
}
