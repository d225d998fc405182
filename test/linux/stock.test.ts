// Debian's own kernel, as downloaded: a bzImage entered at its 64-bit entry, found by ACPI, with our initramfs.
import { beforeAll, describe, expect, test } from 'vitest';
import type { VmConfig } from '../../src/index.js';
import { noKvm } from '../support/kvm.js';
import { BOOT_MS, emulatesKernelCode, guestConfig, PREPARE_MS, runInGuest } from '../support/linux.js';

// Its decompressor alone runs for a minute in an emulator. Not a missing KVM: the SVM host runs this test.
const tooSlow = emulatesKernelCode();
if (tooSlow)
  process.stderr.write("skipped, this host's KVM emulates kernel code: npm run test:svm boots the stock kernel\n");

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
  },
);
