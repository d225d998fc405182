// The VM generation ID of a machine that goes on from a snapshot: a new one, so that a guest which knows the device draws
// new random numbers. "Virtual Machine Generation ID" (Microsoft) §3; Linux: drivers/virt/vmgenid.c.
import { VM_GENERATION, VM_GENERATION_BYTES } from '../boot/firmware.js';
import { randomBytes } from '../devices/backend/random-source.js';
import { GSI, VM_GENERATION_ID } from '../memory/layout.js';
import type { Machine } from './machine.js';
import type { VmReport } from './report.js';

/**
 * For a machine whose interrupt controllers are as they were. One without ACPI tables has no ID.
 * @param placed what the boot has put into the machine's memory
 */
export function renewGeneration({ memory, kvm }: Machine, placed: VmReport['kernel']['placed']): void {
  if (!placed.some(({ name }) => name === VM_GENERATION)) return;
  // Where and how long it is says the layout: the list comes from a file.
  memory.write(VM_GENERATION_ID, randomBytes(VM_GENERATION_BYTES));
  // KVM API 4.25: an edge.
  kvm.irqLine(GSI.GENERIC_EVENT, 1);
  kvm.irqLine(GSI.GENERIC_EVENT, 0);
}
