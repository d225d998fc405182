// The VM generation ID of a machine that goes on from a snapshot: a new one, so that a guest which knows the device draws
// new random numbers. "Virtual Machine Generation ID" (Microsoft) §3; Linux: drivers/virt/vmgenid.c.
import { VM_GENERATION } from '../boot/firmware.js';
import { randomBytes } from '../devices/backend/random-source.js';
import type { GuestMemory } from '../memory/guest-memory.js';
import { GSI } from '../memory/layout.js';
import type { BoardFds } from './board.js';
import type { VmReport } from './report.js';

interface Restored {
  readonly memory: GuestMemory;
  readonly fds: BoardFds;
  readonly kernel: VmReport['kernel'];
}

/** For a machine whose interrupt controllers are as they were. One without ACPI tables has no ID. */
export function renewGeneration({ memory, fds, kernel }: Restored): void {
  const place = kernel.placed.find(({ name }) => name === VM_GENERATION);
  // The list comes from a file.
  if (place === undefined || !memory.contains(place.base, place.size)) return;
  memory.write(place.base, randomBytes(place.size));
  fds.irq.get(GSI.GENERIC_EVENT)?.signal();
}
