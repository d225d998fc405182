// Grades exercise 9: two processors of a machine, by what the first one says and what the second one did.
// Intel SDM vol. 3A §8.4 (INIT, SIPI), §10.6 (interprocessor interrupts).
import type { Exam } from '../ladder/lesson.js';
import { describeOutcome, runMachine } from '../ladder/machine.js';

const ENTRY = 0x10_0000;

export async function gradeTwoCpus(exam: Exam): Promise<void> {
  const { text, outcome } = await runMachine(
    {
      kernel: { name: 'exercise.S', bytes: exam.guest(ENTRY) },
      entry: 'protected',
      load: ENTRY,
      cpus: 2,
      memoryMiB: 2,
    },
    exam.limitMs,
  );
  const saw = `The guest printed ${JSON.stringify(text)}, and ${describeOutcome(outcome)}.`;
  exam.check('the other processor starts', text.includes('awake'), () => ({
    observed: `${saw} The word that the other processor sets when it runs stayed 0.`,
    missing: 'two writes to APIC_ICR: INIT (0xc4500), then the start-up IPI, 0xc4600 | (TRAMPOLINE >> 12).',
  }));
  exam.check('it gets the interrupt and answers', text.includes('answered'), () => ({
    observed: `${saw} The other processor is awake, and its handler for vector 0x40 has not run.`,
    missing: 'the destination in APIC_ICR_HIGH, 1 << 24, and then a fixed interrupt in APIC_ICR: 0x4000 | VECTOR.',
  }));
  exam.check('the machine ends by itself', outcome.kind === 'debug-exit', () => ({
    observed: saw,
    missing: 'the write to port 0xf4; the exercise came with it.',
  }));
}
