// Runs a machine of createVm to its end, with a time limit, and gathers what its console printed.
// Our own; for the lessons whose VMM is the library's machine.
import { createVm, type Outcome, type Vm, type VmConfig } from 'microvisor';

export interface MachineRun {
  readonly text: string;
  readonly outcome: Outcome;
  /** The machine after its end: its report, and the registers of its devices. */
  readonly vm: Vm;
}

/** @param limitMs after which the machine is stopped; undefined: never */
export async function runMachine(
  config: VmConfig,
  limitMs?: number,
  output: (text: string) => void = () => undefined,
): Promise<MachineRun> {
  await using vm = await createVm(config);
  await vm.start();
  const timer = limitMs === undefined ? undefined : setTimeout(() => void vm.stop({ by: 'timeout' }), limitMs);
  let text = '';
  // The stream ends with the machine.
  for await (const bytes of vm.console.output.setEncoding('latin1')) {
    text += bytes as string;
    output(bytes as string);
  }
  clearTimeout(timer);
  return { text, outcome: await vm.outcome, vm };
}

/** How a machine ended, for a student. */
export function describeOutcome(outcome: Outcome): string {
  if (outcome.kind === 'failed') return outcome.message;
  return outcome.kind === 'stopped'
    ? 'the guest was still running when its time was over'
    : `it ended by ${outcome.kind}`;
}
