// Debian's own kernel, as downloaded: a bzImage entered at its 64-bit entry, found by ACPI, with our initramfs.
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { VmConfig } from '../../src/index.js';
import { createDisk } from '../../src/cli/disk-create.js';
import { noKvm } from '../support/kvm.js';
import { BOOT_MS, emulatesKernelCode, guestConfig, PREPARE_MS, runInGuest } from '../support/linux.js';
import { addWayOut, enterOwnNetwork, ip, noNetns, WAY_OUT } from '../support/netns.js';

// Its decompressor alone runs for a minute in an emulator. Not a missing KVM: the SVM host runs this test.
const tooSlow = emulatesKernelCode();
if (tooSlow)
  process.stderr.write("skipped, this host's KVM emulates kernel code: npm run test:svm boots the stock kernel\n");

const folder = mkdtempSync(join(tmpdir(), 'microvisor-stock-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

let guest: Pick<VmConfig, 'kernel' | 'initrd' | 'cmdline'>;
beforeAll(async () => {
  if (!noKvm && !tooSlow) guest = await guestConfig('stock');
}, PREPARE_MS);

describe.skipIf(noKvm || tooSlow)(
  '"Debian\'s stock linux-image-cloud-amd64 kernel up to a shell from our initramfs"',
  () => {
    for (const cpus of [1, 2])
      test(
        `with ${cpus} vCPUs, and it switches itself off by ACPI S5`,
        async () => {
          const script = 'nproc; uname -r; ls /sys/firmware/acpi/tables; dmesg | grep -i "acpi.*error"; true';
          const { outcome, stdout } = await runInGuest({ ...guest, cpus, firmware: 'acpi', memoryMiB: 256 }, script);
          expect(outcome).toEqual({ kind: 'command', status: 0 });
          const [nproc, release, ...rest] = stdout.trim().split('\n');
          expect(nproc).toBe(String(cpus));
          expect(release).toMatch(/cloud-amd64$/);
          expect(rest).toEqual(expect.arrayContaining(['APIC', 'DSDT', 'FACP']));
          expect(rest.join('\n')).not.toMatch(/error/i);
        },
        BOOT_MS,
      );

    test.skipIf(noNetns !== undefined)(
      '"found through ACPI with its modules in our initramfs, mounts the disk and brings up the network"',
      async () => {
        enterOwnNetwork();
        addWayOut();
        // Pings of a process without privileges, which passt is: ping_group_range in icmp(7).
        writeFileSync('/proc/sys/net/ipv4/ping_group_range', '0 2147483647');
        ip(`addr add ${WAY_OUT.gateway}/32 dev lo`);
        const path = join(folder, 'disk.img');
        const signal = new AbortController().signal;
        await createDisk({ path, bytes: 16 * 2 ** 20, from: undefined, force: false, signal });
        const { outcome, stdout, vm } = await runInGuest(
          { ...guest, disks: [{ path }], nets: [{ backend: { kind: 'user' } }], console: 'virtio', entropy: true },
          `echo new > /mnt/vda/new; cut -d ' ' -f 1 /proc/modules | sort | xargs echo; ip -4 addr show eth0;
           ping -c 2 -W 10 ${WAY_OUT.gateway} || echo no answer; dd if=/dev/hwrng bs=8 count=1 2>/dev/null | wc -c; ls /dev/hvc0`,
        );
        expect(outcome).toEqual({ kind: 'command', status: 0 });
        expect(stdout).toMatch(/virtio_blk virtio_console virtio_mmio virtio_net virtio_ring virtio_rng/);
        expect(stdout).toContain(`inet ${WAY_OUT.guest}/24`);
        expect(stdout).toContain('2 packets transmitted, 2 packets received');
        expect(stdout).toMatch(/^8\n\/dev\/hvc0\n$/m);
        expect(vm.report().kernel.format).toBe('bzimage');
        execFileSync('e2fsck', ['-f', '-n', path], { env: { PATH: '/sbin:/usr/sbin' }, stdio: 'pipe' });
      },
      2 * BOOT_MS,
    );
  },
);
