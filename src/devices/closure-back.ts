// The owner's half of the devices of closures: takes what the vCPUs ask for out of their mailboxes, and answers.
// Our own. What a guest asks was cut to the device's range by the bus on the vCPU's thread.
import type { IoHandler } from './bus.js';
import type { ClosureMailbox } from './closure-mailbox.js';
import { deviceError } from './user-device-front.js';
import { valueMask } from './value-mask.js';

export interface ClosureBackParts {
  readonly mailboxes: readonly ClosureMailbox[];
  /** What the fronts signal. */
  readonly bell: { onReadable(callback: () => void): { close(): void } };
  /** Called once, with one sentence, when a closure threw or gave no number: the machine is to end. */
  readonly onFailure: (message: string) => void;
}

export class ClosureBack {
  readonly #devices: readonly (IoHandler | undefined)[];
  readonly #parts: ClosureBackParts;
  readonly #watcher: { close(): void };
  #isClosed = false;

  /** @param devices by the numbers that the fronts have; undefined for one that is served elsewhere */
  constructor(devices: readonly (IoHandler | undefined)[], parts: ClosureBackParts) {
    this.#devices = devices;
    this.#parts = parts;
    this.#watcher = parts.bell.onReadable(() => {
      for (const mailbox of parts.mailboxes) this.#serve(mailbox);
    });
  }

  /** From now on no closure is called; a vCPU that waits for one waits until it is stopped. */
  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#watcher.close();
  }

  #serve({ REQUESTS, ANSWERS, DEVICE, OFFSET, SIZE, IS_WRITE, VALUE }: ClosureMailbox): void {
    if (this.#isClosed) return;
    const request = REQUESTS.get();
    if (request === ANSWERS.get()) return;
    const device = this.#devices[DEVICE.get()];
    if (device === undefined) return;
    const offset = OFFSET.get();
    const size = SIZE.get();
    const value = IS_WRITE.get() === 0 ? undefined : VALUE.get();
    try {
      if (value === undefined) VALUE.set(answerOf(device.read(offset, size)) & valueMask(size));
      else refusePromise(device.write(offset, size, value));
    } catch (error) {
      this.close();
      this.#parts.onFailure(deviceError(device.name, { offset, size, value }, error).message);
      return;
    }
    ANSWERS.set(request);
    Atomics.notify(ANSWERS.words, ANSWERS.index);
  }
}

// The closures are the user's, maybe in JavaScript: what they give is looked at.
function answerOf(answer: unknown): number {
  refusePromise(answer);
  if (typeof answer !== 'number' || Number.isNaN(answer))
    throw new TypeError(`it gave ${typeof answer === 'number' ? 'NaN' : typeof answer}, and a number is needed`);
  return answer;
}

function refusePromise(answer: unknown): void {
  if (!(answer instanceof Promise)) return;
  // Its rejection has been said already, in a way.
  answer.catch(() => undefined);
  throw new TypeError('it gave a Promise, and the vCPU waits for an answer at once: it must not be async');
}
