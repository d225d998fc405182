// Real boots of the default guest: processors, interrupts, memory, both entries of the kernel, both kinds of tables.
import { beforeAll, describe, expect, test } from 'vitest';
import { createVm, type VmConfig } from '../../src/index.js';
import { noKvm } from '../support/kvm.js';
import { BOOT_MS, guestConfig, PREPARE_MS, runInGuest } from '../support/linux.js';

let guest: Pick<VmConfig, 'kernel' | 'initrd' | 'cmdline'>;
beforeAll(async () => {
  if (!noKvm) guest = await guestConfig('small');
}, PREPARE_MS);

/** Sections of a script's output, each behind a line `== NAME`. */
function sections(output: string): Record<string, string> {
  const parts = output.split(/^== (\w+)\n/m).slice(1);
  return Object.fromEntries(parts.flatMap((name, i) => (i % 2 === 0 ? [[name, parts[i + 1] ?? '']] : [])));
}

/** A busy loop bound to each processor, all at once, that ends with its processor's number. */
const BUSY =
  'for c in $(seq 0 $(($(nproc)-1))); do taskset $((1<<c)) sh -c "i=0; while [ \\$i -lt 2000 ]; do i=\\$((i+1)); done; echo busy $c" & done; wait';

describe.skipIf(noKvm)('"Linux boots with 1, 2 and 4 vCPUs"', () => {
  for (const cpus of [1, 2, 4])
    test(
      `${cpus}: "nproc, /proc/interrupts, a busy loop on each"`,
      async () => {
        const script = `echo == nproc; nproc; echo == interrupts; cat /proc/interrupts; echo == busy; ${BUSY}`;
        const { outcome, stdout, vm } = await runInGuest({ ...guest, cpus }, script);
        expect(outcome).toEqual({ kind: 'command', status: 0 });
        const { nproc, interrupts, busy } = sections(stdout);
        expect(nproc?.trim()).toBe(String(cpus));
        expect(interrupts?.split('\n')[0]?.match(/CPU\d/g)).toHaveLength(cpus);
        // Local timer interrupts reached every processor.
        const timers =
          /^LOC:\s+(.*?)\s+Local/m
            .exec(interrupts ?? '')?.[1]
            ?.split(/\s+/)
            .map(Number) ?? [];
        expect(timers).toHaveLength(cpus);
        for (const count of timers) expect(count).toBeGreaterThan(0);
        expect(busy?.trim().split('\n').toSorted()).toEqual(Array.from({ length: cpus }, (_, cpu) => `busy ${cpu}`));
        for (const vcpu of vm.report().vcpus) expect(vcpu.entries).toBeGreaterThan(0);
      },
      BOOT_MS * cpus,
    );
});

describe.skipIf(noKvm)('what the guest is given', () => {
  test(
    "RAM on both sides of the 32-bit hole, the seed for its random numbers, the host's time, no kernel complaint",
    async () => {
      const script =
        'echo == memory; grep MemTotal /proc/meminfo; echo == date; date +%s; echo == random; dmesg | grep -c "crng init done"';
      const { outcome, stdout, vm } = await runInGuest({ ...guest, memoryMiB: 3584 }, script);
      expect(outcome).toEqual({ kind: 'command', status: 0 });
      const { memory, date, random } = sections(stdout);
      expect(Number(/\d+/.exec(memory ?? '')?.[0]) / 1024).toBeGreaterThan(3400);
      expect(Math.abs(Number(date) - Date.now() / 1000)).toBeLessThan(300);
      expect(Number(random)).toBe(1);
      expect(vm.report().consoleLost).toEqual({ port: 0, reader: 0 });
    },
    BOOT_MS,
  );

  test(
    'the PVH entry boots as well, with ACPI tables beside a kernel that has none',
    async () => {
      const { outcome, stdout, vm } = await runInGuest({ ...guest, entry: 'pvh', firmware: 'both' }, 'uname -m');
      expect(outcome).toEqual({ kind: 'command', status: 0 });
      expect(stdout).toBe('x86_64\n');
      expect(vm.report().kernel.format).toBe('elf-pvh');
    },
    BOOT_MS,
  );

  test(
    'quirk options are on the default guest\'s command line "only where the quirk is present"',
    async () => {
      const { stdout, vm } = await runInGuest(guest, 'cat /proc/cmdline');
      const { quirks } = vm.report();
      expect(stdout.includes('clearcpuid=')).toBe(quirks.includes('kernel-emulated'));
      if (quirks.length === 0) expect(stdout).not.toMatch(/clearcpuid|noreplace-smp|rodata=off|percpu_alloc/);
    },
    BOOT_MS,
  );
});

describe.skipIf(noKvm)('a running Linux', () => {
  test(
    'is stopped while it boots, and paused and resumed without a complaint',
    async () => {
      const early = await createVm({ ...guest, appendQuirkOptions: true });
      await early.start();
      await new Promise((resolve) => setTimeout(resolve, 300));
      expect(await early.stop()).toEqual({ kind: 'stopped', by: 'host' });

      const vm = await createVm({
        ...guest,
        appendQuirkOptions: true,
        exec: { argv: ['sh', '-c', 'read x; echo got $x; dmesg | grep -ci "lockup\\|detected.*stall"; true'] },
      });
      const { exec } = vm;
      if (exec === undefined) throw new Error('no exec channel');
      let output = '';
      exec.stdout.on('data', (bytes: Buffer) => (output += bytes.toString()));
      exec.stderr.resume();
      vm.console.output.resume();
      await vm.start();
      await new Promise((resolve) => setTimeout(resolve, 2000));
      await vm.pause();
      expect(vm.state).toBe('paused');
      const entries = vm.vcpus.map((vcpu) => vcpu.entries);
      await new Promise((resolve) => setTimeout(resolve, 500));
      expect(vm.vcpus.map((vcpu) => vcpu.entries)).toEqual(entries);
      await vm.resume();
      exec.stdin.end('hello\n');
      expect(await vm.outcome).toEqual({ kind: 'command', status: 0 });
      expect(output).toBe('got hello\n0\n');
    },
    2 * BOOT_MS,
  );

  test(
    'that panics is a failure "with the reason and the registers", though it resets the machine',
    async () => {
      const { outcome } = await runInGuest(
        { ...guest, cmdline: `${guest.cmdline} rdinit=/no/such/init root=/dev/none` },
        'true',
      );
      expect(outcome).toMatchObject({ kind: 'failed', failure: 'kernel-panic' });
      expect(outcome.kind === 'failed' && outcome.message).toMatch(/^Kernel panic - not syncing/);
      expect(outcome.kind === 'failed' && outcome.vcpus[0]).toMatchObject({ mode: 'long' });
    },
    BOOT_MS,
  );
});
