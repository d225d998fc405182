// A device of closures as a vCPU thread sees it: each access goes into the mailbox, and the thread waits for the answer.
// The slow way to a device; DeviceDefinition is the fast one.
import type { IoHandler } from './bus.js';
import type { ClosureMailbox } from './closure-mailbox.js';
import type { Signal } from './irq-line.js';
import type { OwnerWait } from './owner-wait.js';
import { valueMask } from './value-mask.js';

export interface ClosureFrontParts {
  /** Of the vCPU whose thread this is. */
  readonly mailbox: ClosureMailbox;
  /** Wakes the back. */
  readonly bell: Signal;
  readonly wait: OwnerWait;
}

/** @param device its number, which the back knows it by */
export function createClosureFront(name: string, device: number, parts: ClosureFrontParts): IoHandler {
  const { mailbox, bell, wait } = parts;
  const { REQUESTS, ANSWERS } = mailbox;
  const ask = (isWrite: number, offset: number, size: number, value: number): boolean => {
    mailbox.DEVICE.set(device);
    mailbox.OFFSET.set(offset);
    mailbox.SIZE.set(size);
    mailbox.IS_WRITE.set(isWrite);
    mailbox.VALUE.set(value);
    // Partner: ClosureBack, which loads REQUESTS first.
    const request = (REQUESTS.add(1) + 1) >>> 0;
    bell.signal();
    for (let answered = ANSWERS.get(); answered !== request; answered = ANSWERS.get())
      if (!wait.until(ANSWERS.words, ANSWERS.index, answered | 0)) return false;
    return true;
  };
  return {
    name,
    // A machine that ends gives no answer: the guest does not come to see what it reads then.
    read: (offset, size) => (ask(0, offset, size, 0) ? mailbox.VALUE.get() : valueMask(size)),
    write: (offset, size, value) => void ask(1, offset, size, value),
  };
}
