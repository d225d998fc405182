// Snapshots of guests of a few bytes on the real KVM: what comes back, what is refused, and what a hostile file does.
import { execFileSync, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { mkdtempSync, readdirSync, readFileSync, rmSync, truncateSync, utimesSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest';
import {
  createVm,
  restoreVm,
  SnapshotError,
  VcpuPool,
  verifySnapshot,
  type Vm,
  type VmConfig,
} from '../../src/index.js';
import { GSI, IOAPIC_BASE, VM_GENERATION_ID } from '../../src/memory/layout.js';
import { KVM_CLOCK_HOST_TSC } from '../../src/kvm/abi.js';
import { MSR_KVM_SYSTEM_TIME_NEW } from '../../src/kvm/msr.js';
import { u32 } from '../support/images.js';
import { noKvm } from '../support/kvm.js';
import { emulatesKernelCode } from '../support/linux.js';
import { stateFile, type PlainState } from '../support/snapshot-state.js';
import { amount } from '../support/soak.js';
import { TestDevice } from '../support/test-device.js';
import { REG } from '../support/virtqueue-driver.js';
import { begin, BUFFERS, layOut, machine, runScript } from './hostile-guest.js';
import { microGuest } from './micro-guest.js';
import { Script } from './script-guest.js';

/** inc word [0x600]; jmp back. */
const COUNT = Uint8Array.of(0xff, 0x06, 0x00, 0x06, 0xeb, 0xfa);
const COUNTER = 0x600;

let folder: string;
let directory: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'microvisor-snapshot-'));
  directory = join(folder, 'snapshot');
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

function real(bytes: Uint8Array, more: Partial<VmConfig> = {}): Promise<Vm> {
  return createVm({ kernel: { name: 'micro-guest', bytes }, entry: 'real', cmdline: '', memoryMiB: 2, ...more });
}

function tellsHostTsc(): boolean {
  if (noKvm) return false;
  using guest = microGuest();
  // When it is set, or a vCPU runs, KVM finds out whether it can.
  guest.vm.setClock({ clock: 0n });
  return (guest.vm.getClock().flags & KVM_CLOCK_HOST_TSC) !== 0;
}

async function until(condition: () => boolean, what: string): Promise<void> {
  for (let tries = 0; !condition(); tries++) {
    if (tries === 2000) throw new Error(`waited in vain for ${what}`);
    await sleep(5);
  }
}

/** Starts the guest, saves it once `isReady`, and ends it. */
async function saved(vm: Vm, isReady: () => boolean): Promise<void> {
  await vm.start();
  await until(isReady, 'the guest');
  await vm.snapshot(directory);
  await vm.stop();
}

/** The JSON of the state file, changed, with a right checksum around it. */
function changeState(change: (state: PlainState) => void): void {
  const path = join(directory, 'state');
  const file = readFileSync(path);
  const state = JSON.parse(file.subarray(file.indexOf(10) + 1).toString()) as PlainState;
  change(state);
  writeFileSync(path, stateFile(JSON.stringify(state)));
}

/** In parts: node:crypto takes 2 GiB at once at the most. */
function digest(bytes: Uint8Array): string {
  const hash = createHash('sha256');
  for (let at = 0; at < bytes.length; at += 2 ** 30) hash.update(bytes.subarray(at, at + 2 ** 30));
  return hash.digest('hex');
}

/** A machine takes seconds there to be made: what is the same on every host is shown on the others. */
const isSvm = process.env['MICROVISOR_HOST'] === 'svm';

