// `microvisor run` with the default guest: a shell on the terminal, and commands over the raw channel.
import { createHash, randomBytes } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { prepareGuest } from '../../guests/linux/prepare.js';
import { groupMembers, microvisor, start } from '../support/cli.js';
import { noKvm } from '../support/kvm.js';
import { onTerminal } from '../support/pty.js';

/** For one boot, and for whatever else the machine is busy with. */
const BOOT_MS = 240_000;
/** For the preparation of the guest, should nobody have done it yet. */
const PREPARE_MS = 900_000;

const isSvm = process.env['MICROVISOR_HOST'] === 'svm';

/** Bytes from the guest, and bytes to the guest and back: a serial line takes its time. */
// An exit on the emulated SVM host costs as much as many bytes elsewhere: an eighth will do there.
const PRINTED = isSvm ? 1 << 17 : 1 << 20;
const ECHOED = 1 << 16;

/** Elsewhere than on the PVM host the default would be the stock guest, which stock.test.ts is about. */
const RUN = ['run', '--guest', 'small'] as const;

const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

let folder: string;
beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'microvisor-linux-cli-'));
  if (!noKvm) await prepareGuest({ flavour: 'small' });
}, PREPARE_MS);
afterAll(() => rmSync(folder, { recursive: true, force: true }));

