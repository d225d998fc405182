// The lessons of guests/, each in a process of its own as a reader starts it: a guest that spins ends with a time limit.
// Each test quotes what the lesson's README or sources promise, and looks at the effect in the guest itself.
import { execFile, type ExecFileException } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { sourcePath } from '../../guests/assemble.js';
import { findLesson, LESSONS } from '../../guests/lesson.js';
import type { HaltResult } from '../../guests/01-halt/vmm.js';
import type { PortHelloResult } from '../../guests/02-port-hello/vmm.js';
import type { MmioResult } from '../../guests/03-mmio/vmm.js';
import type { TimerResult } from '../../guests/06-timer/vmm.js';
import type { TwoVcpusResult } from '../../guests/07-two-vcpus/vmm.js';
import { noKvm } from '../support/kvm.js';

const RUNNER = fileURLToPath(new URL('../../guests/lesson.js', import.meta.url));
/** Far more than they take, even where the whole host is emulated. */
const LIMIT_MS = 110_000;

interface Ended {
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
}

function start(args: readonly string[], env: Readonly<Record<string, string>> = {}): Promise<Ended> {
  const options = { timeout: LIMIT_MS, killSignal: 'SIGKILL', env: { ...process.env, ...env } } as const;
  return new Promise((resolve, reject) => {
    const done = (error: ExecFileException | null, stdout: string, stderr: string): void => {
      if (error?.killed === true)
        reject(new Error(`lesson ${args.join(' ')} ran for ${LIMIT_MS} ms: ${stdout}${stderr}`));
      else resolve({ status: typeof error?.code === 'number' ? error.code : 0, stdout, stderr });
    };
    execFile(process.execPath, [RUNNER, ...args], options, done);
  });
}

/** What a lesson printed and found; bigints of its result are hexadecimal text. */
interface Ran<T> {
  readonly printed: string;
  readonly result: T;
}

async function lesson(number: string): Promise<Ran<unknown>> {
  const { status, stdout, stderr } = await start([number, '--json']);
  expect(stderr).toBe('');
  expect(status).toBe(0);
  return JSON.parse(stdout) as Ran<unknown>;
}

describe.skipIf(noKvm)('lessons', { timeout: 120_000 }, () => {
  it('1: "a virtual machine of three instructions run once, and the register in which it left its result"', async () => {
    const { printed, result } = (await lesson('1')) as Ran<HaltResult>;
    // mov and add have three bytes each, hlt one.
    expect(result).toEqual({ exitReason: 5, ax: 42, rip: 0x1007 });
    expect(printed).toContain('KVM_EXIT_HLT');
  });

  it('2: "a line that the guest prints, letter by letter …, with a name in it that it read from the same port"', async () => {
    const { printed, result } = (await lesson('2')) as Ran<PortHelloResult>;
    expect(result.text).toBe('Hello from real mode, dear reader!\n');
    expect(printed).toBe(result.text);
    const bytes = (direction: string): number =>
      result.exits
        .filter((exit) => exit.direction === direction)
        .reduce((sum, { size, count }) => sum + size * count, 0);
    expect(bytes('out')).toBe(result.text.length);
    expect(bytes('in')).toBe(1 + 'dear reader'.length);
    expect(new Set(result.exits.map(({ port }) => port))).toEqual(new Set([0x3f8]));
    // "many bytes, one exit: KVM_EXIT_IO with a count"
    expect(result.exits.some(({ count }) => count > 1)).toBe(true);
  });

  it('3: "a guest use a device that multiplies, and one address where there is nothing at all"', async () => {
    const { result } = (await lesson('3')) as Ran<MmioResult>;
    expect(result).toEqual({
      text: 'Written to memory that is not there.\n',
      factors: [6, 7],
      product: 42,
      fromNobody: 0xffff_ffff,
      unclaimed: [0xd1000],
    });
  });

  it('4: "the guest switch its processor to protected mode, write beyond the first megabyte"', async () => {
    const { result } = await lesson('4');
    expect(result).toMatchObject({
      text: 'Hello from protected mode.\n',
      protection: [false, true],
      cs: { selector: 0x08, base: '0x0', limit: 0xffff_ffff, db: 1 },
      fs: { selector: 0x18, base: '0x200000', limit: 0xfff },
      flat: 0x1234_5678,
      throughFs: 0xcafe,
    });
  });

  it('5: "64-bit code … store a number at 0xffff800000000000, an address that only page tables can reach"', async () => {
    const { printed, result } = await lesson('5');
    expect(result).toEqual({
      text: 'Hello from long mode.\n',
      lma: true,
      l: 1,
      walked: '0x400000',
      translated: '0x400000',
      stored: '0x1122334455667788',
    });
    expect(printed).toMatch(/PML4\[256\] = 0x13\w{3}\n +PDPT\[0\] = 0x14\w{3}\n +PD\[0\] = 0x400\w{3}\n/);
  });

  it('6: "ten interrupts, and the time between them on the host\'s clock"', async () => {
    const { printed, result } = (await lesson('6')) as Ran<TimerResult>;
    // On a slow host the next one comes between IRETQ and CLI, as the README says.
    expect(result.ticks).toBeGreaterThanOrEqual(10);
    expect(result.vector).toBe(0x20);
    expect(result.intervals).toHaveLength(result.ticks - 1);
    for (let tick = 1; tick <= result.ticks; tick++) expect(printed).toContain(`tick ${tick}\n`);
    // Ten periods cannot pass in less than nine, less what the first tick came late. Never an upper bound: speed.
    expect(result.intervals.reduce((sum, ms) => sum + ms)).toBeGreaterThan(5);
  });

  it('7: "two processors count to the same number together …, and each of them report under its own APIC id"', async () => {
    const { result } = (await lesson('7')) as Ran<TwoVcpusResult>;
    const ids = [...result.text.matchAll(/^The processor with APIC id (\d+) has counted\.$/gm)].map(([, id]) => id);
    expect(ids.toSorted((a, b) => Number(a) - Number(b))).toEqual(['0', '1']);
    const counters = /^With LOCK the counter is (\d+), without it (\d+)\.$/m.exec(result.text);
    expect(Number(counters?.[1])).toBe(200_000);
    expect(Number(counters?.[2])).toBeGreaterThan(0);
    expect(Number(counters?.[2])).toBeLessThanOrEqual(200_000);
    expect(result.outcome).toEqual({ kind: 'debug-exit', value: 0 });
    // Both printed by themselves: an exit a byte, each on its own vCPU.
    const [boot = 0, application = 0] = result.serialExits;
    expect(application).toBe('The processor with APIC id 1 has counted.\n'.length);
    expect(boot + application).toBe(result.text.length);
  });
});