describe.skipIf(noKvm)('a snapshot', () => {
  test('goes on where it stood, and the machine that it was made of goes on by itself', async () => {
    await using vm = await real(COUNT);
    await vm.start();
    const counter = (): number => vm.memory.readU16(COUNTER);
    await until(() => counter() > 0, 'the guest');
    await vm.pause();
    await vm.snapshot(directory);
    expect(vm.state).toBe('paused');
    const at = counter();
    await vm.resume();
    await until(() => counter() !== at, 'the machine that was saved');

    await using restored = await restoreVm(directory, { verify: true });
    expect(restored.state).toBe('paused');
    expect(restored.memory.readU16(COUNTER)).toBe(at);
    const [before, after] = [vm, restored].map((machine) => machine.memory);
    expect(after?.read(0, 0x600)).toEqual(before?.read(0, 0x600));
    await restored.resume();
    await until(() => restored.memory.readU16(COUNTER) !== at, 'the restored machine');
  });

  test('brings general, vector and debug registers back', async () => {
    const [SOURCE, FLAG, GO, TARGET] = [0x20_0000, 0x20_0020, 0x20_0024, 0x20_0030];
    const code = [
      [0x0f, 0x20, 0xe0, 0x0d, ...u32(0x200), 0x0f, 0x22, 0xe0], // CR4.OSFXSR
      [0x0f, 0x10, 0x05, ...u32(SOURCE)], // movups SOURCE,%xmm0
      [0xb8, ...u32(0x1234), 0x0f, 0x23, 0xc0], // mov $0x1234,%eax; mov %eax,%dr0
      [0xbe, ...u32(0xcafe)], // mov $0xcafe,%esi
      [0xc7, 0x05, ...u32(FLAG), ...u32(1)], // movl $1,FLAG
      [0x83, 0x3d, ...u32(GO), 0x00, 0x74, 0xf7], // cmpl $0,GO; je back
      [0x0f, 0x11, 0x05, ...u32(TARGET)], // movups %xmm0,TARGET
      [0x0f, 0x21, 0xc0, 0xa3, ...u32(TARGET + 16)], // mov %dr0,%eax; mov %eax,TARGET+16
      [0x89, 0x35, ...u32(TARGET + 20)], // mov %esi,TARGET+20
      [0xc7, 0x05, ...u32(FLAG), ...u32(2), 0xeb, 0xfe], // movl $2,FLAG; jmp .
    ];
    const bytes = Uint8Array.from(code.flat());
    const vm = await real(bytes, { entry: 'protected', memoryMiB: 4 });
    const vector = Uint8Array.from({ length: 16 }, (_, i) => i + 1);
    vm.memory.write(SOURCE, vector);
    await saved(vm, () => vm.memory.readU32(FLAG) === 1);
    await using restored = await restoreVm(directory);
    restored.memory.writeU32(GO, 1);
    await restored.resume();
    await until(() => restored.memory.readU32(FLAG) === 2, 'the restored guest');
    expect(restored.memory.read(TARGET, 16)).toEqual(vector);
    expect(restored.memory.readU32(TARGET + 16)).toBe(0x1234);
    expect(restored.memory.readU32(TARGET + 20)).toBe(0xcafe);
  });

  // KVM on PVM cannot set a guest's TSC: kvmclock and TSC both go on with the host's there. And where KVM does not tell the
  // two of one moment, they are as near as the host has time for.
  test.skipIf(emulatesKernelCode() || !tellsHostTsc())(
    '"the TSC comes back by offset", and kvmclock with it: the guest sees no difference between the two grow',
    async () => {
      const [PAGE, COUNT_AT] = [0x20_0000, 0x20_1000];
      const code = [
        [0xb9, ...u32(MSR_KVM_SYSTEM_TIME_NEW), 0xb8, ...u32(PAGE | 1)], // mov $MSR,%ecx; mov $PAGE|1,%eax
        [0x31, 0xd2, 0x0f, 0x30], // xor %edx,%edx; wrmsr
        [0xff, 0x05, ...u32(COUNT_AT), 0xeb, 0xf8], // incl COUNT_AT; jmp back
      ];
      const vm = await real(Uint8Array.from(code.flat()), { entry: 'protected', memoryMiB: 4 });
      // Linux Documentation/virt/kvm/x86/msr.rst, MSR_KVM_SYSTEM_TIME_NEW: struct pvclock_vcpu_time_info.
      const stamp = (machine: Vm): bigint => machine.memory.readU64(PAGE + 8);
      const ahead = (machine: Vm): number => {
        const page = machine.memory.read(PAGE, 32);
        const view = new DataView(page.buffer, page.byteOffset);
        const [ticks, shift] = [view.getBigUint64(8, true), BigInt(view.getInt8(28))];
        const shifted = shift < 0n ? ticks >> -shift : ticks << shift;
        const nanoseconds = view.getBigUint64(16, true) - ((shifted * BigInt(view.getUint32(24, true))) >> 32n);
        return Number(nanoseconds) / 1e6;
      };
      await saved(vm, () => vm.memory.readU32(COUNT_AT) > 0);
      await using restored = await restoreVm(directory);
      const [before, then] = [ahead(restored), stamp(restored)];
      await restored.resume();
      await until(() => stamp(restored) !== then, "the restored guest's clock");
      await restored.pause();
      // In milliseconds. It was 300, and 10 to 45 on a busy host while each clock was read by itself.
      expect(Math.abs(ahead(restored) - before)).toBeLessThan(0.1);
    },
  );

  test('"kept for replay": what the devices of a paused machine have not taken waits until it goes on, so that its disks stay those of the snapshot', async () => {
    const device = new TestDevice();
    await using vm = await createVm({ ...machine(), virtio: [() => device] });
    const script = new Script(vm.memory);
    const hands = script.hands(0, device.offer);
    const queue = layOut(hands, 0x10_0000);
    queue.publish(queue.build(BUFFERS));
    begin(hands, [queue]);
    hands.write(REG.QueueNotify, 0);
    script.add('wait16', queue.used + 2, 1);
    await runScript(vm, script);
    expect(device.heads).toHaveLength(1);
    await vm.pause();
    // What a driver has made available, and the device has not looked at yet.
    queue.publish(queue.build(BUFFERS));
    await vm.snapshot(directory);
    await sleep(50);
    expect(device.heads).toHaveLength(1);
    await vm.resume();
    await until(() => device.heads.length === 2, 'the chain, when the machine goes on');
  });

  test('of a guest that sleeps until a timer interrupts it goes on being interrupted', async () => {
    const out = (port: number, value: number): number[] => [0xb0, value, 0xe6, port];
    const HANDLER = 0x7c80;
    const code = [
      [0xfa, 0x31, 0xc0, 0x8e, 0xd8], // cli; xor %ax,%ax; mov %ax,%ds
      [0xc7, 0x06, 0x20, 0x00, HANDLER & 0xff, HANDLER >> 8, 0xc7, 0x06, 0x22, 0x00, 0x00, 0x00], // vector 8
      [...out(0x20, 0x11), ...out(0x21, 0x08), ...out(0x21, 0x04), ...out(0x21, 0x01), ...out(0x21, 0xfe)], // PIC
      [...out(0x43, 0x34), ...out(0x40, 0x00), ...out(0x40, 0x20)], // PIT: 146 Hz
      [0xfb, 0xf4, 0xeb, 0xfd], // sti; hlt; jmp to hlt
    ].flat();
    const bytes = new Uint8Array(0x100);
    bytes.set(code);
    bytes.set([0xff, 0x06, 0x00, 0x06, ...out(0x20, 0x20), 0xcf], HANDLER - 0x7c00); // inc COUNTER; EOI; iret
    const vm = await real(bytes);
    await saved(vm, () => vm.memory.readU16(COUNTER) > 3);
    await using restored = await restoreVm(directory);
    const at = restored.memory.readU16(COUNTER);
    await restored.resume();
    await until(() => restored.memory.readU16(COUNTER) > at + 3, 'interrupts');
  });

  test('"entropy is reseeded (through … a generation counter)": each restore is a new generation, and says so', async () => {
    const generation = (vm: Vm): string => Buffer.from(vm.memory.read(VM_GENERATION_ID, 16)).toString('hex');
    const VECTOR = 0x30;
    const store = (address: number, value: number): number[] => {
      const bytes = Buffer.alloc(10);
      bytes.writeUInt16LE(0x05c7); // movl $value,address
      bytes.writeUInt32LE(address, 2);
      bytes.writeUInt32LE(value, 6);
      return [...bytes];
    };
    const code = [
      store(0xfee0_00f0, 0x1ff), // the local APIC is on
      store(IOAPIC_BASE, 0x10 + 2 * GSI.GENERIC_EVENT), // the pin's redirection entry: not masked
      store(IOAPIC_BASE + 0x10, VECTOR),
      [0x66, 0xff, 0x05, COUNTER & 0xff, COUNTER >> 8, 0, 0, 0xeb, 0xf7], // incw COUNTER; jmp back
    ];
    /** The guest takes no interrupts, so the vector waits. SDM vol. 3A §11.8.4: the interrupt request register. */
    const isPending = (): boolean => {
      const file = readFileSync(join(directory, 'state'));
      const { vcpus } = JSON.parse(file.subarray(file.indexOf(10) + 1).toString()) as PlainState;
      const irr = Buffer.from(vcpus[0]?.rows['lapic'] ?? '', 'base64').readUInt32LE(0x200 + 0x10 * (VECTOR >> 5));
      return ((irr >>> (VECTOR & 31)) & 1) === 1;
    };
    const vm = await real(Uint8Array.from(code.flat()), { entry: 'protected', memoryMiB: 4 });
    const first = generation(vm);
    expect(first).not.toBe('00'.repeat(16));
    await saved(vm, () => vm.memory.readU16(COUNTER) > 0);
    expect(isPending()).toBe(false);
    const seen = [first];
    for (let round = 0; round < 2; round++) {
      await using restored = await restoreVm(directory);
      seen.push(generation(restored));
      const [fork] = await restored.fork(1);
      seen.push(generation(fork as Vm));
      await fork?.stop();
      if (round === 1) await restored.snapshot(directory);
    }
    expect(new Set(seen).size).toBe(5);
    expect(isPending()).toBe(true);
  });

  test('a machine with no ACPI tables has no generation ID', async () => {
    const vm = await real(COUNT, { firmware: 'mptable' });
    await saved(vm, () => vm.memory.readU16(COUNTER) > 0);
    await using restored = await restoreVm(directory);
    expect(restored.memory.read(VM_GENERATION_ID, 16)).toEqual(new Uint8Array(16));
  });

  test('"none lost, none doubled": what is printed goes on at the next byte, round after round', async () => {
    // mov $0x3f8,%dx; mov $0x7d00,%si; mov $256,%cx; rep outsb; jmp back to the second.
    const bytes = new Uint8Array(0x200);
    bytes.set([0xba, 0xf8, 0x03, 0xbe, 0x00, 0x7d, 0xb9, 0x00, 0x01, 0xf3, 0x6e, 0xeb, 0xf6]);
    for (let i = 0; i < 256; i++) bytes[0x100 + i] = i;
    let printed = 0;
    const follow = (vm: Vm): void => {
      vm.console.output.on('data', (piece: Buffer) => {
        for (const byte of piece) {
          if (byte !== (printed & 0xff)) throw new Error(`byte ${printed} is ${byte}`);
          printed++;
        }
      });
    };
    let vm = await real(bytes, { consoleOverflow: 'wait' });
    follow(vm);
    await vm.start();
    for (let round = 0; round < (isSvm ? 3 : amount(10, 200)); round++) {
      const wanted = printed + 100 + round * 7;
      await until(() => printed > wanted, 'output');
      await vm.snapshot(directory);
      const at = printed;
      const last = vm;
      // The old machine prints no more: it is ended before it runs again.
      await last.stop();
      // What it still printed between resume and stop is not the new one's.
      printed = at;
      vm = await restoreVm(directory);
      follow(vm);
      await vm.resume();
    }
    await vm.stop();
  });

  test('RAM is the same before and after, above the 32-bit hole too', async () => {
    const memoryMiB = amount(16, 3200);
    // Without ACPI, whose VM generation ID is a new one after each restore.
    const vm = await real(COUNT, { memoryMiB, firmware: 'mptable' });
    for (const { bytes } of vm.memory.regions)
      for (let at = 0x10_0000; at < bytes.length; at += amount(40_000, 8)) bytes[at] = at / 8;
    await vm.start();
    await vm.pause();
    const before = vm.memory.regions.map(({ bytes }) => digest(bytes));
    await vm.snapshot(directory);
    await vm.stop();
    const restored = await restoreVm(directory);
    expect(restored.memory.regions.map(({ bytes }) => digest(bytes))).toEqual(before);
    await restored.stop();
  }, 600_000);

  test.skipIf(isSvm)('"kill -9 while saving leaves the previous snapshot whole"', async () => {
    const vm = await real(COUNT);
    await saved(vm, () => vm.memory.readU16(COUNTER) > 0);
    const child = fileURLToPath(new URL('../support/snapshot-saver.js', import.meta.url));
    for (let round = 0; round < amount(5, 100); round++) {
      const saver = spawn(process.execPath, [child, directory], { stdio: ['ignore', 'pipe', 'inherit'] });
      await once(saver.stdout, 'data');
      await sleep(round * 7);
      saver.kill('SIGKILL');
      await once(saver, 'close');
      await verifySnapshot(directory);
    }
    // And the next one tidies up.
    const again = await restoreVm(directory);
    await again.snapshot(directory);
    await again.stop();
    expect(readdirSync(directory)).toHaveLength(2);
  });

  test.skipIf(process.getuid?.() !== 0)(
    '"… or a full disk while saving leaves the previous snapshot whole"',
    async () => {
      const mount = mkdtempSync(join(tmpdir(), 'microvisor-full-'));
      execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=6m', 'tmpfs', mount]);
      try {
        const target = join(mount, 'snapshot');
        await using vm = await real(COUNT, { memoryMiB: 8 });
        await vm.start();
        await vm.pause();
        await vm.snapshot(target);
        const RAM = 4 << 20;
        const bytes = Buffer.alloc(RAM, 1);
        for (let at = 0; at < RAM; at += 4096) bytes.writeUInt32LE(at, at);
        vm.memory.write(0x10_0000, bytes);
        const ballast = join(mount, 'ballast');
        writeFileSync(ballast, Buffer.alloc(2 << 20));
        await expect(vm.snapshot(target)).rejects.toThrow(
          /cannot be written, and what was there before is whole: its file system is full; make room/,
        );
        // Nothing of the attempt is left, what was there is whole, and the machine goes on.
        expect(readdirSync(mount).toSorted()).toEqual(['ballast', 'snapshot']);
        expect(readdirSync(target)).toHaveLength(2);
        await verifySnapshot(target);
        const counter = vm.memory.readU16(COUNTER);
        await vm.resume();
        await until(() => vm.memory.readU16(COUNTER) !== counter, 'the machine that could not be saved');
        rmSync(ballast);
        await vm.snapshot(target);
        await verifySnapshot(target);
        await using again = await restoreVm(target);
        expect(again.memory.readU32(0x10_0000 + 4096)).toBe(4096);
      } finally {
        execFileSync('umount', ['--lazy', mount]);
        rmSync(mount, { recursive: true });
      }
    },
  );
});

