// Hostile guests on ports and MMIO, and a hostile host's signals, on the real KVM: cases 12, 17 and 31.
// Case 32, a device or a worker that throws, is in user-devices.test.ts and vcpu-thread.test.ts.
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { constants, tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { createVm, type UserDeviceConfig, type Vm, type VmConfig } from '../../src/index.js';
import { ANSWER, REQUEST } from '../../src/devices/virtio/block-request.js';
import { noKvm } from '../support/kvm.js';
import { amount } from '../support/soak.js';
import { TestDevice } from '../support/test-device.js';
import { REG } from '../support/virtqueue-driver.js';
import { begin, DATA, layOut, machine as scriptMachine, runScript } from './hostile-guest.js';
import { Script } from './script-guest.js';

const isEmulated = process.env['MICROVISOR_HOST'] === 'svm';

const ticket: UserDeviceConfig = { module: new URL('../../examples/ticket-device.js', import.meta.url) };
const words: UserDeviceConfig = { module: new URL('../support/devices/words.js', import.meta.url) };
const guest = (...lines: readonly (readonly number[])[]): Uint8Array => Uint8Array.from(lines.flat());

function machine(bytes: Uint8Array, more: Partial<VmConfig>): Promise<Vm> {
  return createVm({ kernel: { name: 'micro-guest', bytes }, entry: 'real', cmdline: '', memoryMiB: 4, ...more });
}

/** Swallows writes of 32 bits at port 0x510, and keeps them in order. */
function recorder(): UserDeviceConfig & { readonly values: number[] } {
  const values: number[] = [];
  return {
    name: 'recorder',
    ports: { base: 0x510, length: 4 },
    values,
    read: () => 0,
    write: (_offset, _size, value) => void values.push(value),
  };
}

const upTo = (count: number): number[] => Array.from({ length: count }, (_, i) => i);

/** Sets a byte when it is through. */
async function finished(vm: Vm, flag: number): Promise<void> {
  while (vm.memory.readU8(flag) === 0) {
    if (vm.state !== 'running') throw new Error(`the machine ended: ${JSON.stringify(await vm.outcome)}`);
    await sleep(2);
  }
}

describe.skipIf(noKvm)('hostile accesses', () => {
  test('case 17: "every one of the 65,536 ports × 1, 2, 4 bytes", read and written', async () => {
    const everyPort = guest(
      [0xfa, 0x31, 0xd2], // cli; xor %dx,%dx
      [0xec, 0xed, 0x66, 0xed], // in %dx,%al; in %dx,%ax; in %dx,%eax
      [0x89, 0xd3, 0x83, 0xe3, 0xf8], // mov %dx,%bx; and $~7,%bx
      [0x81, 0xfb, 0xf0, 0x00, 0x74, 0x08], // cmp $0xf0,%bx; je to inc: debug-exit is the end of it all
      [0x66, 0x83, 0xc8, 0xff], // or $~0,%eax
      [0xee, 0xef, 0x66, 0xef], // out %al,%dx; out %ax,%dx; out %eax,%dx
      [0x42, 0x75, 0xe6], // inc %dx; jnz to in
      [0xb0, 0x07, 0xe6, 0xf4, 0xeb, 0xfe], // mov $7,%al; out %al,$0xf4
    );
    const vm = await machine(everyPort, {});
    vm.console.output.resume();
    await vm.start();
    expect(await vm.outcome).toEqual({ kind: 'debug-exit', value: 7 });
    expect(vm.report().unclaimed.ports).toBeGreaterThan(65_000 * 6);
  });

  test('case 17: "`rep ins`/`rep outs` with a count of 4096": each item once and in order; nobody\'s are "all ones"', async () => {
    const repeating = guest(
      [0xfc, 0xb8, 0x00, 0x20, 0x8e, 0xc0, 0x8e, 0xd8], // cld; mov $0x2000,%ax; mov %ax,%es; mov %ax,%ds
      [0x31, 0xff, 0xb9, 0x00, 0x10], // xor %di,%di; mov $4096,%cx
      [0xba, 0x00, 0x05, 0xf3, 0x66, 0x6d], // mov $0x500,%dx; rep insl
      [0x31, 0xf6, 0xb9, 0x00, 0x10], // xor %si,%si; mov $4096,%cx
      [0xba, 0x10, 0x05, 0xf3, 0x66, 0x6f], // mov $0x510,%dx; rep outsl
      [0xb9, 0x00, 0x10, 0xba, 0x20, 0x05, 0xf3, 0x6c], // mov $4096,%cx; mov $0x520,%dx; rep insb
      [0x31, 0xf6, 0xb9, 0x00, 0x10, 0xf3, 0x6e], // xor %si,%si; mov $4096,%cx; rep outsb
      [0x31, 0xc0, 0x8e, 0xd8, 0xc6, 0x06, 0x00, 0x06, 0x01, 0xeb, 0xfe], // xor %ax,%ax; mov %ax,%ds; movb $1,0x600
    );
    const record = recorder();
    await using vm = await machine(repeating, { devices: [ticket, record] });
    await vm.start();
    await finished(vm, 0x600);
    expect(upTo(4096).map((i) => vm.memory.readU32(0x2_0000 + 4 * i))).toEqual(upTo(4096));
    expect(record.values).toEqual(upTo(4096));
    expect(vm.memory.window(0x2_4000, 4096).every((byte) => byte === 0xff)).toBe(true);
    expect(vm.report().unclaimed.ports).toBe(2 * 4096);
  });

  test('case 12: "1-, 2-, 8-byte and misaligned access to 32-bit registers; every offset 0–0xfff × width × read/write"', async () => {
    const RESULTS = 0x20_0000;
    const FINISHED = 0x1f_ff00;
    const everyWidth = guest(
      [0xbb, 0x00, 0x00, 0x00, 0xc0, 0xbf, 0x00, 0x00, 0x20, 0x00, 0x31, 0xc9], // %rbx device, %rdi results, %ecx offset
      [0x8a, 0x04, 0x0b, 0x88, 0x07], // mov (%rbx,%rcx),%al; mov %al,(%rdi)
      [0x66, 0x8b, 0x04, 0x0b, 0x66, 0x89, 0x47, 0x02], // %ax, 2(%rdi)
      [0x8b, 0x04, 0x0b, 0x89, 0x47, 0x04], // %eax, 4(%rdi)
      [0x48, 0x8b, 0x04, 0x0b, 0x48, 0x89, 0x47, 0x08], // %rax, 8(%rdi)
      [0x83, 0xc7, 0x10, 0xff, 0xc1], // add $16,%edi; inc %ecx
      [0x81, 0xf9, 0x00, 0x10, 0x00, 0x00, 0x75, 0xd8], // cmp $0x1000,%ecx; jne to the first read
      [0x31, 0xc9, 0x48, 0xb8, 0xa5, 0xa5, 0xa5, 0xa5, 0xa5, 0xa5, 0xa5, 0xa5], // xor %ecx,%ecx; movabs $0xa5a5…,%rax
      [0x88, 0x04, 0x0b, 0x66, 0x89, 0x04, 0x0b], // mov %al,(%rbx,%rcx); mov %ax,…
      [0x89, 0x04, 0x0b, 0x48, 0x89, 0x04, 0x0b], // mov %eax,…; mov %rax,…
      [0xff, 0xc1, 0x81, 0xf9, 0x00, 0x10, 0x00, 0x00, 0x75, 0xe8], // inc %ecx; cmp $0x1000,%ecx; jne to the first write
      [0xc6, 0x04, 0x25, 0x00, 0xff, 0x1f, 0x00, 0x01, 0xeb, 0xfe], // movb $1,FINISHED
    );
    await using vm = await machine(everyWidth, { entry: 'long', devices: [words] });
    const { fields } = vm.device('words');
    await vm.start();
    await finished(vm, FINISHED);
    // Bytes of no register read as ones, and so do those beyond the device.
    const byte = (offset: number): number => (offset < 15 ? 0x11 * (offset + 1) : offset === 15 ? 0 : 0xff);
    for (const offset of upTo(0x1000)) {
      const slot = [1, 2, 4, 8].map((size) => {
        const at = RESULTS + offset * 16 + (size === 1 ? 0 : size);
        return [...vm.memory.window(at, size)];
      });
      const expected = [1, 2, 4, 8].map((size) => upTo(size).map((i) => byte(offset + i)));
      expect(slot, `offset 0x${offset.toString(16)}`).toEqual(expected);
    }
    expect(Object.values(fields).map((field) => field.get())).toEqual([0, 0, 0, 0].map(() => 0xa5a5_a5a5));
  });
});

describe.skipIf(noKvm)('case 31: "EINTR storm … on every thread … → no wrong result"', () => {
  // Scaled down: on the emulated host, with its one processor, a fast storm is all that would run.
  const count = isEmulated ? 300 : 5000;
  const pause = isEmulated ? 10 : 0.1;

  /** Does the action while signals rage; in a soak again and again, until the whole minute is over. */
  async function inStorm(action: () => Promise<void>): Promise<void> {
    const program = fileURLToPath(new URL('../support/signal-storm.js', import.meta.url));
    // The signal has its handler from the first machine of a process on; without one it would end us.
    await using _ = await machine(guest([0xeb, 0xfe]), {}); // jmp to itself
    const storm = fork(program, [process.pid, kickSignal(), pause].map(String));
    const until = Date.now() + amount(0, 60_000);
    try {
      await once(storm, 'message');
      do await action();
      while (Date.now() < until);
      expect(storm.exitCode).toBeNull();
    } finally {
      storm.kill('SIGKILL');
      await once(storm, 'exit');
    }
  }

  const timeout = amount(60_000, 240_000);

  test('registers, closures, the console and the wait between threads', { timeout }, async () => {
    const last = count - 1;
    const working = guest(
      [0xba, 0x00, 0x05, 0x66, 0xed, 0x66, 0x89, 0xc1], // mov $0x500,%dx; in %dx,%eax; mov %eax,%ecx
      [0xba, 0x10, 0x05, 0x66, 0xef], // mov $0x510,%dx; out %eax,%dx
      [0xba, 0xfd, 0x03, 0xec, 0xa8, 0x20, 0x74, 0xfb], // mov $0x3fd,%dx; in %dx,%al; test $0x20,%al; jz to in
      [0xba, 0xf8, 0x03, 0x88, 0xc8, 0xee], // mov $0x3f8,%dx; mov %cl,%al; out %al,%dx
      [0x66, 0x81, 0xf9, last & 0xff, last >> 8, 0, 0], // cmp $last,%ecx
      [0x75, 0xdc], // jne to the start
      [0xb0, 0x05, 0xe6, 0xf4, 0xeb, 0xfe], // mov $5,%al; out %al,$0xf4
    );
    await inStorm(async () => {
      const record = recorder();
      await using vm = await machine(working, { devices: [ticket, record], consoleOverflow: 'wait' });
      const printed: Buffer[] = [];
      vm.console.output.on('data', (bytes: Buffer) => printed.push(bytes));
      await vm.start();
      expect(await vm.outcome).toEqual({ kind: 'debug-exit', value: 5 });
      expect(record.values).toEqual(upTo(count));
      expect(Array.from(Buffer.concat(printed))).toEqual(upTo(count).map((i) => i & 0xff));
      const interrupted = vm.report().vcpus.reduce((sum, vcpu) => sum + vcpu.interrupted, 0);
      expect(interrupted).toBeGreaterThan(0);
    });
  });

  test('a disk: every sector is where it was written, once', { timeout }, async () => {
    const sectors = isEmulated ? 20 : 500;
    const path = join(mkdtempSync(join(tmpdir(), 'storm-')), 'disk');
    const [HEADER, BYTES, STATUS, COUNTER] = [DATA, DATA + 1024, DATA + 2048, DATA + 3072];
    try {
      await inStorm(async () => {
        writeFileSync(path, Buffer.alloc(sectors * 512));
        await using vm = await createVm({ ...scriptMachine(), disks: [{ path }] });
        const script = new Script(vm.memory);
        const hands = script.hands(0, new TestDevice().offer);
        vm.memory.writeU32(HEADER, REQUEST.OUT);
        vm.memory.writeU64(HEADER + 8, BigInt(sectors));
        vm.memory.fill(STATUS, 1, 0xff);
        const queue = layOut(hands, 0x10_0000);
        const buffers = [
          { gpa: HEADER, length: 16 },
          { gpa: BYTES, length: 512 },
          { gpa: STATUS, length: 1, writable: true },
        ];
        const head = queue.build(buffers);
        for (let i = 0; i < queue.size; i++) vm.memory.writeU16(queue.avail + 4 + 2 * i, head);
        begin(hands, [queue]);
        // From the last sector to the first, each with its number + 1.
        vm.memory.writeU32(BYTES, sectors + 1);
        script.loop(sectors, COUNTER, () => {
          script.add('add32', HEADER + 8, -1);
          script.add('add32', BYTES, -1);
          script.add('add16', queue.avail + 2, 1);
          hands.write(REG.QueueNotify, 0);
          script.add('waitSame', queue.used + 2, queue.avail + 2);
        });
        await runScript(vm, script);
        expect(vm.memory.readU8(STATUS)).toBe(ANSWER.OK);
        const written = readFileSync(path);
        expect(upTo(sectors).map((i) => written.readUInt32LE(512 * i))).toEqual(upTo(sectors).map((i) => i + 1));
        expect(vm.report().virtio[0]).toMatchObject({ needsReset: 0, dropped: 0 });
      });
    } finally {
      rmSync(dirname(path), { recursive: true });
    }
  });
});

/** The signal of the kick, which has a handler without SA_RESTART: every system call that it meets ends. */
function kickSignal(): number {
  const caught = /^SigCgt:\s*([0-9a-f]+)$/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1] ?? '0';
  const { SIGURG, SIGSTKFLT, SIGPWR } = constants.signals;
  const signal = [SIGURG, SIGSTKFLT, SIGPWR].find((it) => ((BigInt(`0x${caught}`) >> BigInt(it - 1)) & 1n) === 1n);
  if (signal === undefined) throw new Error(`no signal of the kick has a handler (SigCgt ${caught})`);
  return signal;
}
