// `microvisor run` with guests of a few bytes: statuses, console, report, signals.
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync, existsSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { groupMembers, MAIN, microvisor, start, type Ended } from '../support/cli.js';
import * as guests from '../support/flat-guests.js';
import { noKvm } from '../support/kvm.js';

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'microvisor-cli-'));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

let count = 0;
/** The options that run a flat guest. */
function flat(code: Uint8Array, entry: 'real' | 'protected' | 'long' = 'real'): string[] {
  const path = join(folder, `guest-${count++}.bin`);
  writeFileSync(path, code);
  return ['run', '--kernel', path, '--entry', entry];
}

const readJson = (path: string): Record<string, unknown> =>
  JSON.parse(readFileSync(path, 'utf8')) as Record<string, unknown>;

function expectEnd(end: Ended, status: number): void {
  expect({ status: end.status, signal: end.signal, stderr: end.status === status ? '' : end.stderr }).toEqual({
    status,
    signal: null,
    stderr: '',
  });
}

describe.skipIf(noKvm)('status', () => {
  test.each([
    [0, 1],
    [1, 3],
    [5, 11],
    [0x7f, 0xff],
    [0x80, 1],
    [0xff, 0xff],
  ])('"a write of V to the debug-exit port 0xf4 ends with ((V << 1) | 1) & 0xff": %i → %i', async (value, status) => {
    const end = await microvisor(flat(guests.debugExit(value)));
    expectEnd(end, status);
    expect({ stdout: end.stdout.toString(), stderr: end.stderr }).toEqual({ stdout: '', stderr: '' });
  });

  test('27. "escapes, NUL, invalid or split UTF-8 → byte-exact; never raw in our own log"', async () => {
    const line = 'Kernel panic - not syncing: \x1b[2J\x1b]0;title\x07\0\xc3\x28';
    const end = await microvisor(flat(guests.printText(`${line}\n`)));
    expect(end.status).not.toBe(0);
    expect(end.stdout.toString('latin1')).toBe(`${line}\n`);
    expect(end.stderr).toContain('Kernel panic - not syncing: \\x1b[2J\\x1b]0;title\\x07\\x00');
    // oxlint-disable-next-line no-control-regex
    expect(end.stderr).not.toMatch(/[\x00-\x08\x0b-\x1f\x7f]/);
  });

  test('"loaded and entered at --load ADDR"', async () => {
    expectEnd(await microvisor([...flat(guests.debugExit(2)), '--load', '0x8000']), 5);
    expectEnd(await microvisor([...flat(guests.debugExit(2), 'protected'), '--load', '0x200000']), 5);
    expectEnd(await microvisor(flat(guests.debugExit(2), 'long')), 5);
  });

  test('"124 --timeout", even when the guest spins; with --report the outcome says so', async () => {
    const report = join(folder, 'timeout.json');
    const end = await microvisor([...flat(guests.SPIN), '--timeout', '0.2', '--report', report]);
    expectEnd(end, 124);
    expect(readJson(report)).toMatchObject({ status: 124, outcome: { kind: 'stopped', by: 'timeout' } });
  });

  test('"a triple fault … status 125 with the reason and registers"', async () => {
    const report = join(folder, 'fault.json');
    const end = await microvisor([...flat(guests.TRIPLE_FAULT, 'protected'), '--report', report]);
    expectEnd(end, 125);
    expect(end.stderr).toMatch(/^microvisor: .*triple fault/m);
    expect(end.stderr).toMatch(/vCPU 0: protected mode/);
    expect(end.stderr).toMatch(/rip=0{10}100000\b/);
    expect(readJson(report)).toMatchObject({
      status: 125,
      outcome: { kind: 'failed', failure: 'triple-fault', vcpus: [{}] },
    });
  });

  test('"all CPUs halted with interrupts off (noticed within a second)": 125', async () => {
    const end = await microvisor([...flat(guests.HALT), '--cpus', '2']);
    expectEnd(end, 125);
    expect(end.stderr).toMatch(/^microvisor: all CPUs are halted with interrupts off/m);
    expect(end.stderr).toMatch(/cs =0000 base=0/);
  });

  test('a guest that is halted with interrupts on is only idle', async () => {
    expectEnd(await microvisor([...flat(guests.IDLE), '--timeout', '2']), 124);
  });
});