describe('the lesson runner', { timeout: 120_000 }, () => {
  it('"lists them with their one-line summary" without an argument', async () => {
    const { status, stdout } = await start([]);
    expect(status).toBe(0);
    for (const { name, summary } of LESSONS) expect(stdout).toMatch(new RegExp(`^ +${name} +${summary}$`, 'm'));
  });

  it('finds a lesson by number or folder, and says so when there is none', async () => {
    for (const text of ['2', '02', '02-port-hello']) expect(findLesson(text)?.name).toBe('02-port-hello');
    for (const text of ['', '0', '002', '2-port', 'halt']) expect(findLesson(text)).toBeUndefined();
    const { status, stderr } = await start(['99']);
    expect(status).toBe(2);
    expect(stderr).toContain('There is no lesson "99".');
  });

  it('has each lesson folder of guests/, with guest.S, vmm.ts, and a README that says how to run it', () => {
    const guests = join(sourcePath('01-halt'), '../..');
    const folders = readdirSync(guests).filter((name) => /^\d\d-/.test(name));
    expect(LESSONS.map(({ name }) => name)).toEqual(folders.toSorted());
    for (const name of folders) {
      expect(existsSync(join(guests, name, 'guest.S'))).toBe(true);
      expect(existsSync(join(guests, name, 'vmm.ts'))).toBe(true);
      expect(readFileSync(join(guests, name, 'README.md'), 'utf8')).toContain(
        `npm run lesson -- ${name.slice(0, 2)}\``,
      );
    }
  });

  it('names binutils when they are missing', async () => {
    const empty = await mkdtemp(join(tmpdir(), 'microvisor-test-'));
    try {
      const { status, stderr } = await start(['1'], { PATH: empty, XDG_CACHE_HOME: empty });
      expect(status).toBe(1);
      expect(stderr).toMatch(
        /lesson 01-halt is assembled with GNU binutils, and "as" cannot be started.*install binutils/,
      );
    } finally {
      await rm(empty, { recursive: true });
    }
  });

  it.skipIf(noKvm)('runs without a cache that it can write, and from the cache without binutils', async () => {
    const home = await mkdtemp(join(tmpdir(), 'microvisor-test-'));
    try {
      expect(await start(['1'], { XDG_CACHE_HOME: '/dev/null' })).toMatchObject({ status: 0 });
      expect(await start(['1'], { XDG_CACHE_HOME: home })).toMatchObject({ status: 0 });
      expect(readdirSync(join(home, 'microvisor', 'lessons'))).toEqual([
        expect.stringMatching(/^01-halt-\w{16}\.bin$/),
      ]);
      expect(await start(['1'], { XDG_CACHE_HOME: home, PATH: home })).toMatchObject({ status: 0 });
    } finally {
      await rm(home, { recursive: true });
    }
  });
});
