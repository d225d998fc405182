// An interrupt line of a device: edge-triggered, through an irqfd.
// KVM API 4.75 (KVM_IRQFD): one signal of the eventfd is one pulse on the GSI.

/** Anything that wakes or interrupts somebody when signalled; an EventFd is one. */
export interface Signal {
  signal(): void;
}

/**
 * Rule for every caller: publish the state that the interrupt is about, *then* pulse. A pulse is never skipped
 * because another was not answered yet.
 */
export interface IrqLine {
  pulse(): void;
}

/** A line whose eventfd the machine has bound to a GSI. Works from any thread. */
export class EventFdIrqLine implements IrqLine {
  readonly #irqfd: Signal;

  constructor(irqfd: Signal) {
    this.#irqfd = irqfd;
  }

  pulse(): void {
    this.#irqfd.signal();
  }
}

/** For a machine without an interrupt controller: guests that poll. */
export const UNCONNECTED: IrqLine = { pulse: () => undefined };
