// Devices of the user's own in guests of a few bytes on the real KVM: both forms, one and two vCPUs, and what ends them.
// Issue: "`defineDevice` … and the closure form that is served on the owner thread; one example of each … tested in a guest".
import { readdirSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, test, vi } from 'vitest';
import { clock } from '../../examples/clock-device.js';
import type { device as ticket } from '../../examples/ticket-device.js';
import { createVm, type UserDeviceConfig, type Vm, type VmConfig } from '../../src/index.js';
import { noKvm } from '../support/kvm.js';

const isEmulated = process.env['MICROVISOR_HOST'] === 'svm';

const example = (name: string): URL => new URL(`../../examples/${name}.js`, import.meta.url);
const support = (name: string): URL => new URL(`../support/devices/${name}.js`, import.meta.url);
const guest = (...lines: readonly (readonly number[])[]): Uint8Array => Uint8Array.from(lines.flat());

/** In real mode: reads 32 bits from port 0x510, writes them back, counts at 0x600, and again. */
const HAMMER = guest(
  [0xba, 0x10, 0x05], // mov $0x510,%dx
  [0x66, 0xed, 0x66, 0xef], // in %dx,%eax; out %eax,%dx
  [0xff, 0x06, 0x00, 0x06], // incw 0x600
  [0xeb, 0xf6], // jmp to in
);

const TICKETS = 200;
/** Where a ticket that was drawn is counted, a byte each; flags of who has finished behind them. */
const DRAWN = 0x5_0000;
const FINISHED = DRAWN + 0xf00;

const BOOT_PROCESSOR_DRAWS = [
  [0x66, 0xba, 0x00, 0x05], // mov $0x500,%dx
  [0xed, 0x3d, TICKETS, 0, 0, 0], // in %dx,%eax; cmp $TICKETS,%eax
  [0x73, 0x08], // jae to movb
  [0xfe, 0x80, 0x00, 0x00, 0x05, 0x00], // incb DRAWN(%eax)
  [0xeb, 0xf0], // jmp to in
  [0xc6, 0x05, 0x00, 0x0f, 0x05, 0x00, 0x01], // movb $1,FINISHED
  [0xeb, 0xfe],
];

/** For protected mode at 0x40000: each of `cpus` processors draws tickets from port 0x500 until there are enough. */
function drawing(cpus: 1 | 2): Uint8Array {
  if (cpus === 1) return guest(...BOOT_PROCESSOR_DRAWS);
  const boot = guest(
    [0xc7, 0x05, 0xf0, 0x00, 0xe0, 0xfe, 0xff, 0x01, 0x00, 0x00], // movl $0x1ff,0xfee000f0: APIC on
    [0xc7, 0x05, 0x00, 0x03, 0xe0, 0xfe, 0x00, 0x45, 0x0c, 0x00], // movl $0xc4500,0xfee00300: INIT to all others
    [0xc7, 0x05, 0x00, 0x03, 0xe0, 0xfe, 0x41, 0x46, 0x0c, 0x00], // movl $0xc4641,0xfee00300: start at 0x41000
    ...BOOT_PROCESSOR_DRAWS,
  );
  const other = guest(
    [0xb8, 0x00, 0x50, 0x8e, 0xd8], // mov $0x5000,%ax; mov %ax,%ds
    [0xba, 0x00, 0x05], // mov $0x500,%dx
    [0x66, 0xed, 0x66, 0x3d, TICKETS, 0, 0, 0], // in %dx,%eax; cmp $TICKETS,%eax
    [0x73, 0x06], // jae to movb
    [0x89, 0xc3, 0xfe, 0x07], // mov %ax,%bx; incb (%bx)
    [0xeb, 0xf0], // jmp to in
    [0xc6, 0x06, 0x01, 0x0f, 0x01], // movb $1,FINISHED + 1
    [0xfa, 0xf4, 0xeb, 0xfd], // cli; hlt; jmp to hlt
  );
  const image = new Uint8Array(0x1000 + other.length);
  image.set(boot);
  image.set(other, 0x1000);
  return image;
}

function real(bytes: Uint8Array, devices: readonly UserDeviceConfig[], more: Partial<VmConfig> = {}): Promise<Vm> {
  const kernel = { name: 'micro-guest', bytes };
  return createVm({ kernel, entry: 'real', cmdline: '', memoryMiB: 2, devices, ...more });
}

