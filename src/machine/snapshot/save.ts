// Saves a paused machine into a directory.
import { captureState, type CapturedMachine } from './capture.js';
import { writeSnapshot } from './directory.js';
import { holdDevices } from './hold.js';
import type { MappedRam } from './mapped-ram.js';
import { writeRam } from './ram-file.js';

/**
 * The devices stay held. Nothing of the machine changes between the capture and the end of the writing, which waits
 * for nothing.
 * @throws SnapshotError; Error when a device cannot be brought to rest
 */
export async function saveMachine(
  machine: CapturedMachine & { readonly restored?: { readonly mapped: MappedRam } },
  directory: string,
): Promise<void> {
  await holdDevices(machine);
  const state = await captureState(machine);
  writeSnapshot(directory, state, (fd) => writeRam(fd, machine.memory, machine.restored?.mapped.extents ?? []));
}
