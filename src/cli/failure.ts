// What a person reads when a VM failed: why, what could not be done, and the registers of every vCPU.
// Our own; the register dump is that of vcpu/dump.ts.
import type { Diagnosis } from '../machine/doctor/diagnosis.js';
import type { Outcome } from '../machine/outcome.js';
import type { VcpuState } from '../vcpu/dump.js';
import type { RunRequest } from './run-options.js';
import { printable, say, sayRaw } from './sentence.js';

/** Prints what the boot doctor found on stderr. */
export async function sayDiagnosis(diagnosis: Diagnosis): Promise<void> {
  const { formatDiagnosis } = await import('../machine/doctor/diagnosis.js');
  sayRaw(`${formatDiagnosis(diagnosis).map(printable).join('\n')}\n`);
}

/** The registers of every vCPU that could be asked. */
async function sayStates(states: readonly (VcpuState | undefined)[]): Promise<void> {
  const { formatState } = await import('../vcpu/dump.js');
  for (const state of states) {
    if (state !== undefined) sayRaw(`${formatState(state).join('\n')}\n`);
  }
}

/** A guest that makes no progress: why, as far as the doctor can tell. */
export async function sayStall(diagnosis: Diagnosis): Promise<void> {
  say('the guest makes no progress; it goes on, and this is how it was found:');
  await sayDiagnosis(diagnosis);
  await sayStates(diagnosis.vcpus.map(({ state }) => state));
}

/** Prints the failure on stderr. */
export async function sayFailure(
  outcome: Extract<Outcome, { kind: 'failed' }>,
  request: Pick<RunRequest, 'command' | 'verbose' | 'console'>,
): Promise<void> {
  say(printable(outcome.message));
  const { unassisted } = outcome;
  if (unassisted !== undefined) {
    const { rip, bytes, text, suggestion } = unassisted;
    say(`the instruction at ${rip} is ${text} (${bytes})`);
    if (suggestion !== undefined) say(`what may help: ${suggestion}`);
  }
  if (outcome.diagnosis !== undefined) await sayDiagnosis(outcome.diagnosis);
  await sayStates(outcome.vcpus);
  if (request.command !== undefined && request.verbose !== true && request.console === undefined)
    say("add --verbose to see the guest's boot messages");
}
