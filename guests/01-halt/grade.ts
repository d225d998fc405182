// Grades exercise 1: a guest that adds up, looked at through its registers.
// Intel SDM vol. 1 §3.4.1 (general registers).
import type { Exam } from '../ladder/lesson.js';
import { describeEnd, ENTRY } from '../ladder/rig.js';

export function gradeHalt(exam: Exam): void {
  const guest = exam.guest(ENTRY);
  // Three numbers, so that no guest can know the answer beforehand.
  for (const n of [1, 7, 100]) {
    const run = exam.run({ guest, regs: { rcx: BigInt(n) } });
    exam.check(`it halts for N = ${n}`, run.stop.kind === 'hlt', () => ({
      observed: `For N = ${n} ${describeEnd(run)}.`,
      missing: 'a way out of the loop to HLT. Does CX ever become 0?',
    }));
    const sum = (n * (n + 1)) / 2;
    const ax = Number(run.regs.rax & 0xffffn);
    exam.check(`AX is ${sum} for N = ${n}`, ax === sum, () => ({
      observed: `For N = ${n} AX is ${ax} at the end, and ${sum} was expected.`,
      missing: 'the sum: ADD CX to AX once for each value of CX from N down to 1.',
    }));
  }
}
