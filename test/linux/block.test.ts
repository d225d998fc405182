// virtio-blk under a real Linux guest: ext4 made by the host's mke2fs, checked by its e2fsck after the guest's shutdown.
// The whole set in one machine, for a boot takes most of the time; once with 1 vCPU and once with 2.
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { VmConfig } from '../../src/index.js';
import { countedLines } from '../support/counted-lines.js';
import { noKvm } from '../support/kvm.js';
import { BOOT_MS, emulatesKernelCode, guestConfig, PREPARE_MS, runInGuest, type CommandRun } from '../support/linux.js';
import { programPath } from '../support/programs.js';
import { amount } from '../support/soak.js';

const folder = mkdtempSync(join(tmpdir(), 'microvisor-disk-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

let guest: Pick<VmConfig, 'kernel' | 'initrd' | 'cmdline'>;
beforeAll(async () => {
  if (!noKvm) guest = await guestConfig('small');
}, PREPARE_MS);

const MIB = 2 ** 20;
/** Where kernel code is emulated a guest writes some 100 KB a second. */
const isSlow = emulatesKernelCode();
const SMALL = countedLines(amount(isSlow ? 200_000 : 3_000_000, 3_000_000));
const BIG = countedLines(amount((isSlow ? 1 : 8) * MIB, 256 * MIB), 1_000_000);

const tool = (name: 'mke2fs' | 'e2fsck' | 'debugfs'): string => programPath(name) ?? name;

/** An empty file system. */
function ext4(name: string, mib: number): string {
  const path = join(folder, name);
  writeFileSync(path, '');
  truncateSync(path, mib * MIB);
  // Small blocks, and inode tables that are zeroed in the background, keep a guest busy whose kernel code is emulated.
  execFileSync(tool('mke2fs'), ['-q', '-F', '-t', 'ext4', '-b', '4096', '-E', 'lazy_itable_init=0', path]);
  return path;
}

const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');
const sha256OfFile = (path: string): string => sha256(readFileSync(path));

/** "e2fsck -f clean": status 0 means that nothing had to be repaired. */
function checkFileSystem(path: string): void {
  execFileSync(tool('e2fsck'), ['-f', '-n', path], { stdio: 'pipe' });
}

/** A file of the image, read without the guest. */
function dumpFile(image: string, name: string): Uint8Array {
  const out = join(folder, 'dump');
  rmSync(out, { force: true });
  execFileSync(tool('debugfs'), ['-R', `dump /${name} ${out}`, image], { stdio: 'pipe' });
  return readFileSync(out);
}

const CHECK = 'said() { set -- $1 $(sha256sum <$2); echo "$1 $2"; }';

/** On vda a file system to write, vdb one to read, vdc one under an overlay, vdd the big file. */
const SCRIPT = `${CHECK}
  ${SMALL.command} >/mnt/vda/a; mkdir /mnt/vda/d; echo text >/mnt/vda/d/b
  ${BIG.command} >/mnt/vdd/big || echo no room
  if [ -e /mnt/vdc/a ]; then said kept /mnt/vdc/a; else ${SMALL.command} >/mnt/vdc/a; fi
  sync; echo 3 >/proc/sys/vm/drop_caches
  said small /mnt/vda/a; said big /mnt/vdd/big; said overlaid /mnt/vdc/a
  echo serial $(cat /sys/block/vda/serial)
  touch /mnt/vdb/a || echo refused $(cat /sys/block/vdb/ro)
  dd if=/dev/zero of=/dev/vdb bs=4096 count=1 conv=fsync 2>&1 || echo no write`;

describe.skipIf(noKvm).each([1, 2])('ext4 on virtio disks, %i vCPUs', (cpus) => {
  const at = (name: string): string => join(folder, `${name}${cpus}.img`);
  const base = join(folder, 'base.img');
  /** From the machine with 1 vCPU to the one with 2. */
  const overlay = join(folder, 'overlay');
  const before: Record<string, string> = {};
  let run: CommandRun;

  beforeAll(async () => {
    const disks = [
      { path: ext4(`plain${cpus}.img`, 16), id: 'serial-7' },
      { path: ext4(`ro${cpus}.img`, 16), readOnly: true },
      { path: cpus === 1 ? ext4('base.img', 16) : base, overlay },
      // Inodes and a journal take a tenth of it.
      { path: ext4(`big${cpus}.img`, Math.ceil((1.2 * BIG.bytes.length) / MIB) + 16) },
    ];
    for (const path of [at('ro'), base]) before[path] = sha256OfFile(path);
    run = await runInGuest({ ...guest, cpus, disks }, SCRIPT);
  }, 4 * BOOT_MS);

  test('"write files, sync, checksum in the guest equals the checksum on the host after shutdown; e2fsck -f clean"', () => {
    expect(run.outcome).toEqual({ kind: 'command', status: 0 });
    checkFileSystem(at('plain'));
    expect(run.stdout).toContain(`small ${sha256(SMALL.bytes)}\n`);
    expect(sha256(dumpFile(at('plain'), 'a'))).toBe(sha256(SMALL.bytes));
    expect(Buffer.from(dumpFile(at('plain'), 'd/b')).toString()).toBe('text\n');
    expect(run.stdout).toContain('serial serial-7\n');
  });

  test('"The report shows no exit to user space for a queue kick"; nothing was dropped, and flushes came', () => {
    const report = run.vm.report();
    for (const row of report.virtio) expect(row).toMatchObject({ dropped: 0, needsReset: 0 });
    expect(report.virtio[0]).toMatchObject({ name: 'disk0', counters: { errors: 0 } });
    expect(report.virtio[0]?.counters['flushes']).toBeGreaterThan(0);
    const kicks = report.vcpus.flatMap(({ mmio }) => mmio.filter(({ address }) => (address & 0xfff) === 0x50));
    expect(kicks).toEqual([]);
  });

  test('"read-only refuses writes": the file system, and the device itself', () => {
    expect(run.stdout).toContain('refused 1\n');
    expect(run.stdout).toContain('no write\n');
    expect(sha256OfFile(at('ro'))).toBe(before[at('ro')]);
  });

  test('"an overlay leaves its base byte-identical", and keeps what was written from one machine to the next', () => {
    expect(run.stdout).toContain(`overlaid ${sha256(SMALL.bytes)}\n`);
    if (cpus === 2) expect(run.stdout).toContain(`kept ${sha256(SMALL.bytes)}\n`);
    expect(sha256OfFile(base)).toBe(before[base]);
  });

  test(`"a 256 MiB file read back intact" (${(BIG.bytes.length / MIB).toFixed(0)} MiB; whole in npm run soak)`, () => {
    expect(run.stdout).toContain(`big ${sha256(BIG.bytes)}\n`);
    checkFileSystem(at('big'));
    expect(sha256(dumpFile(at('big'), 'big'))).toBe(sha256(BIG.bytes));
  });
});
