// Brings the devices of a paused machine to rest for a snapshot, and lets them go on: here, or in a restored machine.
// VIRTIO 1.2 §2.7 (what a queue has to remember); KVM API 4.75 (irqfds).
import { allConsoles, type Consoles } from '../consoles.js';
import type { Machine } from '../machine.js';

/** A machine with its owner's side. */
export interface HeldMachine extends Machine {
  readonly consoles: Consoles;
}

/**
 * Brings the host's side to rest: no request of the guest is with the host, no byte of its output waits, no interrupt is
 * on its way. The vCPUs are parked. Undone by `releaseDevices`.
 */
export async function holdDevices({ backs, consoles, kvm, fds }: HeldMachine): Promise<void> {
  await Promise.all(backs.map((back) => back.hold()));
  for (const { port } of allConsoles(consoles)) port.drain();
  consoles.com2.drain();
  // An irqfd injects through a work queue of the kernel's. Taking it away waits for that; a signal that comes in between
  // stays in the eventfd and counts when it is back.
  for (const [gsi, eventfd] of fds.irq) {
    kvm.irqfd({ eventfd, gsi, deassign: true });
    kvm.irqfd({ eventfd, gsi });
  }
}

/** The opposite. What the guest was told, and may not have heard before a snapshot, it is told again. */
export function releaseDevices({ backs, consoles }: HeldMachine): void {
  for (const back of backs) back.release();
  for (const { port } of allConsoles(consoles)) port.adopt?.();
  consoles.com2.adopt?.();
}
