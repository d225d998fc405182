// Lesson 10: the VMM's side of a virtio device is one word of the configuration; the rest is between guest and device.
// VIRTIO 1.2 §4.2 (virtio over MMIO), §5.4 (entropy device); docs/virtio-blk-read.md follows a kick through the library.
import type { VmReport } from 'microvisor';
import { buildLesson } from '../ladder/build.js';
import { describeOutcome, runMachine } from '../ladder/machine.js';

const ENTRY = 0x10_0000;

export interface EntropyResult {
  readonly text: string;
  /** Kicks, chains, bytes. */
  readonly virtio: VmReport['virtio'];
}

export async function runEntropy({ output }: { readonly output: (text: string) => void }): Promise<EntropyResult> {
  const { text, outcome, vm } = await runMachine(
    {
      kernel: { name: 'guests/10-virtio-entropy', bytes: buildLesson('10-virtio-entropy', ENTRY, 'guest.c') },
      entry: 'protected',
      load: ENTRY,
      memoryMiB: 2,
      // A window of registers at 0xd0000000, a queue whose kicks come as an eventfd, and the host's random pool behind it.
      entropy: true,
    },
    undefined,
    output,
  );
  if (outcome.kind !== 'debug-exit' || outcome.value !== 0)
    throw new Error(`lesson 10 ends with port 0xf4 and value 0; ${describeOutcome(outcome)}`);
  const { virtio } = vm.report();
  output(`${JSON.stringify(virtio)}\n`);
  return { text, virtio };
}