async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await sleep(1);
}

describe.skipIf(noKvm)("a user's device in a guest", () => {
  describe.each([1, 2] as const)('%i vCPUs', (cpus) => {
    const more: Partial<VmConfig> = { entry: 'protected', load: 0x4_0000, cpus };

    async function eachTicketOnce(vm: Vm): Promise<void> {
      await vm.start();
      await until(() => Array.from({ length: cpus }, (_, cpu) => vm.memory.readU8(FINISHED + cpu)).every(Boolean));
      expect([...vm.memory.window(DRAWN, TICKETS)]).toEqual(Array.from({ length: TICKETS }, () => 1));
    }

    test('the example of a device of registers: no ticket is drawn twice, and its field is watched live', async () => {
      await using vm = await real(drawing(cpus), [{ module: example('ticket-device') }], more);
      const { NEXT } = vm.device<typeof ticket.fields>('ticket').fields;
      expect(NEXT.get()).toBe(0);
      await eachTicketOnce(vm);
      expect(NEXT.get()).toBe(TICKETS + cpus);
    });

    test('the same device of closures', async () => {
      let next = 0;
      const closures = {
        name: 'ticket',
        ports: { base: 0x500, length: 4 },
        read: () => next++,
        write: () => undefined,
      };
      await using vm = await real(drawing(cpus), [closures], more);
      await eachTicketOnce(vm);
      expect(next).toBe(TICKETS + cpus);
      const [boot] = vm.report().vcpus;
      expect(boot?.ports).toContainEqual(expect.objectContaining({ port: 0x500, device: 'ticket' }));
    });
  });

  test('the owner changes a field while the guest runs', async () => {
    const waiting = guest(
      [0xba, 0x00, 0x05], // mov $0x500,%dx
      [0x66, 0xed, 0x66, 0x3d, 0x00, 0x00, 0x00, 0x10], // in %dx,%eax; cmp $0x10000000,%eax
      [0x72, 0xf6, 0xb0, 0x07, 0xe6, 0xf4], // jb to in; mov $7,%al; out %al,$0xf4
    );
    const vm = await real(waiting, [{ module: example('ticket-device') }]);
    const { NEXT } = vm.device<typeof ticket.fields>('ticket').fields;
    await vm.start();
    await until(() => NEXT.get() > 3);
    NEXT.set(0x1000_0000);
    expect(await vm.outcome).toEqual({ kind: 'debug-exit', value: 7 });
  });

  test('the example of a device of closures: the guest reads the clock, and what it writes is printed', async () => {
    using print = vi.spyOn(console, 'log').mockImplementation(() => undefined);
    const reading = guest(
      [0xba, 0x10, 0x05, 0x66, 0xed], // mov $0x510,%dx; in %dx,%eax
      [0x66, 0xa3, 0x00, 0x06], // mov %eax,0x600
      [0x66, 0xb8, 0x39, 0x30, 0x00, 0x00, 0x66, 0xef], // mov $12345,%eax; out %eax,%dx
      [0xeb, 0xfe],
    );
    await using vm = await real(reading, [clock]);
    const before = Math.floor(Date.now() / 1000);
    await vm.start();
    await until(() => print.mock.calls.length > 0);
    expect(print.mock.calls).toEqual([['the guest has 12345']]);
    expect(vm.memory.readU32(0x600)).toBeGreaterThanOrEqual(before);
    expect(vm.memory.readU32(0x600)).toBeLessThanOrEqual(Date.now() / 1000);
  });

  test('on MMIO: both forms, side by side', async () => {
    const copying = guest(
      [0xa1, 0x00, 0x00, 0x00, 0xc0, 0xa3, 0x00, 0x10, 0x00, 0xc0], // mov 0xc0000000,%eax; mov %eax,0xc0001000
      [0x66, 0xa1, 0x00, 0x10, 0x00, 0xc0, 0x66, 0xa3, 0x06, 0x00, 0x00, 0xc0], // mov 0xc0001000,%ax; mov %ax,0xc0000006
      [0xeb, 0xfe],
    );
    const written: number[][] = [];
    const tape: UserDeviceConfig = {
      name: 'tape',
      mmio: { base: 0xc000_0000, length: 8 },
      read: () => 0x8765_4321,
      write: (...access) => written.push(access),
    };
    const doorbell = { place: { mmio: { base: 0xc000_1000, length: 4 } }, gsi: 5 };
    const devices = [tape, { module: support('doorbell'), options: doorbell }];
    await using vm = await real(copying, devices, { entry: 'protected' });
    await vm.start();
    await until(() => written.length > 0);
    expect(written).toEqual([[6, 2, 0x4321]]);
    expect(vm.device('doorbell').fields['RUNG']?.get()).toBe(0x8765_4321);
  });

  test('interrupts from a vCPU thread and from the owner', async () => {
    const interrupted = guest(
      [0xfa, 0xc7, 0x06, 0x34, 0x00, 0x35, 0x7c, 0xc7, 0x06, 0x36, 0x00, 0x00, 0x00], // cli; IVT[13] = 0:handler
      [0xb0, 0x11, 0xe6, 0x20, 0xb0, 0x08, 0xe6, 0x21], // PIC: ICW1; ICW2: IRQ 0 is vector 8
      [0xb0, 0x04, 0xe6, 0x21, 0xb0, 0x01, 0xe6, 0x21, 0xb0, 0xdf, 0xe6, 0x21], // ICW3, ICW4, mask all but 5
      [0xba, 0x20, 0x05, 0x66, 0xb8, 0x4d, 0x00, 0x00, 0x00, 0x66, 0xef], // mov $0x520,%dx; mov $77,%eax; out %eax,%dx
      [0xfb, 0xf4, 0xeb, 0xfd, 0x90, 0x90, 0x90, 0x90, 0x90], // sti; hlt; jmp to hlt
      [0xff, 0x06, 0x00, 0x06, 0xb0, 0x20, 0xe6, 0x20, 0xcf], // handler: incw 0x600; mov $0x20,%al; out %al,$0x20; iret
    );
    const doorbell = { place: { ports: { base: 0x520, length: 4 } }, gsi: 5 };
    await using vm = await real(interrupted, [{ module: support('doorbell'), options: doorbell }]);
    await vm.start();
    const { fields, irq } = vm.device('doorbell');
    await until(() => vm.memory.readU16(0x600) === 1);
    expect(fields['RUNG']?.get()).toBe(77);
    irq.pulse();
    await until(() => vm.memory.readU16(0x600) === 2);
    await vm.stop();
    expect(() => irq.pulse()).not.toThrow();
  });

  describe('a vCPU that waits for a closure', () => {
    const counting = (onRead: (count: number) => void = () => undefined) => {
      const device = {
        name: 'counting',
        ports: { base: 0x510, length: 4 },
        reads: 0,
        writes: 0,
        read: () => {
          onRead(++device.reads);
          return device.reads;
        },
        write: () => void device.writes++,
      };
      return device;
    };

    test('is paused when the closure has answered, between two instructions, and goes on', async () => {
      let paused: Promise<void> | undefined;
      const device = counting((count) => {
        if (count === 7) paused = vm.pause();
      });
      await using vm: Vm = await real(HAMMER, [device]);
      await vm.start();
      await until(() => paused !== undefined);
      await paused;
      const regs = await vm.vcpus[0]?.call('getRegs');
      expect(regs?.rax).toBe(7n);
      expect(regs?.rip).toBe(0x7c05n);
      expect([device.reads, device.writes]).toEqual([7, 6]);
      await vm.resume();
      await until(() => device.writes > 9);
    });

    test('is paused and stopped at any moment', async () => {
      const rounds = isEmulated ? 4 : 40;
      const device = counting();
      const vm = await real(HAMMER, [device]);
      await vm.start();
      for (let round = 0; round < rounds; round++) {
        const seen = device.writes;
        await until(() => device.writes > seen);
        await sleep(round % 3);
        await vm.pause();
        const { reads } = device;
        await sleep(2);
        expect(device.reads).toBe(reads);
        await vm.resume();
      }
      await vm.stop();
      for (let round = 0; round < rounds; round++) {
        const other = counting();
        const short = await real(HAMMER, [other]);
        await short.start();
        await until(() => other.writes > round % 5);
        expect(await short.stop()).toEqual({ kind: 'stopped', by: 'host' });
      }
    });

    test('ends with its machine when the closure stops it, and no closure is called any more', async () => {
      const device = counting((count) => {
        if (count === 5) void vm.stop();
      });
      const vm: Vm = await real(HAMMER, [device], { cpus: 2 });
      await vm.start();
      expect(await vm.outcome).toEqual({ kind: 'stopped', by: 'host' });
      expect(device.reads).toBe(5);
    });
  });

  describe('"a vCPU worker or a device that throws → the VM ends with a named reason; other VMs of the process live"', () => {
    test('a closure', async () => {
      const device = {
        name: 'tape',
        ports: { base: 0x510, length: 4 },
        read: () => {
          throw new RangeError('torn');
        },
        write: () => undefined,
      };
      let beats = 0;
      await using other = await real(HAMMER, [{ ...device, name: 'heart', read: () => ++beats }]);
      await other.start();
      const vm = await real(HAMMER, [device], { cpus: 2 });
      await vm.start();
      const outcome = await vm.outcome;
      expect(outcome).toMatchObject({
        kind: 'failed',
        failure: 'device-failed',
        message: 'device tape failed in a 4-byte read at offset 0x0: RangeError: torn',
      });
      // The registers of the one that waited could be had.
      expect(outcome.kind === 'failed' && outcome.vcpus[0]?.mode).toBe('real');
      const seen = beats;
      await until(() => beats > seen);
      expect(other.state).toBe('running');
    });

    // mov $0x500,%dx; in %dx,%eax; mov $0x504,%dx; in %dx,%eax; jmp .
    const reading = guest([0xba, 0x00, 0x05, 0x66, 0xed, 0xba, 0x04, 0x05, 0x66, 0xed, 0xeb, 0xfe]);

    test('a register of a module', async () => {
      const vm = await real(reading, [{ module: support('misbehaving') }]);
      await vm.start();
      expect(await vm.outcome).toMatchObject({
        failure: 'device-failed',
        message: 'device misbehaving failed in a 4-byte read at offset 0x4: RangeError: no such track',
      });
      expect(vm.device('misbehaving').fields['COUNT']?.get()).toBe(1);
    });

    test('a register that takes all the memory it can get', async () => {
      // sti; hlt; jmp to hlt
      await using other = await real(guest([0xfb, 0xf4, 0xeb, 0xfd]), []);
      await other.start();
      const vm = await real(reading, [{ module: support('misbehaving'), options: 'hoards' }]);
      await vm.start();
      expect(await vm.outcome).toMatchObject({
        failure: 'vcpu-thread-crashed',
        message: expect.stringContaining('ERR_WORKER_OUT_OF_MEMORY'),
      });
      expect(other.state).toBe('running');
    });

    test.each<[string, UserDeviceConfig, RegExp]>([
      ['on the owner', { module: support('broken-module') }, /devices\.0\.module: cannot load .*: not today/],
      ['on vCPU threads', { module: support('misbehaving'), options: 'throws on vCPU threads' }, /from a vCPU thread/],
      ['by other fields', { module: support('misbehaving'), options: 'other fields there' }, /build the same devices/],
      [
        'by an address',
        { module: support('doorbell'), options: { place: { ports: { base: 0x64, length: 4 } } } },
        /i8042/,
      ],
    ])('a module, %s: no machine comes to be, and nothing of it is left', async (_, device, sentence) => {
      const attempt = (): Promise<Vm> => real(HAMMER, [device], { cpus: 2 });
      await expect(attempt()).rejects.toThrow(sentence);
      await sleep(200);
      const before = left();
      await expect(attempt()).rejects.toThrow(sentence);
      await sleep(200);
      expect(left()).toEqual(before);
    });

    test('a module that leaves a timer behind holds no machine back', async () => {
      const vm = await real(HAMMER, [{ module: support('misbehaving') }]);
      await vm.start();
      expect(await vm.stop()).toEqual({ kind: 'stopped', by: 'host' });
    });
  });
});

function left(): { fds: number; threads: number } {
  return { fds: readdirSync('/proc/self/fd').length, threads: readdirSync('/proc/self/task').length };
}
