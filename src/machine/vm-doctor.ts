// When a machine goes to the boot doctor: when it has failed, when it stands still, and when somebody asks.
// The doctor itself is loaded then, and not before.
import type { VcpuState } from '../vcpu/dump.js';
import { allConsoles } from './consoles.js';
import type { Diagnosis } from './doctor/diagnosis.js';
import type { ExaminedMachine, Symptoms } from './doctor/examine.js';
import type { Marks } from './marks.js';
import type { Outcome } from './outcome.js';
import { watchForStall, type StallOptions } from './stall-watch.js';
import type { VcpuEnd } from './vcpu-thread.js';

/** Of a machine that runs, or stands still. @param vcpus the states of its parked vCPUs */
export function diagnoseStanding(machine: ExaminedMachine, vcpus: readonly VcpuState[]): Promise<Diagnosis> {
  return examined(machine, { failure: undefined, vcpus, stops: [], unassisted: undefined });
}

/** The outcome, with a diagnosis when it is a failure. The guest's memory must still be there. */
export async function diagnosed(
  machine: ExaminedMachine,
  outcome: Outcome,
  ends: readonly VcpuEnd[],
): Promise<Outcome> {
  if (outcome.kind !== 'failed') return outcome;
  const stops = ends.map((end) => (end.type === 'stopped' ? end.stop : undefined));
  const { failure: kind, message, vcpus, unassisted } = outcome;
  try {
    return { ...outcome, diagnosis: await examined(machine, { failure: { kind, message }, vcpus, stops, unassisted }) };
  } catch {
    // Why the machine failed is more than nothing.
    return outcome;
  }
}

/** Watches until the guest's command is ready; undefined when nobody wants to know. */
export function watchBoot(
  machine: ExaminedMachine & { readonly marks: Marks; readonly stall: StallOptions | undefined },
  diagnose: () => Promise<Diagnosis>,
): { close(): void } | undefined {
  const { stall, consoles, statistics, marks } = machine;
  if (stall === undefined) return undefined;
  const all = allConsoles(consoles);
  const signs = {
    signature: () => [...all.map(({ lines }) => lines.seen), ...statistics.map((cells) => cells.kinds)].join(' '),
    isBooted: () => 'commandReady' in marks.all(),
    isSilent: () => all.every(({ lines }) => lines.isSilent),
    diagnose,
  };
  return watchForStall(signs, stall);
}

async function examined(machine: ExaminedMachine, symptoms: Symptoms): Promise<Diagnosis> {
  const { examine } = await import('./doctor/examine.js');
  return examine(machine, symptoms);
}
