// Grades exercise 6: page tables, by the same walk that the processor takes.
// Intel SDM vol. 3A §4.5 (4-level paging), §4.7 (page-fault exceptions).
import type { Exam } from '../ladder/lesson.js';
import { describeEnd, ENTRY, hex } from '../ladder/rig.js';
import { LARGE_PAGE, walkSteps } from './vmm.js';

const LINEAR = 0xffff_c000_0020_1000n;
const FRAME = 0x50_0000;
const VALUE = 0x0123_4567_89ab_cdefn;
const WRITABLE = 2n;
const EFER_LMA = 1n << 10n;
const PML4 = 0x1_0000n;

export function gradeLongMode(exam: Exam): void {
  const run = exam.run({ guest: exam.guest(ENTRY), ram: 8 << 20 });
  // The exercise's own PML4, for a processor that has forgotten its CR3.
  const cr3 = run.forgotten ? PML4 : run.sregs.cr3;
  exam.check('it reaches long mode', run.forgotten || (run.sregs.efer & EFER_LMA) !== 0n, () => ({
    observed: `EFER is ${hex(run.sregs.efer)}, and ${describeEnd(run)}.`,
    missing: 'EFER.LMA; the exercise came with the way there (enter_long_mode).',
  }));
  for (const { name, index, entry, next } of walkSteps(run.memory, cr3, LINEAR)) {
    const slot = `${name}[${index}]`;
    exam.check(`${slot} is present`, (entry & 1n) === 1n, () => ({
      observed: `The walk to ${hex(LINEAR)} ends at ${slot}, which is ${hex(entry)}: not present. So ${describeEnd(run)}.`,
      missing: `a store to entry ${index} of the ${name}: the next table's address (or the frame's), | PRESENT_WRITABLE.`,
    }));
    exam.check(`${slot} is writable`, (entry & WRITABLE) !== 0n, () => ({
      observed: `${slot} is ${hex(entry)}: read only.`,
      missing: 'bit 1 of the entry. All four entries must allow the write.',
    }));
    exam.check(`${slot} is no large page`, name === 'PT' || (entry & LARGE_PAGE) === 0n, () => ({
      observed: `${slot} is ${hex(entry)}: bit 7 makes it a large page, and the walk would end there.`,
      missing: 'an entry without bit 7, which leads to the next table.',
    }));
    const leadsToRam = run.memory.contains(Number(next), 4096);
    exam.check(`${slot} leads to RAM`, leadsToRam, () => ({
      observed: `${slot} is ${hex(entry)}: it leads to GPA ${hex(next)}, and RAM ends at ${hex(run.memory.size)}.`,
      missing: 'the address of a page in RAM, with its lowest twelve bits as flags.',
    }));
    if (name === 'PT')
      exam.check(`${slot} is the frame at ${hex(FRAME)}`, next === BigInt(FRAME), () => ({
        observed: `${slot} leads to GPA ${hex(next)}.`,
        missing: `the frame ${hex(FRAME)}.`,
      }));
  }
  exam.check('it halts', run.stop.kind === 'hlt', () => ({
    observed: `${describeEnd(run)}.`,
    missing: 'an end by HLT: are the low 2 MiB, where the program lies, still mapped?',
  }));
  const stored = run.memory.readU64(FRAME);
  exam.check('the number lies in the frame', stored === VALUE, () => ({
    observed: `At GPA ${hex(FRAME)} lies ${hex(stored)}.`,
    missing: `${hex(VALUE)}, stored to ${hex(LINEAR)}.`,
  }));
}