describe.skipIf(noKvm)('what cannot be restored is named', () => {
  async function refusal(options: Parameters<typeof restoreVm>[1] = {}): Promise<string> {
    const error = await restoreVm(directory, options).then(
      (vm) => vm.stop().then(() => undefined),
      (reason: unknown) => reason,
    );
    expect(error).toBeInstanceOf(SnapshotError);
    return (error as SnapshotError).message;
  }

  test('"a CPU feature the snapshot used"', async () => {
    const vm = await real(COUNT);
    await saved(vm, () => true);
    changeState(({ vcpus: [vcpu] }) => {
      if (vcpu === undefined) throw new Error('no vCPU');
      const table = Buffer.from(vcpu.cpuid, 'base64');
      for (let at = 8; at < table.length; at += 40) {
        const [leaf, index] = [table.readUInt32LE(at), table.readUInt32LE(at + 4)];
        // 3DNow! and avx512_4vnniw: no processor of today has both.
        if (leaf === 0x8000_0001) table.writeUInt32LE((table.readUInt32LE(at + 24) | (1 << 31)) >>> 0, at + 24);
        if (leaf === 7 && index === 0) table.writeUInt32LE((table.readUInt32LE(at + 24) | (1 << 2)) >>> 0, at + 24);
      }
      vcpu.cpuid = table.toString('base64');
    });
    expect(await refusal()).toMatch(
      /lacks features that the guest may use: .*(0x80000001\.0 EDX bit 31|0x7\.0 EDX bit 2)/,
    );
  });

  test('"of another architecture"', async () => {
    await saved(await real(COUNT), () => true);
    changeState((state) => Object.assign(state, { architecture: 'aarch64' }));
    expect(await refusal()).toMatch(/architecture aarch64, not x86_64/);
  });

  test('a TSC of another frequency', async () => {
    await saved(await real(COUNT), () => true);
    changeState(({ vcpus }) => {
      for (const { tsc } of vcpus) tsc.khz = Math.round(tsc.khz * 1.01);
    });
    expect(await refusal()).toMatch(/the TSC ticks with \d+ kHz on this host and did with \d+ kHz/);
  });

  test('"with a disk missing or swapped"', async () => {
    const disk = join(folder, 'disk.img');
    writeFileSync(disk, new Uint8Array(65_536));
    await saved(await real(COUNT, { disks: [{ path: disk }] }), () => true);
    // As it was: nobody has changed it.
    await (await restoreVm(directory)).stop();
    const later = new Date(Date.now() + 5000);
    utimesSync(disk, later, later);
    expect(await refusal()).toMatch(/disk\.img was changed since the snapshot was made/);
    // Named, it is the caller's word against the clock's.
    await (await restoreVm(directory, { disks: [{ path: disk }] })).stop();
    truncateSync(disk, 32_768);
    expect(await refusal()).toMatch(/has 32768 bytes, and had 65536/);
    expect(await refusal({ disks: [{ path: disk }] })).toMatch(/disk0 is not as it was when the guest found it/);
    rmSync(disk);
    expect(await refusal()).toMatch(/disk\.img cannot be had: ENOENT/);
    expect(await refusal({ disks: [] })).toMatch(/the machine had 1 virtio devices \(disk0\), not 0/);
  });

  test('objects of the program that are not given again', async () => {
    const handler = { name: 'mine', ports: { base: 0x500, length: 4 }, read: () => 0, write: () => undefined };
    await saved(await real(COUNT, { devices: [handler] }), () => true);
    expect(await refusal()).toMatch(/the machine had the devices mine; give them in devices/);
    expect(await refusal({ devices: [{ ...handler, name: 'other' }] })).toMatch(/had the devices mine, not other/);
    await (await restoreVm(directory, { devices: [handler] })).stop();
  });

  test('"truncating it under us ends in an error, not in SIGBUS"', async () => {
    const vm = await real(COUNT, { memoryMiB: 2 });
    await saved(vm, () => vm.memory.readU16(COUNTER) > 0);
    const restored = await restoreVm(directory);
    await restored.resume();
    const [ram = ''] = readdirSync(directory).filter((name) => name.startsWith('ram'));
    truncateSync(join(directory, ram), 0);
    // The guest has the page of its code; what is cut off shows where somebody looks next.
    restored.memory.readU8(0x7c00 + 4096);
    const outcome = await Promise.race([restored.outcome, sleep(20_000)]);
    expect(outcome).toMatchObject({ kind: 'failed', failure: 'device-failed' });
    expect(outcome?.kind === 'failed' && outcome.message).toMatch(/was cut off while the guest ran from it/);
  });
});

