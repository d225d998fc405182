// What a debugger or an explorer in the same process sees of a machine beside its public face.
// Our own; the registers are those of the register file, so that looking at them costs no vCPU anything.
import type { FieldEntry } from '../devices/register-file.js';
import type { DebuggedMachine } from './gdb-target.js';
import type { Machine } from './machine.js';

export interface InspectedMachine extends Omit<DebuggedMachine, 'facilities'> {
  /** Ids of the quirks of this host, for debugFacilities. */
  readonly quirks: readonly string[];
  /** Every field of every device, live. */
  readonly fields: readonly FieldEntry[];
}

export function inspectMachine(
  { threads, memory, board, quirks }: Machine,
  life: Pick<DebuggedMachine, 'hold' | 'release' | 'kill'>,
): InspectedMachine {
  return { threads, memory, quirks, fields: board.registers.fields, ...life };
}
