// A suite for what runs in Linux, as the author of a program, a file system or a driver would have it: one boot, and a
// machine for each test. Run by `node --test`, or whatever runner you use.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { bootLinux, type Bench } from 'microvisor/testing';

const folder = mkdtempSync(join(tmpdir(), 'linux-guest-'));
const disk = join(folder, 'disk.img');
let bench: Bench;

before(async () => {
  execFileSync('truncate', ['--size=8M', disk]);
  execFileSync('mke2fs', ['-q', '-t', 'ext4', disk]);
  bench = await bootLinux({ disks: [{ path: disk }] });
});
after(async () => {
  await bench[Symbol.asyncDispose]();
  rmSync(folder, { recursive: true });
});

test('a command has its input, its output, its errors and its status', async () => {
  await using guest = await bench.fork();
  const result = await guest.run(['sh', '-c', 'tr a-z A-Z; echo oops >&2; exit 7'], { stdin: 'hello' });
  assert.deepEqual(result, { status: 7, stdout: 'HELLO', stderr: 'oops\n' });
});

test('each test has a machine of its own', async () => {
  const names = ['one', 'other'];
  const seen = await Promise.all(
    names.map(async (name) => {
      await using guest = await bench.fork();
      const { stdout } = await guest.run(['sh', '-c', `echo ${name} > /tmp/name; ls /tmp | wc -l; cat /tmp/name`]);
      return stdout;
    }),
  );
  assert.deepEqual(seen, ['1\none\n', '1\nother\n']);
});

test('what is written reaches the disk, by the queue and not by exits', async () => {
  const before = readFileSync(disk);
  await using guest = await bench.fork();
  const { status } = await guest.run(['sh', '-c', 'echo a line for the host > /mnt/vda/note && sync']);
  assert.equal(status, 0);
  await guest.ended();
  assert.ok((await guest.disk()).includes('a line for the host'));
  // The next test finds it as it was.
  assert.ok(readFileSync(disk).equals(before));
  assert.ok(guest.exits.mmio.every(({ count }) => count < 1000));
});
