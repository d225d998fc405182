// Grades exercise 2: a guest that prints a number, looked at through its port.
// KVM API 5 (struct kvm_run, member io).
import type { Exam } from '../ladder/lesson.js';
import { describeEnd, ENTRY } from '../ladder/rig.js';

const PORT = 0x3f8;

export function gradePortOutput(exam: Exam): void {
  const guest = exam.guest(ENTRY);
  for (const number of [0x2a, 0xbeef, 0x9a0f]) {
    let seen = '';
    const serial = {
      name: 'serial port',
      read: () => 0xff,
      write: (_offset: number, _size: number, byte: number) => void (seen += String.fromCharCode(byte & 0xff)),
    };
    const wanted = `${number.toString(16).toUpperCase().padStart(4, '0')}\n`;
    const run = exam.run({ guest, regs: { rbx: BigInt(number) }, ports: [{ base: PORT, length: 1, handler: serial }] });
    const bx = `For BX = 0x${number.toString(16)}`;
    exam.check(`it halts for BX = 0x${number.toString(16)}`, run.stop.kind === 'hlt', () => ({
      observed: `${bx} ${describeEnd(run)}.`,
      missing: 'HLT at the end. Does CX still count the digits where LOOP looks at it?',
    }));
    exam.check(`it prints ${JSON.stringify(wanted)}`, seen === wanted, () => ({
      observed: `${bx} port 0x3f8 got ${JSON.stringify(seen)}, and ${JSON.stringify(wanted)} was expected.`,
      missing:
        seen.length < wanted.length
          ? `${wanted.length - seen.length} of ${wanted.length} letters: one OUT for each digit, and one for the line feed.`
          : 'the right letters: 0 to 9 begin at 0x30, A to F at 0x41.',
    }));
  }
}