describe.skipIf(noKvm)('console', () => {
  const all = Buffer.from(Array.from({ length: 256 }, (_, i) => i));

  test('"Output bytes verbatim to stdout"', async () => {
    const end = await microvisor(flat(guests.PRINT_ALL));
    expectEnd(end, 3);
    expect(end.stdout.equals(all)).toBe(true);
  });

  test('"--console file=PATH": all of it there, none on stdout, and stdin is not ours', async () => {
    const path = join(folder, 'console.log');
    const end = await microvisor([...flat(guests.PRINT_ALL), '--console', `file=${path}`]);
    expectEnd(end, 3);
    expect(readFileSync(path).equals(all)).toBe(true);
    expect(end.stdout).toHaveLength(0);
  });

  test('"--console null"', async () => {
    const end = await microvisor([...flat(guests.PRINT_ALL), '--console', 'null']);
    expectEnd(end, 3);
    expect(end.stdout).toHaveLength(0);
  });

  test('"when stdin is a pipe, no Ctrl-A handling, its bytes … go to the guest console"', async () => {
    const text = Buffer.concat([
      Buffer.from('\x01x\x01a'),
      all.filter((byte) => byte !== 0x71),
      Buffer.alloc(5000, 'z'),
    ]);
    const end = await microvisor(flat(guests.ECHO), { input: Buffer.concat([text, Buffer.from('q')]) });
    expectEnd(end, 11);
    expect(end.stdout.equals(text)).toBe(true);
  });

  test('"EOF of a pipe on the console: does not end the VM"', async () => {
    const end = await microvisor([...flat(guests.ECHO), '--timeout', '1'], { input: 'abc' });
    expectEnd(end, 124);
    expect(end.stdout.toString()).toBe('abc');
  });

  test('a reader that goes away ends it as it ends other tools: 141, and nothing is said', async () => {
    const { child, ended } = start(flat(guests.PRINT_FOREVER));
    child.stdout?.once('data', () => child.stdout?.destroy());
    const end = await ended;
    expectEnd(end, 141);
    expect(end.stderr).toBe('');
  });

  test('"back-pressure respected": a reader that stops loses nothing, and the VM still obeys', async () => {
    const { child, ended } = start(flat(guests.PRINT_FOREVER));
    let next = 0;
    let wrong = 0;
    child.stdout?.on('data', (chunk: Buffer) => {
      for (const byte of chunk) wrong += byte === (next++ & 0xff) ? 0 : 1;
    });
    await new Promise((resolve) => child.stdout?.once('data', resolve));
    child.stdout?.pause();
    await new Promise((resolve) => setTimeout(resolve, 500));
    child.stdout?.resume();
    await new Promise((resolve) => setTimeout(resolve, 500));
    child.stdout?.pause();
    await new Promise((resolve) => setTimeout(resolve, 200));
    child.kill('SIGTERM');
    child.stdout?.resume();
    expect((await ended).signal).toBe('SIGTERM');
    expect(wrong).toBe(0);
    expect(next).toBeGreaterThan(256);
  });
});

describe.skipIf(noKvm)('"--report"', () => {
  test('"time stamps of these steps, exits by reason and by port or address with count and time, assists by quirk, the outcome"', async () => {
    const path = join(folder, 'report.json');
    await microvisor([...flat(guests.PRINT_ALL), '--report', path]);
    expect(readJson(path)).toMatchObject({
      status: 3,
      outcome: { kind: 'debug-exit', value: 1 },
      timeStamps: { firstRun: { wallMs: expect.any(Number) as number, cpuMs: expect.any(Number) as number } },
      memoryMiB: 128,
      vcpus: [
        {
          reasons: [{ reason: 'KVM_EXIT_IO', count: expect.any(Number) as number }],
          ports: expect.arrayContaining([expect.objectContaining({ port: 0x3f8, count: 256 })]) as unknown[],
          assists: expect.any(Object) as object,
        },
      ],
    });
  });

  test('bad input writes none', async () => {
    const path = join(folder, 'none.json');
    expectEnd(await microvisor(['run', '--kernel', join(folder, 'missing'), '--report', path]), 2);
    expect(existsSync(path)).toBe(false);
  });
});

describe.skipIf(noKvm)(
  '"SIGTERM, SIGINT, SIGHUP: the VM is stopped … and the process gone … even when the guest spins"',
  () => {
    test.each(['SIGTERM', 'SIGINT', 'SIGHUP', 'SIGQUIT'] as const)(
      '%s: it dies of the same signal, and nothing is left',
      async (signal) => {
        const report = join(folder, `${signal}.json`);
        const { child, ended, seen } = start([
          ...flat(Uint8Array.of(0xb0, 0x21, 0xba, 0xf8, 0x03, 0xee, 0xeb, 0xfe)),
          '--report',
          report,
        ]);
        await seen('!');
        child.kill(signal);
        const end = await ended;
        expect(end).toMatchObject({ status: null, signal, stderr: '' });
        expect(readJson(report)).toMatchObject({ signal, outcome: { kind: 'stopped', by: 'abort' } });
        expect(groupMembers(child.pid ?? 0)).toEqual([]);
      },
    );

    test('a shell sees 128+n', () => {
      const words = flat(guests.SPIN).map((word) => `'${word}'`);
      const script = `"$0" "$1" ${words.join(' ')} & sleep 1; kill -TERM $!; wait $!; echo $?`;
      const { execPath } = process;
      expect(
        execFileSync('bash', ['-c', script, execPath, MAIN], { encoding: 'utf8', stdio: ['pipe', 'pipe', 'ignore'] }),
      ).toBe('143\n');
    });

    test('"a second signal exits at once"', async () => {
      const { child, ended, seen } = start(flat(guests.PRINT_FOREVER));
      await seen('!');
      child.kill('SIGINT');
      child.kill('SIGTERM');
      expect(['SIGINT', 'SIGTERM']).toContain((await ended).signal);
    });
  },
);
