// Grades exercise 7: a page-fault handler, by the page table that it filled and the stores that it let through.
// Intel SDM vol. 3A §4.5 (entries), §4.7 (page faults).
import type { Exam } from '../ladder/lesson.js';
import { describeEnd, ENTRY, hex } from '../ladder/rig.js';
import { readGates } from './vmm.js';

/** The program's own choices. */
const DEMAND = 0x4000_0000;
const PAGE_TABLE = 0x15000;
const PF = 14;
const STORES = [
  { offset: 0, value: 0x1111_1111 },
  { offset: 0x3008, value: 0x2222_2222 },
  { offset: 0x10, value: 0x3333_3333 },
  { offset: 0x5ffc, value: 0x4444_4444 },
] as const;
const FRAMES = 0x10_0000;

export function gradeExceptions(exam: Exam): void {
  let cr2 = 0n;
  const run = exam.run({
    guest: exam.guest(ENTRY),
    ram: 2 << 20,
    inspect: (_vm, vcpu) => void (cr2 = vcpu.getSregs().cr2),
  });
  const handler = readGates(run.memory, run.sregs.idt).find(({ vector }) => vector === PF)?.handler;
  // A processor that has forgotten its registers cannot be asked for the IDT, nor for the last address.
  const last = run.forgotten ? '' : `the last page fault was for ${hex(cr2)}, and `;
  exam.check('gate 14 of the IDT is present', run.forgotten || handler !== undefined, () => ({
    observed: `The IDT at ${hex(run.sregs.idt.base)} has no gate for vector 14.`,
    missing: 'set_gate PF, on_page_fault; the exercise came with it.',
  }));
  const entry = (page: number): bigint => run.memory.readU64(PAGE_TABLE + page * 8);
  exam.check('the handler maps the first page', (entry(0) & 3n) === 3n, () => ({
    observed: `PT[0] is ${hex(entry(0))}; ${last}${describeEnd(run)}.`,
    missing: 'an entry for the page in CR2: a frame | PRESENT_WRITABLE, at DEMAND_PT + index * 8.',
  }));
  for (const page of [3, 5])
    exam.check(`it maps page ${page}`, (entry(page) & 3n) === 3n, () => ({
      observed: `PT[${page}] is ${hex(entry(page))}; ${last}${describeEnd(run)}.`,
      missing:
        run.stop.kind === 'pending'
          ? 'the index from CR2: bits 20:12 of the address that was touched.'
          : 'a return that works: pop what was pushed, add rsp, 8 for the error code, then IRETQ.',
    }));
  exam.check('the program goes on to its end', run.stop.kind === 'pending', () => ({
    observed: `All three pages are mapped; ${last}${describeEnd(run)}.`,
    missing: 'IRETQ from the last page fault, with the error code taken off the stack before.',
  }));
  const frames = [0, 3, 5].map((page) => Number(entry(page) & 0xf_ffff_ffff_f000n));
  exam.check('each page has a frame of its own', new Set(frames).size === 3 && Math.min(...frames) >= FRAMES, () => ({
    observed: `The three pages lie at ${frames.map((frame) => hex(frame)).join(', ')}.`,
    missing: 'a new frame for each: add 0x1000 to next_frame after its use.',
  }));
  for (const { offset, value } of STORES) {
    const gpa = Number(entry(offset >> 12) & 0xf_ffff_ffff_f000n) + (offset & 0xfff);
    const stored = run.memory.contains(gpa, 4) ? run.memory.readU32(gpa) : 0;
    exam.check(`the store to ${hex(DEMAND + offset)} arrived`, stored === value, () => ({
      observed: `Its place in the frame, GPA ${hex(gpa)}, has ${hex(stored)}, not ${hex(value)}.`,
      missing: 'registers as they were: the handler must push what it changes, and pop it in the other order.',
    }));
  }
}
