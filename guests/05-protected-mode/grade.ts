// Grades exercise 5: a segment, looked at where only a VMM can: in the hidden part of GS.
// KVM API 4.13 (struct kvm_segment); Intel SDM vol. 3A §3.4.3.
import type { Exam } from '../ladder/lesson.js';
import { describeEnd, ENTRY, hex } from '../ladder/rig.js';

const BASE = 0x30_0000;
const TREASURE = 0x18;

export function gradeProtectedMode(exam: Exam): void {
  const run = exam.run({ guest: exam.guest(ENTRY), ram: 4 << 20 });
  const { gs, cr0 } = run.sregs;
  exam.check('it halts', run.stop.kind === 'hlt', () => ({
    observed: `${describeEnd(run)}.`,
    missing:
      run.stop.kind === 'shutdown'
        ? 'a descriptor that can be loaded and reaches offset 0x23: each fault without an IDT is a triple fault.'
        : 'HLT at the end.',
  }));
  exam.check('it is in protected mode', (cr0 & 1n) === 1n, () => ({
    observed: `CR0 is ${hex(cr0)}.`,
    missing: 'CR0.PE, bit 0; the exercise came with it.',
  }));
  exam.check('GS has the selector TREASURE', gs.selector === TREASURE, () => ({
    observed: `GS has the selector ${hex(gs.selector)}.`,
    missing: `mov ax, TREASURE and mov gs, ax: selector ${hex(TREASURE)}, the fourth entry of the GDT.`,
  }));
  exam.check("GS's base is 0x300000", gs.base === BigInt(BASE), () => ({
    observed: `GS's hidden base is ${hex(gs.base)}.`,
    missing: 'the base in three pieces: bits 15:0 in bytes 2 and 3, bits 23:16 in byte 4, bits 31:24 in byte 7.',
  }));
  exam.check("GS's limit is 0x1ff bytes", gs.limit === 0x1ff, () => ({
    observed: `GS's hidden limit is ${hex(gs.limit)}.`,
    missing:
      gs.g === 1
        ? 'flag G as 0 (flags 0x4 in the high half of byte 6): with G the limit counts pages.'
        : 'the limit 0x1ff in bytes 0 and 1.',
  }));
  exam.check('GS is writable data of 32 bits', (gs.type & 0b1010) === 0b0010 && gs.db === 1, () => ({
    observed: `GS has type ${hex(gs.type)} and D/B = ${gs.db}.`,
    missing: 'access byte 0x93 (present, data, writable, accessed), and flag D/B (0x4).',
  }));
  const treasure = run.memory.readU32(BASE + 0x20);
  exam.check('0xc0ffee lies at offset 0x20 of it', treasure === 0xc0ffee, () => ({
    observed: `At GPA ${hex(BASE + 0x20)} lies ${hex(treasure)}.`,
    missing: 'mov dword ptr gs:[0x20], 0xc0ffee, after GS is loaded.',
  }));
}
