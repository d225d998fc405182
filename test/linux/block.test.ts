// virtio-blk under a real Linux guest: ext4 made by the host's mke2fs, checked by its e2fsck after the guest's shutdown.
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { VmConfig } from '../../src/index.js';
import { noKvm } from '../support/kvm.js';
import { BOOT_MS, guestConfig, PREPARE_MS, runInGuest } from '../support/linux.js';
import { isSoak } from '../support/soak.js';

const folder = mkdtempSync(join(tmpdir(), 'microvisor-disk-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

let guest: Pick<VmConfig, 'kernel' | 'initrd' | 'cmdline'>;
beforeAll(async () => {
  if (!noKvm) guest = await guestConfig('small');
}, PREPARE_MS);

const MIB = 2 ** 20;
const BIG_FILE_MIB = isSoak ? 256 : 24;

function tool(name: string): string {
  return [`/sbin/${name}`, `/usr/sbin/${name}`].find((path) => existsSync(path)) ?? name;
}

/** An empty file system, 64 MiB unless told. */
function ext4(name: string, mib = 64): string {
  const path = join(folder, name);
  writeFileSync(path, '');
  truncateSync(path, mib * MIB);
  execFileSync(tool('mke2fs'), ['-q', '-F', '-t', 'ext4', path]);
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

const checksums = (text: string): readonly string[] => text.match(/\b[0-9a-f]{64}\b/g) ?? [];

describe.skipIf(noKvm)('"ext4 on /dev/vda"', () => {
  test.each([1, 2])(
    '"write files, sync, checksum in the guest equals the checksum on the host after shutdown; e2fsck -f clean": %i vCPUs',
    async (cpus) => {
      const image = ext4(`plain${cpus}.img`);
      const { outcome, stdout, vm } = await runInGuest(
        { ...guest, cpus, disks: [{ path: image, id: 'serial-7' }] },
        'head -c 3000000 /dev/urandom >/mnt/vda/a; mkdir /mnt/vda/d; echo text >/mnt/vda/d/b; sync; ' +
          'sha256sum /mnt/vda/a; cat /sys/block/vda/serial',
      );
      expect(outcome).toEqual({ kind: 'command', status: 0 });
      checkFileSystem(image);
      expect(sha256(dumpFile(image, 'a'))).toBe(checksums(stdout)[0]);
      expect(Buffer.from(dumpFile(image, 'd/b')).toString()).toBe('text\n');
      expect(stdout).toContain('serial-7');
      const report = vm.report();
      expect(report.virtio).toMatchObject([{ name: 'disk0', dropped: 0, needsReset: 0, counters: { errors: 0 } }]);
      expect(report.virtio[0]?.counters['flushes']).toBeGreaterThan(0);
      // "The report shows no exit to user space for a queue kick."
      const kicks = report.vcpus.flatMap(({ mmio }) => mmio.filter(({ address }) => (address & 0xfff) === 0x50));
      expect(kicks).toEqual([]);
    },
    BOOT_MS,
  );

  test(
    '"read-only refuses writes": the file system, and the device itself',
    async () => {
      const image = ext4('ro.img');
      const before = sha256OfFile(image);
      const { outcome, stdout } = await runInGuest(
        { ...guest, disks: [{ path: image, readOnly: true }] },
        'touch /mnt/vda/a || echo refused; cat /sys/block/vda/ro; ' +
          'dd if=/dev/zero of=/dev/vda bs=4096 count=1 conv=fsync 2>&1 || echo no write',
      );
      expect(outcome).toEqual({ kind: 'command', status: 0 });
      expect(stdout).toContain('refused\n1\n');
      expect(stdout).toContain('no write');
      expect(sha256OfFile(image)).toBe(before);
    },
    BOOT_MS,
  );

  test(
    '"an overlay leaves its base byte-identical", and keeps what was written from one machine to the next; "two disks"',
    async () => {
      const base = ext4('base.img');
      const other = ext4('other.img', 16);
      const before = sha256OfFile(base);
      const config = { ...guest, disks: [{ path: base, overlay: join(folder, 'overlay') }, { path: other }] };
      const first = await runInGuest(
        config,
        'head -c 2000000 /dev/urandom >/mnt/vda/a; cp /mnt/vda/a /mnt/vdb/a; sync; sha256sum /mnt/vda/a; ls /sys/block',
      );
      expect(first.outcome).toEqual({ kind: 'command', status: 0 });
      expect(first.stdout).toMatch(/vda[^]*vdb/);
      expect(sha256OfFile(base)).toBe(before);
      const [sum] = checksums(first.stdout);
      expect(sha256(dumpFile(other, 'a'))).toBe(sum);
      checkFileSystem(other);
      const second = await runInGuest(config, 'sha256sum /mnt/vda/a');
      expect(checksums(second.stdout)[0]).toBe(sum);
      expect(sha256OfFile(base)).toBe(before);
    },
    2 * BOOT_MS,
  );

  test(
    `"a 256 MiB file read back intact" (${BIG_FILE_MIB} MiB; whole in npm run soak)`,
    async () => {
      const image = ext4('big.img', BIG_FILE_MIB + 64);
      const { outcome, stdout } = await runInGuest(
        { ...guest, memoryMiB: 128, disks: [{ path: image }] },
        `i=0; while [ $i -lt ${BIG_FILE_MIB / 8} ]; do head -c 8388608 /dev/urandom; i=$((i+1)); done ` +
          '| tee /mnt/vda/big | sha256sum; sync; echo 3 >/proc/sys/vm/drop_caches; sha256sum /mnt/vda/big',
      );
      expect(outcome).toEqual({ kind: 'command', status: 0 });
      const [written, read] = checksums(stdout);
      expect(read).toBe(written);
      checkFileSystem(image);
      expect(sha256(dumpFile(image, 'big'))).toBe(written);
    },
    4 * BOOT_MS,
  );
});