describe.skipIf(noKvm || isSvm)(
  '"a state file with a valid checksum and hostile values is treated like guest input"',
  () => {
    type Change = (state: PlainState) => void;
    const fill = (text: string, byte: number): string =>
      Buffer.alloc(Buffer.from(text, 'base64').length, byte).toString('base64');
    const row =
      (name: string, byte: number): Change =>
      ({ vcpus }) => {
        for (const { rows } of vcpus) rows[name] = fill(rows[name] ?? '', byte);
      };
    const field =
      (device: string, name: string, value: number): Change =>
      ({ registers }) => {
        const found = registers.fields.find(([of, it]) => of === device && it === name);
        if (found === undefined) throw new Error(`no ${device}.${name}`);
        found[2] = value;
      };

    // One for all of them: only what its file says is changed.
    let base: string;
    let whole: Uint8Array;
    beforeAll(async () => {
      base = mkdtempSync(join(tmpdir(), 'microvisor-hostile-'));
      directory = join(base, 'snapshot');
      const disk = join(base, 'disk.img');
      writeFileSync(disk, new Uint8Array(65_536));
      const vm = await real(COUNT, { disks: [{ path: disk }] });
      await saved(vm, () => vm.memory.readU16(COUNTER) > 0);
      whole = readFileSync(join(directory, 'state'));
    });
    afterAll(() => rmSync(base, { recursive: true, force: true }));

    test.each<[string, Change]>([
      ...['regs', 'sregs', 'xcrs', 'xsave', 'debugregs', 'lapic', 'events', 'mpState'].flatMap(
        (name): [string, Change][] => [
          [`${name} of ones`, row(name, 0xff)],
          [`${name} of zeros`, row(name, 0)],
        ],
      ),
      ['a ring whose cursors run away from each other', field('COM1.tx', 'head', 5)],
      ['a ring that is full beyond its end', field('COM1.rx', 'tail', 0xffff_ffff)],
      ['a machine event that is none', field('machine-event', 'pending', 77)],
      ['a queue of no size', field('disk0.queue0', 'QueueNum', 0)],
      ['a queue that is larger than any', field('disk0.queue0', 'QueueNum', 0xffff_ffff)],
      ['a queue outside of RAM', field('disk0.queue0', 'QueueDescHigh', 0xffff_ffff)],
      ['a device that waits for an answer', field('disk0', 'REQUESTS', 9)],
      ['a device in all states', field('disk0', 'Status', 0xffff_ffff)],
      ['a clock of a weekday', field('rtc', 'OFFSET', 0x8000_0000)],
      ['an MSR that no vCPU has', ({ vcpus }) => void vcpus[0]?.msrs.push([0xdead_beef, '1'])],
      ['a save in the future', (state) => Object.assign(state, { savedAt: Number.MAX_SAFE_INTEGER })],
      ['a save in 1970', (state) => Object.assign(state, { savedAt: 0 })],
      ['a clock beyond its end', (state) => Object.assign(state, { clock: '18446744073709551615' })],
      ['irqchips of ones', ({ irqchips }) => (irqchips.ioapic = fill(irqchips.ioapic, 0xff))],
      ['a PIC of ones', ({ irqchips }) => (irqchips.picMaster = fill(irqchips.picMaster, 0xff))],
      ['a PIT of ones', (state) => (state.pit = fill(state.pit, 0xff))],
      ['runs of pages beyond RAM', ({ ram }) => Object.assign(ram, { extents: [[0, 0xffff_ffff]] })],
      ['RAM of another size', ({ ram }) => Object.assign(ram, { bytes: 4096 })],
      ['more vCPUs than it has states of', ({ config }) => Object.assign(config, { cpus: 2 })],
    ])('%s', async (_, change) => {
      writeFileSync(join(base, 'snapshot', 'state'), whole);
      directory = join(base, 'snapshot');
      changeState(change);
      // Refused, or a guest in a strange state: which ends when it is told to.
      let restored: Vm;
      try {
        restored = await restoreVm(directory);
      } catch (error) {
        expect(error).toBeInstanceOf(SnapshotError);
        return;
      }
      await restored.resume();
      await sleep(50);
      await restored.stop();
      expect(restored.state).toBe('ended');
    });
  },
);

