// What a debugger or an explorer in the same process sees of a machine beside its public face.
// Our own; the registers are those of the register file, so that looking at them costs no vCPU anything.
import type { FieldEntry } from '../devices/register-file.js';
import { switchTrace } from '../vcpu/observe/trace.js';
import type { DebuggedMachine } from './gdb-target.js';
import type { Machine } from './machine.js';

export interface InspectedMachine extends Omit<DebuggedMachine, 'facilities'> {
  /** Does something while every vCPU stands still, and lets those run on that ran; `what` is for the error's message. */
  standing<T>(what: string, action: () => Promise<T>): Promise<T>;
  /** Ids of the quirks of this host, for debugFacilities. */
  readonly quirks: readonly string[];
  /** Every field of every device, live. */
  readonly fields: readonly FieldEntry[];
  /** Somebody looks at the exits, or no longer: for a machine that traces them only then. */
  watchExits(isWatched: boolean): void;
}

export function inspectMachine(
  { config, threads, memory, board, quirks, traces }: Machine,
  life: Pick<InspectedMachine, 'hold' | 'release' | 'kill' | 'standing'>,
): InspectedMachine {
  const watchExits = (isWatched: boolean): void => {
    if (config.trace !== 'explorer') return;
    for (const ring of traces) if (ring !== undefined) switchTrace(ring, isWatched);
  };
  return { threads, memory, quirks, fields: board.registers.fields, watchExits, ...life };
}