describe.skipIf(noKvm)('"With -- COMMAND… the default guest runs COMMAND"', () => {
  test(
    '"stdin with its end, stdout, stderr and status pass through, byte-exact for 1 MiB of random binary while the kernel prints"',
    async () => {
      const report = join(folder, 'bytes.json');
      const input = randomBytes(ECHOED);
      // The kernel's alerts go to its console whatever the log level; the noise ends with the guest.
      const script = `
        (while :; do echo "<1>noise" > /dev/kmsg; sleep 1; done) &
        head -c ${PRINTED} /dev/urandom > /bytes; cat /bytes; sha256sum < /bytes >&2
        cat; exit 7`;
      const end = await microvisor([...RUN, '--report', report, '--', 'sh', '-c', script], { input });
      const printed = end.stdout.subarray(0, PRINTED);
      expect({ status: end.status, stderr: end.stderr }).toEqual({ status: 7, stderr: `${sha256(printed)}  -\n` });
      expect(sha256(end.stdout.subarray(PRINTED))).toBe(sha256(input));
      expect(JSON.parse(readFileSync(report, 'utf8'))).toMatchObject({
        status: 7,
        outcome: { kind: 'command', status: 7 },
      });
    },
    2 * BOOT_MS,
  );

  test(
    'arguments arrive as they were typed; --verbose: boot messages and our own words on stderr',
    async () => {
      const words = ['a b', '', '"q"', "it's", '$HOME', 'ä\n€', '-x', '--'];
      const end = await microvisor([...RUN, '--verbose', '--', 'sh', '-c', 'printf "<%s>" "$@"', 'sh', ...words]);
      expect(end.stdout.toString()).toBe(words.map((word) => `<${word}>`).join(''));
      expect(end.status).toBe(0);
      expect(end.stderr).toMatch(/^microvisor: /m);
      expect(end.stderr).toMatch(/Linux version/);
    },
    BOOT_MS,
  );

  test(
    '--warm: a "COMMAND in a default guest that goes on from a snapshot" draws other random numbers than the one before',
    async () => {
      // The kernel's log of its boot, with a microsecond in each line, is another one after another boot.
      const script = 'head -c 16 /dev/urandom | od -An -tx1; dmesg | head -n 30 | md5sum';
      const draw = async (start: string): Promise<{ numbers: string; boot: string }> => {
        const { status, stdout } = await microvisor([...RUN, start, '--', 'sh', '-c', script]);
        expect(status).toBe(0);
        const [numbers = '', boot = ''] = stdout.toString('latin1').split('\n');
        return { numbers, boot };
      };
      await draw('--warm');
      const [one, other, booted] = [await draw('--warm'), await draw('--warm'), await draw('--cold')];
      expect(one.boot).toMatch(/^[0-9a-f]{32} /);
      expect(other.boot).toBe(one.boot);
      expect(booted.boot).not.toBe(one.boot);
      expect(new Set([one, other, booted].map(({ numbers }) => numbers)).size).toBe(3);
    },
    3 * BOOT_MS,
  );

  test(
    '"status 2, nothing left running": a command longer than the guest takes is refused before a boot, kept snapshot or not',
    async () => {
      const word = 'a'.repeat(100_000);
      for (const start of ['--cold', '--append=microvisor.test=long']) {
        const end = await microvisor([...RUN, start, '--', 'echo', word, word]);
        expect({ status: end.status, stderr: end.stderr }).toEqual({
          status: 2,
          stderr: "microvisor: the command's arguments take 200007 bytes; the guest takes 131072\n",
        });
      }
    },
    BOOT_MS,
  );

  test(
    'a command that is not there: 127, and somebody says so',
    async () => {
      const end = await microvisor([...RUN, '--', 'no-such-program', 'x']);
      expect(end.status).toBe(127);
      expect(end.stdout).toHaveLength(0);
      expect(end.stderr).toMatch(/no-such-program/);
    },
    BOOT_MS,
  );

  test(
    '"SIGINT/SIGTERM while a command runs: VM stopped, 128+n"; a command that dies of a signal has 128+n by itself',
    async () => {
      const { child, ended, seen } = start([...RUN, '--', 'sh', '-c', 'echo here; while :; do :; done']);
      await seen('here');
      child.kill('SIGINT');
      expect(await ended).toMatchObject({ signal: 'SIGINT', stderr: '' });
      expect(groupMembers(child.pid ?? 0)).toEqual([]);
      const killed = await microvisor([...RUN, '--', 'sh', '-c', 'kill -9 $$']);
      expect(killed.status).toBe(137);
    },
    2 * BOOT_MS,
  );

  test(
    'a reader that has had enough: 141, as with other tools',
    async () => {
      const { child, ended } = start([...RUN, '--', 'yes']);
      child.stdout?.once('data', () => child.stdout?.destroy());
      expect(await ended).toMatchObject({ status: 141, stderr: '' });
    },
    BOOT_MS,
  );

  test(
    '"no status from COMMAND": 125, with a reason; so for "a kernel panic seen"',
    async () => {
      const gone = await microvisor([...RUN, '--', 'poweroff', '-f']);
      expect(gone.status).toBe(125);
      expect(gone.stderr).toMatch(/^microvisor: the guest ended before its command did/m);
      const panic = await microvisor([...RUN, '--append', 'rdinit=/none init=/none', '--', 'true']);
      expect(panic.status).toBe(125);
      expect(panic.stderr).toMatch(/^microvisor: .*panic/im);
      expect(panic.stderr).toMatch(/vCPU 0: long mode/);
    },
    2 * BOOT_MS,
  );
});