describe.skipIf(noKvm)('forks', () => {
  const fds = (): number => readdirSync('/proc/self/fd').length;
  const threads = (): number => readdirSync('/proc/self/task').length;

  test('"forks alive at once … then all gone, with the same number of fds and threads as before"', async () => {
    const count = amount(5, 100);
    await using vm = await real(COUNT);
    await vm.start();
    await until(() => vm.memory.readU16(COUNTER) > 0, 'the parent');
    // Whatever is made at the first fork is there now.
    for (const fork of await vm.fork(1)) await fork.stop();
    await vm.pause();
    const before = { fds: fds(), threads: threads() };
    const at = vm.memory.readU16(COUNTER);
    const forks = await vm.fork(count);
    expect(forks.map((fork) => fork.memory.readU16(COUNTER))).toEqual(forks.map(() => at));
    for (const fork of forks) await fork.resume();
    for (const fork of forks) await until(() => fork.memory.readU16(COUNTER) !== at, 'a fork');
    // Each has its own: neither the parent nor another fork sees what one writes.
    for (const [index, fork] of forks.entries()) fork.memory.writeU32(0x10_0000, index + 1);
    expect(forks.map((fork) => fork.memory.readU32(0x10_0000))).toEqual(forks.map((_, index) => index + 1));
    expect(vm.memory.readU32(0x10_0000)).toBe(0);
    expect(vm.memory.readU16(COUNTER)).toBe(at);
    await Promise.all(forks.map((fork) => fork.stop()));
    await until(() => threads() === before.threads && fds() === before.fds, 'the threads of the forks to end');
  });

  test('"from a warm pool of workers": forks take the threads that wait, and the pool fills up again', async () => {
    await using vm = await real(COUNT, { cpus: 2 });
    await vm.start();
    await until(() => vm.memory.readU16(COUNTER) > 0, 'the parent');
    await vm.pause();
    const at = vm.memory.readU16(COUNTER);
    const before = threads();
    {
      await using pool = new VcpuPool(3);
      await pool.ready;
      expect([pool.waiting, threads() - before]).toEqual([3, 3]);
      const take = vi.spyOn(pool, 'take');
      const taken = (): boolean[] => take.mock.results.map(({ value }) => value !== undefined);
      // Of four threads one is started as without a pool, unless that has filled up meanwhile.
      const forks = await vm.fork(2, { threads: pool });
      expect(taken().slice(0, 3)).toEqual([true, true, true]);
      expect(taken()).toHaveLength(4);
      for (const fork of forks) await fork.resume();
      for (const fork of forks) await until(() => fork.memory.readU16(COUNTER) !== at, 'a fork');
      await Promise.all(forks.map((fork) => fork.stop()));
      await until(() => pool.waiting === 3, 'the pool to fill up');
      await using fork = (await vm.fork(1, { threads: pool }))[0];
      expect(fork?.state).toBe('paused');
      expect(taken().slice(4)).toEqual([true, true]);
    }
    await until(() => threads() === before, 'the threads that waited to end');
  });

  test.each([0, -1, 1.5, 1025, Number.NaN])('a pool of %s threads is refused', (size) => {
    expect(() => new VcpuPool(size)).toThrow(/the number of threads is a whole number from 1 to 1024, not/);
  });

  test('"disks through overlays": each gets a copy, and no file is left', async () => {
    const [disk, overlay] = [join(folder, 'disk.img'), join(folder, 'overlay')];
    writeFileSync(disk, new Uint8Array(65_536));
    await using vm = await real(COUNT, { disks: [{ path: disk, overlay }] });
    await vm.start();
    const forks = await vm.fork(2);
    expect(readdirSync(folder).toSorted()).toEqual(['disk.img', 'overlay']);
    await Promise.all(forks.map((fork) => fork.stop()));
  });

  test('a disk or a network that cannot be shared is named', async () => {
    const disk = join(folder, 'disk.img');
    writeFileSync(disk, new Uint8Array(65_536));
    const written = await real(COUNT, { disks: [{ path: disk }] });
    await written.start();
    await expect(written.fork(1)).rejects.toThrow(/disks\.0: .*disk\.img is written by the machine itself/);
    // The machine goes on all the same.
    expect(written.state).toBe('running');
    await written.stop();
    const connected = await real(COUNT, { nets: [{ backend: { kind: 'switch', name: 'forks' } }] });
    await connected.start();
    await expect(connected.fork(1)).rejects.toThrow(/nets\.0: forks cannot share this network/);
    await connected.stop();
  });
});
