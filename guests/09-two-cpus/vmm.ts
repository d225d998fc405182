// Lesson 9: two vCPUs, each a thread, and the machine layer that keeps them: createVm instead of KVM calls.
// KVM API 4.7 (one thread per vCPU), 4.38 (KVM_GET_MP_STATE: waiting for INIT and SIPI); Intel SDM vol. 3A §8.4.
import { createVm, type Outcome } from 'microvisor';
import { buildLesson } from '../ladder/build.js';

const ENTRY = 0x10_0000;
const COM1 = 0x3f8;

export interface TwoCpusResult {
  readonly text: string;
  /** The value is 0 when every count under LOCK arrived. */
  readonly outcome: Outcome;
  /** By vCPU: the bytes that it wrote to the serial port, an exit each. */
  readonly serialExits: readonly number[];
}

export async function runTwoCpus({ output }: { readonly output: (text: string) => void }): Promise<TwoCpusResult> {
  // All that the lessons did by hand: VM, irqchip, memory, registers for protected mode, devices, the run loops.
  // Each vCPU lives in a worker thread; its exits are served there, and no exit waits for this thread.
  await using vm = await createVm({
    kernel: { name: 'guests/09-two-cpus', bytes: buildLesson('09-two-cpus', ENTRY) },
    entry: 'protected',
    load: ENTRY,
    cpus: 2,
    memoryMiB: 2,
  });

  // vCPU 1 is in KVM_RUN as well from here on, but KVM does not run it before vCPU 0 sends INIT and SIPI.
  await vm.start();

  // The guest's serial port comes as a stream, which ends with the machine.
  let text = '';
  for await (const bytes of vm.console.output.setEncoding('latin1')) {
    text += bytes as string;
    output(bytes as string);
  }

  const outcome = await vm.outcome;
  const serialExits = vm
    .report()
    .vcpus.map(({ ports }) => ports.find((row) => row.port === COM1 && row.direction === 'out')?.count ?? 0);
  output(`The machine ended: ${outcome.kind === 'failed' ? outcome.message : outcome.kind}.\n`);
  for (const [index, count] of serialExits.entries()) output(`vCPU ${index} exited ${count} times to print.\n`);
  return { text, outcome, serialExits };
}
