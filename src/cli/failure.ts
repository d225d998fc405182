// What a person reads when a VM failed: why, what could not be done, and the registers of every vCPU.
// Our own; the register dump is that of vcpu/dump.ts.
import type { Outcome } from '../machine/outcome.js';
import type { RunRequest } from './run-options.js';
import { printable, say, sayRaw } from './sentence.js';

/** Prints the failure on stderr. */
export async function sayFailure(
  outcome: Extract<Outcome, { kind: 'failed' }>,
  request: Pick<RunRequest, 'command' | 'verbose' | 'console'>,
): Promise<void> {
  const { formatState } = await import('../vcpu/dump.js');
  say(printable(outcome.message));
  const { unassisted } = outcome;
  if (unassisted !== undefined) {
    const { rip, bytes, text, suggestion } = unassisted;
    say(`the instruction at ${rip} is ${text} (${bytes})`);
    if (suggestion !== undefined) say(`what may help: ${suggestion}`);
  }
  for (const state of outcome.vcpus) {
    if (state !== undefined) sayRaw(`${formatState(state).join('\n')}\n`);
  }
  if (request.command !== undefined && request.verbose !== true && request.console === undefined)
    say("add --verbose to see the guest's boot messages");
}
