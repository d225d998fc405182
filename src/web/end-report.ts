// How a machine ended, for the page: a title and lines. The words of outcomes are those of machine/outcome.ts.
import { formatDiagnosis } from '../machine/doctor/diagnosis.js';
import { exitStatus, type Outcome } from '../machine/outcome.js';
import type { EndReport, ServerMessage } from './protocol.js';

const STOPPED = { host: 'The machine was stopped', timeout: 'The time was over', abort: 'The machine was stopped' };

function titleOf(outcome: Outcome): string {
  switch (outcome.kind) {
    case 'power-off':
      return 'The guest switched itself off';
    case 'reset':
      return 'The guest reset the machine';
    case 'debug-exit':
      return `The guest wrote ${outcome.value} to the debug-exit port`;
    case 'command':
      return outcome.message ?? `The command ended with status ${outcome.status}`;
    case 'stopped':
      return STOPPED[outcome.by];
    case 'failed':
      return outcome.message;
  }
}

/** What a page is told at the end: how it was, and of a failure the registers that the vCPUs had. */
export function lastWords(outcome: Outcome): readonly ServerMessage[] {
  const ended: ServerMessage = { type: 'ended', report: endReport(outcome) };
  const states = outcome.kind === 'failed' ? outcome.vcpus.filter((state) => state !== undefined) : [];
  if (states.length === 0) return [ended];
  return [{ type: 'processors', states, code: states.map(({ code }) => code.instructions) }, ended];
}

function endReport(outcome: Outcome): EndReport {
  const details =
    outcome.kind === 'failed' && outcome.diagnosis !== undefined ? formatDiagnosis(outcome.diagnosis) : [];
  return {
    title: titleOf(outcome),
    isFailure: outcome.kind === 'failed',
    details: [`Status ${exitStatus(outcome)}`, ...details],
  };
}