describe.skipIf(noKvm)('"leaves the user at a root shell on the terminal in raw mode"', () => {
  test(
    'a shell of the terminal’s size; "poweroff … in the guest ends it with status 0"',
    async () => {
      const report = join(folder, 'shell.json');
      const end = await onTerminal(
        [...RUN, '--report', report],
        [
          { wait: '~ # ' },
          { modes: true },
          { send: 'stty size; id -u\r' },
          { wait: '33 99\r\n0\r\n' },
          // Ctrl-C before there is a process to end would be the shell's.
          { send: "sh -c 'echo as''leep; sleep 100'\r" },
          { wait: 'asleep\r\n' },
          { send: '\x03' },
          { wait: '~ # ' },
          { send: 'poweroff\r' },
        ],
        { rows: 33, columns: 99, seconds: BOOT_MS / 1000 },
      );
      expect(end.status).toBe(0);
      expect(end.modes).toEqual([{ canonical: false, echo: false, signals: false, outputProcessing: false }]);
      expect(end.after).toEqual(end.before);
      expect(JSON.parse(readFileSync(report, 'utf8'))).toMatchObject({ status: 0, outcome: { kind: 'power-off' } });
    },
    BOOT_MS,
  );

  test(
    '"hvc0 login shell … resize seen by stty size": the size at the start, and each one after it, with SIGWINCH',
    async () => {
      const end = await onTerminal(
        [...RUN, '--console', 'virtio'],
        [
          { wait: '~ # ' },
          { modes: true },
          { send: 'tty; stty size\r' },
          { wait: '/dev/hvc0\r\n33 99\r\n' },
          { resize: { rows: 40, columns: 120 } },
          { send: 'until stty size | grep "40 120"; do sleep 1; done\r' },
          { wait: '\r\n40 120\r\n' },
          { send: "sh -c 'trap \"stty size; exit\" WINCH; echo re''ady; while :; do sleep 1; done'\r" },
          { wait: 'ready\r\n' },
          { resize: { rows: 21, columns: 77 } },
          { wait: '21 77\r\n' },
          // Ctrl-C before there is a process to end would be the shell's.
          { send: "sh -c 'echo as''leep; sleep 100'\r" },
          { wait: 'asleep\r\n' },
          { send: '\x03' },
          { wait: '~ # ' },
          { send: 'poweroff\r' },
        ],
        { rows: 33, columns: 99, seconds: (2 * BOOT_MS) / 1000 },
      );
      expect(end.status).toBe(0);
      expect(end.modes).toEqual([{ canonical: false, echo: false, signals: false, outputProcessing: false }]);
      expect(end.after).toEqual(end.before);
    },
    2 * BOOT_MS,
  );

  test(
    '"uses a snapshot of the default guest … makes it after the first boot, and says so": a shell of one draws its own random numbers, knows its terminal and the time',
    async () => {
      const shell = async (rows: number): Promise<{ said: string; drawn: string | undefined; behind: number }> => {
        const { output, status } = await onTerminal(
          // Where a boot is quick, nobody gets a snapshot without asking.
          [...RUN, ...(isSvm ? ['--warm'] : []), '--append', 'microvisor.test=shell'],
          [
            { wait: '~ # ' },
            { send: "stty size; echo drew $(head -c 8 /dev/urandom | od -An -tx1); echo time $(date +%s) e''nd\r" },
            { wait: ' end\r\n' },
            // A restored guest cannot power off there: that is a write of user space's to a port, which QEMU 7.2 allows only
            // while TR's type is 9 (check_io in target/i386), and KVM says 11 (busy) of it when it is saved.
            { send: isSvm ? '\x01x' : 'poweroff\r' },
          ],
          { rows, columns: 99, seconds: BOOT_MS / 1000 },
        );
        expect(status).toBe(0);
        expect(output).toContain(`${rows} 99\r\n`);
        const then = Number(/^time (\d+) end/m.exec(output)?.[1]);
        return { said: output, drawn: /^drew (.*)\r$/m.exec(output)?.[1], behind: Date.now() / 1000 - then };
      };
      const shells = [await shell(31), await shell(32), await shell(33)];
      const [first, ...others] = shells.map(({ said }) => said);
      // The cache may be an earlier run's.
      expect(first).toMatch(/a snapshot was kept: from now on|goes on from a snapshot of its boot; --cold boots it/);
      for (const said of others) expect(said).toContain('goes on from a snapshot of its boot; --cold boots it');
      expect(new Set(shells.map(({ drawn }) => drawn)).size).toBe(3);
      // The shell's end takes its time, too.
      for (const { behind } of shells) expect(behind).toBeLessThan(30);
    },
    2 * BOOT_MS,
  );

  test(
    '"or reboot", read from a pipe',
    async () => {
      const report = join(folder, 'reboot.json');
      const { ended, child, seen } = start([...RUN, '--report', report]);
      await seen('~ # ');
      child.stdin?.end('reboot\n');
      expect((await ended).status).toBe(0);
      expect(JSON.parse(readFileSync(report, 'utf8'))).toMatchObject({ outcome: { kind: 'reset' } });
    },
    BOOT_MS,
  );
});
