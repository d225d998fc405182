// The lessons as a table, and the program that runs one: `npm run lesson -- 02`; without a number it lists them.
// Our own. A lesson's guest runs on this very thread, so Ctrl-C ends the process, whatever the guest does.
import { pathToFileURL } from 'node:url';
import { runHalt } from './01-halt/vmm.js';
import { runPortHello } from './02-port-hello/vmm.js';
import { runMmio } from './03-mmio/vmm.js';
import { runProtectedMode } from './04-protected-mode/vmm.js';
import { runLongMode } from './05-long-mode/vmm.js';
import { runTimer } from './06-timer/vmm.js';
import { runTwoVcpus } from './07-two-vcpus/vmm.js';

export interface Lesson {
  /** The folder in guests/; it starts with the lesson's number. */
  readonly name: string;
  readonly summary: string;
  run(options: { readonly output: (text: string) => void }): object | Promise<object>;
}

export const LESSONS: readonly Lesson[] = [
  { name: '01-halt', summary: 'the smallest VMM: a VM, a slot of memory, a vCPU, one KVM_RUN', run: runHalt },
  { name: '02-port-hello', summary: 'real mode, and a run loop by hand that serves an I/O port', run: runPortHello },
  { name: '03-mmio', summary: 'a device of registers where there is no memory slot', run: runMmio },
  {
    name: '04-protected-mode',
    summary: 'GDT, CR0.PE, far jump: and what a VMM sees of segments',
    run: runProtectedMode,
  },
  { name: '05-long-mode', summary: 'page tables that the guest builds, and the walk through them', run: runLongMode },
  { name: '06-timer', summary: 'IDT, local APIC, in-kernel irqchip: ten timer interrupts', run: runTimer },
  {
    name: '07-two-vcpus',
    summary: 'INIT and SIPI wake a second processor; both count, with and without LOCK',
    run: runTwoVcpus,
  },
];

/** The lesson that `text` names by its number (`2`, `02`) or its folder. */
export function findLesson(text: string): Lesson | undefined {
  const number = /^\d{1,2}$/.test(text) ? `${text.padStart(2, '0')}-` : undefined;
  return LESSONS.find(({ name }) => name === text || (number !== undefined && name.startsWith(number)));
}

/** The lessons, one a line. */
export function listLessons(): string {
  const rows = LESSONS.map(({ name, summary }) => `  ${name.padEnd(18)} ${summary}\n`);
  return `Lessons, each with guest.S, vmm.ts and README.md in guests/:\n${rows.join('')}Run one: npm run lesson -- 01\n`;
}

/** @returns the process's exit status: 0, 1 when the lesson failed, 2 for a lesson that does not exist */
async function main(args: readonly string[]): Promise<number> {
  const json = args.includes('--json');
  const [wanted] = args.filter((arg) => arg !== '--json');
  if (wanted === undefined) {
    process.stdout.write(listLessons());
    return 0;
  }
  const lesson = findLesson(wanted);
  if (lesson === undefined) {
    process.stderr.write(`There is no lesson "${wanted}".\n${listLessons()}`);
    return 2;
  }
  let printed = '';
  const output = (text: string): void => {
    if (json) printed += text;
    else process.stdout.write(text);
  };
  try {
    const result = await lesson.run({ output });
    // For programs, and for the tests of the lessons: bigints as their hexadecimal text.
    if (json) process.stdout.write(`${JSON.stringify({ printed, result }, hexBigInts)}\n`);
    return 0;
  } catch (error) {
    process.stderr.write(`Lesson ${lesson.name}: ${error instanceof Error ? error.message : String(error)}\n`);
    return 1;
  }
}

function hexBigInts(_key: string, value: unknown): unknown {
  return typeof value === 'bigint' ? `0x${value.toString(16)}` : value;
}

const started = process.argv[1];
if (started !== undefined && import.meta.url === pathToFileURL(started).href)
  process.exitCode = await main(process.argv.slice(2));
