// The debug-exit port: a write of V ends the machine with the value V.
// QEMU hw/misc/debugexit.c (isa-debug-exit); the process status that becomes of V is the machine's affair.
import type { IoHandler } from '../bus.js';
import { MACHINE_EVENT, type MachineEvents } from '../machine-event.js';
import { valueMask } from '../value-mask.js';

/** Four ports, so that `out` of 1, 2 and 4 bytes carries its whole value. */
export const DEBUG_EXIT_PORTS = 4;

/** Not a register table: the value is as wide as the access. */
export function createDebugExit(events: MachineEvents, name = 'debug-exit'): IoHandler {
  return {
    name,
    read: (_offset, size) => valueMask(size),
    write: (offset, _size, value) => {
      if (offset === 0) events.raise(MACHINE_EVENT.DEBUG_EXIT, value);
    },
  };
}
