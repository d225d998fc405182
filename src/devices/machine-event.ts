// What a device asks of the whole machine: power off, reset, or end with a value. The first to ask wins.
// ACPI 6.5 §4.8.3 (S5, reset register); QEMU's isa-debug-exit for the value.
import type { Signal } from './irq-line.js';
import type { Field, RegisterFile } from './register-file.js';

export const MACHINE_EVENT = { NONE: 0, POWER_OFF: 1, RESET: 2, DEBUG_EXIT: 3 } as const;
export type MachineEventKind = (typeof MACHINE_EVENT)[keyof typeof MACHINE_EVENT];

/** What was asked, and by whom the value means something: DEBUG_EXIT carries what the guest wrote, others 0. */
export interface MachineEvent {
  readonly kind: MachineEventKind;
  /** Unsigned 32 bits. */
  readonly value: number;
}

/**
 * A front calls `raise` on a vCPU thread. That vCPU's run loop looks at `pending` after each exit that it dispatched
 * and stops; the signal wakes the owner, who kicks the other vCPUs.
 */
export class MachineEvents {
  /** A MachineEventKind; 0 until something was asked. The run loop reads it by `pending.get()`. */
  readonly pending: Field;
  readonly #claimed: Field;
  readonly #value: Field;
  readonly #owner: Signal;

  constructor(registers: RegisterFile, owner: Signal) {
    const fields = registers.allocate('machine-event', {
      claimed: { doc: 'a vCPU thread has begun to store an event' },
      value: { doc: 'value written to the debug-exit port' },
      pending: { doc: '1 power off, 2 reset, 3 debug exit; stored last' },
    });
    this.pending = fields.pending;
    this.#claimed = fields.claimed;
    this.#value = fields.value;
    this.#owner = owner;
  }

  /** Any thread. @returns false when another event came first; that one stands */
  raise(kind: MachineEventKind, value = 0): boolean {
    if (this.#claimed.compareExchange(0, 1) !== 0) return false;
    this.#value.set(value);
    // Partner of `take`: whoever sees the kind sees the value, too.
    this.pending.set(kind);
    this.#owner.signal();
    return true;
  }

  /** The event, if there is one; it stays. */
  peek(): MachineEvent | undefined {
    const kind = KINDS[this.pending.get()];
    return kind === undefined ? undefined : { kind, value: this.#value.get() };
  }

  /** Forgets the event: for a machine that goes on after a reset. All vCPUs must be stopped. */
  clear(): void {
    this.pending.set(MACHINE_EVENT.NONE);
    this.#value.set(0);
    this.#claimed.set(0);
  }
}

const KINDS: readonly (MachineEventKind | undefined)[] = [
  undefined,
  MACHINE_EVENT.POWER_OFF,
  MACHINE_EVENT.RESET,
  MACHINE_EVENT.DEBUG_EXIT,
];
