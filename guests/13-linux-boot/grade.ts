// Grades exercise 13: a boot loader, by what the kernel finds and by boot_params itself.
// Linux Documentation/arch/x86/boot.rst, zero-page.rst.
import type { Exam } from '../ladder/lesson.js';
import { hex } from '../ladder/rig.js';
import { boot, E820, lessonKernel, type BootEntry, type LoadKernel } from './vmm.js';

const E820_ENTRIES = 0x1e8;
const HEADER = 0x202;
const HDRS = 0x5372_6448;
const TYPE_OF_LOADER = 0x210;
const CMD_LINE_PTR = 0x228;

export async function gradeLinuxBoot(exam: Exam): Promise<void> {
  const { loadKernel } = await exam.module();
  exam.check('the module exports loadKernel', typeof loadKernel === 'function', () => ({
    observed: `loadKernel is ${typeof loadKernel}.`,
    missing: 'export function loadKernel(memory, request) { … }',
  }));
  const image = lessonKernel();
  const cmdline = `root=/dev/vda lesson=${process.pid}`;
  let entry: BootEntry = { eip: 0, esi: 0 };
  const load: LoadKernel = (memory, request) => (entry = (loadKernel as LoadKernel)(memory, request));
  const { text, memory } = boot(load, { image, cmdline, e820: E820 }, exam.guard);
  const says = `The kernel says: ${JSON.stringify(text)}.`;
  exam.check('the kernel is entered where it wants to be', entry.eip === 0x10_0000, () => ({
    observed: `eip is ${hex(entry.eip)}.`,
    missing: 'the value of code32_start, 4 bytes at 0x214 of the image.',
  }));
  const params = entry.esi;
  exam.check('ESI leads to boot_params in RAM', params > 0 && memory.contains(params, 4096), () => ({
    observed: `esi is ${hex(params)}.`,
    missing: 'the GPA of the page that you filled.',
  }));
  exam.check('boot_params has the setup header', memory.readU32(params + HEADER) === HDRS, () => ({
    observed: `${says} At ${hex(HEADER)} of boot_params lies ${hex(memory.readU32(params + HEADER))}, not "HdrS".`,
    missing: 'the bytes of the image from 0x1f1 to 0x202 + (byte at 0x201), at the same offsets of boot_params.',
  }));
  exam.check('type_of_loader is set', memory.readU8(params + TYPE_OF_LOADER) !== 0, () => ({
    observed: `${says} The byte at ${hex(TYPE_OF_LOADER)} of boot_params is 0.`,
    missing: '0xff at type_of_loader, after the header was copied.',
  }));
  exam.check('the kernel finds its command line', text.startsWith(`command line: ${cmdline}\n`), () => ({
    observed: `${says} cmd_line_ptr is ${hex(memory.readU32(params + CMD_LINE_PTR))}, and the command line is ${JSON.stringify(cmdline)}.`,
    missing: 'the text with a 0 behind it in memory, and its GPA in cmd_line_ptr.',
  }));
  const count = memory.readU8(params + E820_ENTRIES);
  exam.check(`the memory map has ${E820.length} rows`, count === E820.length, () => ({
    observed: `${says} e820_entries is ${count}.`,
    missing: `${E820.length} at e820_entries: the kernel may use no memory that the map does not give it.`,
  }));
  for (const { base, size, type } of E820) {
    const row = `memory: ${hex8(base)}+${hex8(size)} ${type}\n`;
    exam.check(`it has ${row.trim()}`, text.includes(row), () => ({
      observed: says,
      missing: `a row with base ${hex(base)}, size ${hex(size)} (8 bytes each) and type ${type} (4 bytes), each 20 bytes behind the last.`,
    }));
  }
}

function hex8(value: number): string {
  return value.toString(16).padStart(8, '0');
}
