// The ladder of guests/: each worked guest runs, each solution is passed, each unsolved form fails with a message that helps.
// All in this process, for starting one takes longer than a lesson; each test quotes what the lesson's README promises.
import { readFileSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import type { BlockResult } from '../../guests/11-virtio-block/vmm.js';
import type { EntropyResult } from '../../guests/10-virtio-entropy/vmm.js';
import type { ExceptionsResult } from '../../guests/07-exceptions/vmm.js';
import type { PortInputResult } from '../../guests/03-port-input/vmm.js';
import type { SnapshotResult } from '../../guests/12-snapshot/vmm.js';
import type { TimersResult } from '../../guests/08-timers/vmm.js';
import type { TwoCpusResult } from '../../guests/09-two-cpus/vmm.js';
import { GUESTS } from '../../guests/ladder/build.js';
import { formatGrade, gradeFile, type Grade, type GradeTools } from '../../guests/ladder/exam.js';
import type { Lesson } from '../../guests/ladder/lesson.js';
import { findLesson, LESSONS } from '../../guests/ladder/lessons.js';
import { Watchdog } from '../../guests/ladder/watchdog.js';
import { noKvm } from '../support/kvm.js';

const watchdog = new Watchdog();

function lesson(number: number): Lesson {
  const found = findLesson(String(number));
  if (found === undefined) throw new Error(`there is no lesson ${number}`);
  return found;
}

interface Ran<T> {
  readonly printed: string;
  readonly result: T;
}

async function run(number: number): Promise<Ran<object>> {
  let printed = '';
  const result = await lesson(number).run({ output: (text) => void (printed += text) });
  return { printed, result };
}

describe.skipIf(noKvm)('the worked guests', () => {
  it('1: "a virtual machine is three file descriptors and some of your memory"', async () => {
    const { printed, result } = await run(1);
    // mov and add have three bytes each, hlt one.
    expect(result).toEqual({ exitReason: 5, ax: 42, rip: 0x1007 });
    expect(printed).toContain('KVM_EXIT_HLT');
  });

  it('2: "we print the byte, and enter the guest again"', async () => {
    const text = 'Hello from real mode.\n';
    expect((await run(2)).result).toEqual({ text, exits: text.length });
  });

  it('3: "With REP one exit may stand for many bytes"', async () => {
    const { result } = (await run(3)) as Ran<PortInputResult & { readonly text: string }>;
    expect(result.text).toBe('Hello from real mode, dear reader!\n');
    expect(result.stored).toBe('dear reader');
    const bytes = (direction: string): number =>
      result.exits
        .filter((exit) => exit.direction === direction)
        .reduce((sum, { size, count }) => sum + size * count, 0);
    expect(bytes('out')).toBe(result.text.length);
    expect(bytes('in')).toBe(1 + 'dear reader'.length);
    expect(new Set(result.exits.map(({ port }) => port))).toEqual(new Set([0x3f8]));
    expect(result.exits.some(({ count }) => count > 1)).toBe(true);
  });

  it('4: "what no memory slot covers is a device"', async () => {
    expect((await run(4)).result).toEqual({
      text: 'Written to memory that is not there.\n',
      factors: [6, 7],
      product: 42,
      fromNobody: 0xffff_ffff,
      unclaimed: [0xd1000],
    });
  });

  it('5: "Loading a selector copies base, limit and rights from the GDT into the processor"', async () => {
    expect((await run(5)).result).toMatchObject({
      text: 'Hello from protected mode.\n',
      protection: [false, true],
      cs: { selector: 0x08, base: 0n, limit: 0xffff_ffff, db: 1 },
      fs: { selector: 0x18, base: 0x20_0000n, limit: 0xfff },
      flat: 0x1234_5678,
      throughFs: 0xcafe,
    });
  });

  it('6: "64-bit code stores a number at 0xffff800000000000, an address that only page tables can reach"', async () => {
    const { printed, result } = await run(6);
    expect(result).toEqual({
      text: 'Hello from long mode.\n',
      lma: true,
      l: 1,
      walked: 0x40_0000n,
      translated: 0x40_0000n,
      stored: 0x1122_3344_5566_7788n,
    });
    expect(printed).toMatch(/PML4\[256\] = 0x13\w{3}\n +PDPT\[0\] = 0x14\w{3}\n +PD\[0\] = 0x400\w{3}\n/);
  });

  it('7: "A handler that repairs the cause makes the program go on"; "the VMM does not come back for it"', async () => {
    const { result } = (await run(7)) as Ran<ExceptionsResult>;
    expect(result.text).toBe('7*');
    expect(result.gates.map(({ vector }) => vector)).toEqual([0, 14]);
    // A write (bit 1) to a page that is not present (bit 0), by the kernel (bit 2).
    expect(result).toMatchObject({ errorCode: 2n, cr2: 0x4000_0000n, stored: 0x2a, entries: 3 });
  });

  // Ticks that a host without a processor to spare could not deliver come one after the other: KVM makes up for the PIT's.
  it(
    '8: "Five interrupts come from the PIT through the PIC …, and five from the local APIC\'s own timer"',
    { retry: 3 },
    async () => {
      const { printed, result } = (await run(8)) as Ran<TimersResult>;
      expect(result).toMatchObject({ picBase: 0x20, apicVector: 0x30 });
      for (const [name, { count, intervals }] of Object.entries({ PIT: result.pit, APIC: result.apic })) {
        // On a slow host one more comes between IRETQ and CLI, as the README says.
        expect(count).toBeGreaterThanOrEqual(5);
        for (let tick = 1; tick <= count; tick++) expect(printed).toContain(`${name} tick ${tick}\n`);
        // Five periods of 5 ms cannot pass in less than four, less what the first tick came late. Never an upper bound: speed.
        expect(intervals.reduce((sum, ms) => sum + ms)).toBeGreaterThan(5);
      }
    },
  );

  it('9: "Two of them count to the same number together …, and each reports under its own APIC id"', async () => {
    const { result } = (await run(9)) as Ran<TwoCpusResult>;
    const ids = [...result.text.matchAll(/^The processor with APIC id (\d+) has counted\.$/gm)].map(([, id]) => id);
    expect(ids.toSorted((a, b) => Number(a) - Number(b))).toEqual(['0', '1']);
    const counters = /^With LOCK the counter is (\d+), without it (\d+)\.$/m.exec(result.text);
    expect(Number(counters?.[1])).toBe(100_000);
    expect(Number(counters?.[2])).toBeGreaterThan(0);
    expect(Number(counters?.[2])).toBeLessThanOrEqual(100_000);
    expect(result.outcome).toEqual({ kind: 'debug-exit', value: 0 });
    // Both printed by themselves: an exit a byte, each on its own vCPU.
    const [boot = 0, application = 0] = result.serialExits;
    expect(application).toBe('The processor with APIC id 1 has counted.\n'.length);
    expect(boot + application).toBe(result.text.length);
  });

  it('10: "whatever buffer it is offered, it fills with random bytes"; "a single write, the kick"', async () => {
    const { result } = (await run(10)) as Ran<EntropyResult>;
    expect(result.text).toMatch(/^10 bytes: (?!0{32})[0-9a-f]{32}\n$/);
    expect(result.virtio).toMatchObject([{ name: 'entropy', chains: 1, counters: { bytes: 16 } }]);
  });

  it('11: "Header, data, one byte for the answer: the same chain reads and writes"', async () => {
    const { result } = (await run(11)) as Ran<BlockResult>;
    expect(result.text).toBe('The disk has 0040 sectors (hexadecimal). Sector 0 says: Hello from the first sector.\n');
    expect(result.accesses).toEqual([
      { kind: 'read', sector: 0, bytes: 512 },
      { kind: 'write', sector: 1, bytes: 512 },
    ]);
    expect(result.written).toBe('Written by a guest of 512 bytes a turn.\n');
  });

  it('12: "the guest lives the same hours again", and "not all of them must be copied"', async () => {
    const { result } = (await run(12)) as Ran<SnapshotResult>;
    expect(result.first).toHaveLength(8);
    expect(result.again).toEqual(result.first);
    // The program's own page, and those of the four that the guest counted in.
    expect(result.copied).toBeGreaterThan(1);
    expect(result.copied).toBeLessThanOrEqual(5);
    expect(result.pages).toBe(256);
  });

  it('13: "fills the page boot_params (command line, memory map), and enters it"', async () => {
    expect((await run(13)).result).toEqual({
      text:
        'command line: console=ttyS0 lesson=13\n' +
        'memory: 00000000+0009fc00 1\nmemory: 0009fc00+00060400 2\nmemory: 00100000+00300000 1\n',
    });
  });
});

/** What the unsolved form of each lesson is told: the check, what was seen, what is missing. */
const UNSOLVED: readonly (readonly [what: RegExp, observed: RegExp, missing: RegExp])[] = [
  [/AX is 1 for N = 1/, /For N = 1 AX is 0 at the end, and 1 was expected/, /ADD CX to AX once for each value of CX/],
  [/it prints "002A\\n"/, /port 0x3f8 got "\\n", and "002A\\n" was expected/, /4 of 5 letters: one OUT for each digit/],
  [
    /IN asks the device/,
    /device\.read was never called/,
    /where kvmRun\.getUint8\(io\.direction\) is 0 the guest wants/,
  ],
  [/STATUS is asked/, /never read STATUS at 0xd0000/, /a look at READY, before each sample/],
  [/GS has the selector TREASURE/, /GS has the selector 0x0/, /selector 0x18, the fourth entry of the GDT/],
  [/PML4\[384\] is present/, /not present\. So the guest ended with triple fault/, /a store to entry 384 of the PML4/],
  [
    /maps the first page/,
    /PT\[0\] is 0x0; the last page fault was for 0x40000000, and the guest ended with HLT/,
    /an entry for the page in CR2/,
  ],
  [/IRQ 0 is vector 0x20/, /IRQ 0 as vector 0x0, which is one of the processor's own/, /ICW1 to ICW4 for PIC1/],
  [/the other processor starts/, /The guest printed "".*stayed 0/, /INIT \(0xc4500\), then the start-up IPI/],
  [/Status has ACKNOWLEDGE/, /The device's Status is 0x0/, /write_register\(STATUS, 0\), then ACKNOWLEDGE/],
  [/sector 5 is read/, /The disk saw no request/, /descriptor 0 is the header \(16 bytes, NEXT\)/],
  [
    /the segment registers are back/,
    /ES was 0x\w+ when the snapshot was taken, and is 0x/,
    /vcpu\.getSregs\(\) in save/,
  ],
  [/boot_params has the setup header/, /The kernel says: "no setup header in boot_params/, /from 0x1f1 to 0x202/],
];

describe.skipIf(noKvm)('"Each lesson\'s solution passes and its unsolved form fails with a helpful message"', () => {
  it('has a message for each lesson', () => {
    expect(UNSOLVED).toHaveLength(LESSONS.length);
  });

  it.each(LESSONS.map((row, index) => [row.name, row, UNSOLVED[index]] as const))('%s', async (_, row, expected) => {
    const solution = await gradeFile(row, join(GUESTS, row.name, 'solution', row.exercise), { watchdog });
    expect(solution.failed).toBeUndefined();
    expect(solution.passed.length).toBeGreaterThan(2);
    const { failed } = await gradeFile(row, join(GUESTS, row.name, row.exercise), { watchdog });
    const [what, observed, missing] = expected ?? [];
    expect(failed?.what).toMatch(what ?? '');
    expect(failed?.finding.observed).toMatch(observed ?? '');
    expect(failed?.finding.missing).toMatch(missing ?? '');
  });
});

describe.skipIf(noKvm)('the exam', () => {
  /** Time enough for a guest to come where it stays. */
  const SOON: GradeTools = { guestLimitMs: 1000 };

  /** Grades the solution of a lesson after a change to its text. */
  async function gradeChanged(
    number: number,
    from: string | RegExp,
    to: string,
    tools: GradeTools = {},
  ): Promise<Grade> {
    const row = lesson(number);
    const text = readFileSync(join(GUESTS, row.name, 'solution', row.exercise), 'utf8');
    const changed = text.replace(from, to);
    expect(changed).not.toBe(text);
    const folder = await mkdtemp(join(tmpdir(), 'microvisor-test-'));
    try {
      const path = join(folder, row.exercise);
      await writeFile(path, changed);
      return await gradeFile(row, path, { watchdog, ...tools });
    } finally {
      await rm(folder, { recursive: true });
    }
  }

  it('"The exam ends one by itself": a guest that spins', async () => {
    const { failed } = await gradeChanged(1, 'loop    next', 'jmp     next', SOON);
    expect(failed?.finding.observed).toMatch(/the guest was still running when its time was over; RIP is 0x100\w/);
    expect(failed?.finding.missing).toContain('Does CX ever become 0?');
  });

  it('names the mistake of an interrupt without its end: a guest that sleeps', async () => {
    const { failed } = await gradeChanged(8, /outb {4}PIC1, 0x20/, '', SOON);
    expect(failed?.finding.observed).toMatch(/still running .*in-service register is 0x1/);
  });

  it('quotes the assembler when the source has errors', async () => {
    const { failed } = await gradeChanged(1, 'add     ax, cx', 'add     ax, quux, 3');
    expect(failed?.finding.observed).toMatch(/as refuses .*exercise\.S:\n[^]*Error: /);
  });

  it('quotes the error of a module that throws, and of one that cannot be loaded', async () => {
    const thrown = await gradeChanged(3, 'const port =', 'nothing.here();\n  const port =');
    expect(thrown.failed?.finding.observed).toMatch(
      /^serve threw: ReferenceError: nothing is not defined\n.*exercise\.mjs/,
    );
    const broken = await gradeChanged(3, 'export function', 'export functio');
    expect(broken.failed?.finding.observed).toMatch(/Node cannot load .*exercise\.mjs: /);
  });

  it.each([
    ['a driver that does not ask again', 4, 'jmp     poll', 'add ebx, es:[DATA]\n jmp poll', /while READY was 0/],
    ['a limit in pages', 5, '0x93, 0x40, 0x00', '0x93, 0xc0, 0x00', /limit is 0x1fffff/],
    ['a wrong index', 6, 'MY_PD + 1 * 8', 'MY_PD + 2 * 8', /ends at PD\[1\], which is 0x0: not present/],
    [
      'a table that is not in RAM',
      6,
      'MY_PDPT | PRESENT',
      '0x40000000 | PRESENT',
      /leads to GPA 0x40000000, and RAM ends/,
    ],
    [
      'the error code left on the stack',
      7,
      /add {5}rsp, 8.*/,
      '',
      /PT\[3\] is 0x0; .*the guest ended with triple fault/,
    ],
    ['one frame for all', 7, /add {5}qword ptr \[next_frame\].*/, '', /lie at 0x100000, 0x100000, 0x100000/],
    ['a call to nobody', 9, '1 << 24', '7 << 24', /its handler for vector 0x40 has not run/],
    ['no features', 10, 'VERSION_1_HIGH);', '0);', /Of features 32 to 63 the driver accepted 0x0/],
    ['data that the device cannot write', 11, 'type == IN ? WRITE : 0', '0', /The disk saw no request/],
    ['a snapshot without memory', 12, /for \(const page[^;]*;/, '', /The byte at GPA 0x\w+, in page \d+, was/],
    ['all pages instead of the dirty ones', 12, 'of dirtyPages()', 'of Array(200).keys()', /\d+ pages were dirty/],
    ['no 0 behind the command line', 13, '\\0`', '#`', /the command line is "root=/],
    ['a map with a wrong size', 13, 'BigInt(size)', 'BigInt(size - 1)', /memory: 00000000\+0009fbff 1/],
  ] as const)('names the mistake: %s', async (_, number, from, to, observed) => {
    const { failed } = await gradeChanged(number, from, to);
    expect(failed?.finding.observed).toMatch(observed);
  });

  it('reports what was passed, and then what was not', async () => {
    const grade = await gradeChanged(1, 'loop    next', '');
    expect(formatGrade(lesson(1), 'exercise.S', grade)).toBe(
      '  ✓ it halts for N = 1\n  ✓ AX is 1 for N = 1\n  ✓ it halts for N = 7\n  ✗ AX is 28 for N = 7\n' +
        '    For N = 7 AX is 7 at the end, and 28 was expected.\n' +
        '    Missing: the sum: ADD CX to AX once for each value of CX from N down to 1.\n' +
        'Lesson 01-halt is not passed yet; edit exercise.S and try again.\n',
    );
  });
});
