// The default guest and its disks, as a person uses them: `disk create`, `run --disk`, /mnt/vdX, and a clean end.
import { execFileSync } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import {
  closeSync,
  ftruncateSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest';
import type { VmConfig } from '../../src/index.js';
import { microvisor, start } from '../support/cli.js';
import { GuestSession } from '../support/guest-session.js';
import { noKvm } from '../support/kvm.js';
import { BOOT_MS, guestConfig, PREPARE_MS, runInGuest } from '../support/linux.js';

const RUN = ['run', '--guest', 'small'] as const;
const MIB = 2 ** 20;
/** Where the tools lie, whatever PATH says. */
const env = { PATH: `${process.env['PATH'] ?? ''}:/sbin:/usr/sbin` };

let folder: string;
let guest: Pick<VmConfig, 'kernel' | 'initrd' | 'cmdline'>;
beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'microvisor-disk-guest-'));
  if (!noKvm) guest = await guestConfig('small');
}, PREPARE_MS);
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const at = (name: string): string => join(folder, name);
const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');
const tool = (program: string, ...words: string[]): Buffer => execFileSync(program, words, { env, stdio: 'pipe' });
/** "e2fsck -f clean": status 0 means that nothing had to be repaired. */
const expectClean = (image: string): unknown => tool('e2fsck', '-f', '-n', image);

/** A file of zeros. */
function blank(name: string, bytes: number): string {
  const fd = openSync(at(name), 'w');
  ftruncateSync(fd, bytes);
  closeSync(fd);
  return at(name);
}

async function diskCreate(...words: string[]): Promise<void> {
  expect(await microvisor(['disk', 'create', ...words])).toMatchObject({ status: 0, stderr: '' });
}

describe.skipIf(noKvm)('"The default guest mounts disks"', () => {
  test(
    '"disk create FILE --size 64M [--from DIR]", mounted at /mnt/vda; read-only when the disk is; an empty one is left alone',
    async () => {
      const bytes = randomBytes(200_001);
      mkdirSync(at('from'));
      writeFileSync(at('from/file'), bytes);
      await diskCreate(at('a.img'), '--size', '64M', '--from', at('from'));
      const empty = blank('empty.img', MIB);
      const old = blank('old,img', 4 * MIB);
      tool('mke2fs', '-q', '-F', '-t', 'ext2', old);
      const before = sha256(readFileSync(old));
      const script = `sha256sum < /mnt/vda/file; echo new > /mnt/vda/new; echo /mnt/*; grep ' /mnt/' /proc/mounts;
        touch /mnt/vdc/x || echo refused`;
      const disks = ['--disk', at('a.img'), '--disk', `path=${empty}`, '--disk', `${old.replace(',', ',,')},ro`];
      const end = await microvisor([...RUN, ...disks, '--', 'sh', '-c', script]);
      expect(end.status).toBe(0);
      const [sum, ...lines] = end.stdout.toString().trim().split('\n');
      expect(sum).toBe(`${sha256(bytes)}  -`);
      expect(lines).toEqual([
        '/mnt/vda /mnt/vdc',
        expect.stringMatching(/^\/dev\/vda \/mnt\/vda ext4 rw,/),
        expect.stringMatching(/^\/dev\/vdc \/mnt\/vdc ext4 ro,/),
        'refused',
      ]);
      expectClean(at('a.img'));
      expect(tool('debugfs', '-R', 'cat /new', at('a.img')).toString()).toBe('new\n');
      expect(readFileSync(empty).equals(Buffer.alloc(MIB))).toBe(true);
      expect(sha256(readFileSync(old))).toBe(before);
    },
    BOOT_MS,
  );

  test(
    '"e2fsck -f clean" after poweroff, though a program writes and the shell stands in the file system',
    async () => {
      await diskCreate(at('busy.img'), '--size', '32M');
      const { child, ended, seen } = start([...RUN, '--disk', at('busy.img')]);
      onTestFinished(() => void child.kill('SIGKILL'));
      await seen('~ # ');
      child.stdin?.write("cd /mnt/vda; (while :; do echo line; done > log) & sleep 1; echo re''ady\n");
      await seen('ready');
      child.stdin?.end('poweroff\n');
      expect((await ended).status).toBe(0);
      expectClean(at('busy.img'));
      expect(tool('debugfs', '-R', 'cat /log', at('busy.img')).toString()).toMatch(/^line\nline\n/);
    },
    2 * BOOT_MS,
  );

  test(
    'a journal that was not replayed: a read-only disk is mounted as it is, and init says so; with microvisor.nomount ' +
      'nothing is touched, and whoever mounts it to write replays it',
    async () => {
      await diskCreate(at('torn.img'), '--size', '32M');
      const disk = { path: at('torn.img') };
      const session = await GuestSession.start(
        { ...guest, disks: [disk] },
        'echo kept > /mnt/vda/kept; sync; echo synced; read line',
      );
      onTestFinished(() => void session.vm.stop());
      await session.expect(/synced\n/);
      await session.vm.stop();
      const before = sha256(readFileSync(disk.path));

      const reader = await runInGuest({ ...guest, disks: [{ ...disk, readOnly: true }] }, 'ls -a /mnt/vda');
      expect(reader.outcome).toEqual({ kind: 'command', status: 0 });
      expect(reader.stdout).toContain('lost+found');
      expect(reader.console).toMatch(/init: \/dev\/vda: read-only, so its journal was not replayed/);
      expect(sha256(readFileSync(disk.path))).toBe(before);

      const writer = await GuestSession.start(
        { ...guest, cmdline: `${guest.cmdline ?? ''} microvisor.nomount`, disks: [disk] },
        `ls /mnt; echo mounted $(grep -c /mnt/ /proc/mounts); read line;
         mkdir /mnt/own; mount -t ext4 /dev/vda /mnt/own; cat /mnt/own/kept; umount /mnt/own`,
      );
      onTestFinished(() => void writer.vm.stop());
      await writer.expect(/mounted 0\n/);
      expect(sha256(readFileSync(disk.path))).toBe(before);
      writer.say('go on');
      await writer.end();
      expect(writer.output).toBe('mounted 0\nkept\n');
      expectClean(disk.path);
    },
    3 * BOOT_MS,
  );
});
