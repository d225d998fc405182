// The debugger on the real KVM, with guests of a few bytes: what it plants, where it stops, and what it leaves behind.
// What a host's KVM lacks is stepped instead, so the same results are asked for on every host but where it says so.
import { existsSync, mkdtempSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { buildLesson } from '../../guests/ladder/build.js';
import { createVm, System, Vcpu, type Vm, type VmConfig } from '../../src/index.js';
import { createAssist } from '../../src/vcpu/assist/assist.js';
import { MICRO_CODE, MicroGuest } from '../../src/vcpu/assist/micro-guest.js';
import { presentQuirks, probeQuirks } from '../../src/vcpu/assist/probe.js';
import { Debugger, NO_DEBUGGER } from '../../src/vcpu/debugger.js';
import { GuestDebug } from '../../src/vcpu/guest-debug.js';
import { gdbClient, packet, type GdbClient } from '../support/gdb-client.js';
import { noKvm } from '../support/kvm.js';
import { debugFacilities } from '../../src/machine/host-quirks.js';
import type { DebugFacilities } from '../../src/vcpu/gdb/points.js';

/** Protected mode at 1 MiB: incl 0x600; nop; nop; jmp to incl. */
const COUNT = Uint8Array.of(0xff, 0x05, 0x00, 0x06, 0, 0, 0x90, 0x90, 0xeb, 0xf6);
const LOAD = 0x10_0000;
const NOP = LOAD + 6;
const JMP = LOAD + 8;
/** ud2 with an empty IDT. */
const TRIPLE_FAULT = Uint8Array.of(0x90, 0x0f, 0x0b);
/** Register numbers of gdb's x86-64. */
const RAX = 0;
const RIP = 0x10;

const hex = (value: number): string => value.toString(16);
const little = (value: number): string => Buffer.from(new BigUint64Array([BigInt(value)]).buffer).toString('hex');

async function debugged(
  bytes: Uint8Array,
  more: Partial<VmConfig> = {},
): Promise<{ readonly vm: Vm; readonly gdb: GdbClient }> {
  const vm = await createVm({
    kernel: { name: 'gdb', bytes },
    entry: 'protected',
    cmdline: '',
    memoryMiB: 4,
    gdb: { listen: 0, wait: true },
    ...more,
  });
  const gdb = await gdbClient(vm.gdbAddress ?? '');
  await vm.start();
  return { vm, gdb };
}

async function rip(gdb: GdbClient): Promise<number> {
  return Number(Buffer.from(await gdb.ask(`p${hex(RIP)}`), 'hex').readBigUInt64LE());
}

const counter = (vm: Vm): number => vm.memory.readU32(0x600);

async function untilCounts(vm: Vm): Promise<void> {
  const before = counter(vm);
  while (counter(vm) === before) await sleep(2);
}

describe.skipIf(noKvm)('the debugger', () => {
  let facilities: DebugFacilities;

  beforeAll(() => {
    using system = System.open();
    facilities = debugFacilities(system, presentQuirks(probeQuirks(system, { only: 'run' })));
  });

  it('"--wait": the guest does nothing until gdb lets it, and its registers and memory are there', async () => {
    const { vm, gdb } = await debugged(COUNT);
    await using _ = vm;
    expect(await gdb.ask('?')).toBe('T02thread:1;');
    expect(await rip(gdb)).toBe(LOAD);
    expect(await gdb.ask(`m${hex(LOAD)},a`)).toBe(Buffer.from(COUNT).toString('hex'));
    expect(await gdb.ask(`P${hex(RAX)}=${little(0x1122)}`)).toBe('OK');
    expect(await gdb.ask(`p${hex(RAX)}`)).toBe(little(0x1122));
    expect(await gdb.ask('M700,2:beef')).toBe('OK');
    expect(vm.memory.readU16(0x700)).toBe(0xefbe);
    await sleep(30);
    expect(counter(vm)).toBe(0);
    await expect(vm.resume()).rejects.toThrow('a debugger has stopped the machine');
  });

  it.each([
    ['0', 'a software breakpoint'],
    ['1', 'a hardware breakpoint'],
  ])('Z%s: %s stops at its address each time, and is not seen in memory', async (kind) => {
    const { vm, gdb } = await debugged(COUNT);
    await using _ = vm;
    expect(await gdb.ask(`Z${kind},${hex(NOP)},1`)).toBe('OK');
    for (const count of [1, 2]) {
      expect(await gdb.ask('vCont;c')).toMatch(/^T05thread:1;(swbreak|hwbreak):;$/);
      expect([await rip(gdb), counter(vm)]).toEqual([NOP, count]);
      expect(await gdb.ask(`m${hex(LOAD)},a`)).toBe(Buffer.from(COUNT).toString('hex'));
      // As gdb itself goes on from a breakpoint.
      expect(await gdb.ask(`z${kind},${hex(NOP)},1`)).toBe('OK');
      expect(await gdb.ask('vCont;s:1')).toBe('T05thread:1;');
      expect(await rip(gdb)).toBe(NOP + 1);
      expect(await gdb.ask(`Z${kind},${hex(NOP)},1`)).toBe('OK');
    }
  });

  it('Z2: a watchpoint stops after the write, where the host can, and else is said to be missing', async () => {
    const { vm, gdb } = await debugged(COUNT);
    await using _ = vm;
    const can = facilities.watchpoints || facilities.steps;
    expect(await gdb.ask('Z2,600,4')).toBe(can ? 'OK' : '');
    if (!can) return;
    expect(await gdb.ask('vCont;c')).toBe('T05thread:1;watch:600;');
    expect([await rip(gdb), counter(vm)]).toEqual([NOP, 1]);
  });

  it('vCont;s executes one instruction', async () => {
    const { vm, gdb } = await debugged(COUNT);
    await using _ = vm;
    const seen: number[] = [];
    for (let i = 0; i < 5; i++) {
      expect(await gdb.ask('vCont;s:1')).toBe('T05thread:1;');
      seen.push(await rip(gdb));
    }
    expect(seen).toEqual([NOP, NOP + 1, JMP, LOAD, NOP]);
  });

  it('an interrupt (byte 0x03) stops a running guest; a debugger that goes leaves it running as it was', async () => {
    const { vm, gdb } = await debugged(COUNT, { gdb: { listen: 0 } });
    await using _ = vm;
    expect(await gdb.ask(`Z0,${hex(NOP)},1`)).toBe('OK');
    expect(await gdb.ask(`z0,${hex(NOP)},1`)).toBe('OK');
    const stop = gdb.ask('vCont;c');
    await untilCounts(vm);
    gdb.raw('\x03');
    expect(await stop).toBe('T02thread:1;');
    const stopped = counter(vm);
    await sleep(30);
    expect(counter(vm)).toBe(stopped);
    expect(await gdb.ask(`Z0,${hex(NOP)},1`)).toBe('OK');
    gdb[Symbol.dispose]();
    await untilCounts(vm);
    expect(Buffer.from(vm.memory.read(LOAD, COUNT.length))).toEqual(Buffer.from(COUNT));
  });

  it('an interrupt right behind a continue stops the guest, though no vCPU runs yet', async () => {
    const { vm, gdb } = await debugged(COUNT, { gdb: { listen: 0 } });
    await using _ = vm;
    for (let i = 0; i < 5; i++) {
      gdb.raw(`${packet('vCont;c')}\x03`);
      expect(await gdb.reply()).toBe('T02thread:1;');
      const stopped = counter(vm);
      await sleep(30);
      expect(counter(vm)).toBe(stopped);
    }
    gdb[Symbol.dispose]();
    await untilCounts(vm);
  });

  it('D lets the guest go, and the next debugger can come', async () => {
    const { vm, gdb } = await debugged(COUNT);
    await using _ = vm;
    expect(await gdb.ask('D')).toBe('OK');
    await gdb.closed;
    await untilCounts(vm);
    using next = await gdbClient(vm.gdbAddress ?? '');
    expect(await next.ask('?')).toBe('T02thread:1;');
    using third = await gdbClient(vm.gdbAddress ?? '');
    await third.closed;
    expect(await next.ask('k')).toBe('');
    expect(await vm.outcome).toEqual({ kind: 'stopped', by: 'host' });
  });

  it('"threads for vCPUs": they are listed by name, and one steps while the other stands', async () => {
    const { vm, gdb } = await debugged(COUNT, { cpus: 2 });
    await using _ = vm;
    expect(await gdb.ask('qfThreadInfo')).toBe('m1,2');
    expect(await gdb.ask('qXfer:threads:read::0,1000')).toContain('<thread id="2" core="1" name="vCPU 1"/>');
    expect(await gdb.ask('Hg2')).toBe('OK');
    // The reset vector, where an application processor waits for its SIPI.
    expect(await rip(gdb)).toBe(0xfff0);
    expect(await gdb.ask('vCont;s:1')).toBe('T05thread:1;');
    expect(await rip(gdb)).toBe(NOP);
  });

  it('a breakpoint of the second processor stops both, and each is seen where it is', async () => {
    // Stepping two processors through the first one's waits would take minutes.
    if (!facilities.int3 && facilities.registers === 0) return;
    const image = buildLesson('09-two-cpus', LOAD);
    // mov $ap_stack,%esp, the second processor's, behind the first one's mov $stack,%esp.
    const MOV_ESP = 0xbc;
    const second = LOAD + image.indexOf(MOV_ESP, image.indexOf(MOV_ESP) + 5);
    const { vm, gdb } = await debugged(image, { cpus: 2, memoryMiB: 8 });
    await using _ = vm;
    vm.console.output.resume();
    expect(await gdb.ask(`Z0,${hex(second)},1`)).toBe('OK');
    expect(await gdb.ask('vCont;c')).toBe('T05thread:2;swbreak:;');
    expect(await rip(gdb)).toBe(second);
    expect(await gdb.ask('Hg1')).toBe('OK');
    const first = await rip(gdb);
    expect(first).toBeLessThan(LOAD + image.length);
    expect(await gdb.ask(`z0,${hex(second)},1`)).toBe('OK');
    expect(await gdb.ask('vCont;s:2')).toBe('T05thread:2;');
    expect(await rip(gdb)).toBe(second + 5);
    expect(await gdb.ask('Hg1')).toBe('OK');
    expect(await rip(gdb)).toBe(first);
    expect(await gdb.ask('vCont;c')).toBe('W01');
  });

  it('a guest that fails waits for the debugger to look at it, and then ends as it would have', async () => {
    const { vm, gdb } = await debugged(TRIPLE_FAULT);
    await using _ = vm;
    expect(await gdb.ask('vCont;c')).toBe('T0bthread:1;');
    expect(await gdb.ask('g')).toMatch(/^[0-9a-f]{1000,}$/);
    expect(await gdb.ask('vCont;c')).toBe('W7d');
    expect(await vm.outcome).toMatchObject({ kind: 'failed', failure: 'triple-fault' });
    await gdb.closed;
  });

  it('a machine that ends says so to gdb: its exit status', async () => {
    // mov $3,%al; out %al,$0xf4
    const { vm, gdb } = await debugged(Uint8Array.of(0xb0, 0x03, 0xe6, 0xf4, 0xeb, 0xfe));
    await using _ = vm;
    expect(await gdb.ask('vCont;c')).toBe('W07');
    expect(await vm.outcome).toEqual({ kind: 'debug-exit', value: 3 });
  });

  it('a peer that does not speak the protocol, such as a browser, is sent away before it is listened to', async () => {
    const warnings: string[] = [];
    const { vm, gdb } = await debugged(COUNT, { onWarning: (message) => void warnings.push(message) });
    await using _ = vm;
    expect(await gdb.ask('D')).toBe('OK');
    await gdb.closed;
    using browser = await gdbClient(vm.gdbAddress ?? '');
    browser.raw('POST / HTTP/1.1\r\n\r\n$M600,4:00000000#00');
    await browser.closed;
    expect(warnings).toEqual(['a peer that does not speak the GDB protocol was sent away']);
    await untilCounts(vm);
  });

  it('a Unix socket is only its owner’s, replaces one that nobody listens on, and is gone with the machine', async () => {
    const directory = mkdtempSync(join(tmpdir(), 'microvisor-gdb-'));
    const path = join(directory, 'gdb.sock');
    const { vm, gdb } = await debugged(COUNT, { gdb: { listen: path, wait: true } });
    expect(vm.gdbAddress).toBe(path);
    expect(statSync(path).mode & 0o777).toBe(0o600);
    await expect(debugged(COUNT, { gdb: { listen: path } })).rejects.toThrow(/EADDRINUSE.*choose another/);
    expect(await gdb.ask('?')).toBe('T02thread:1;');
    await vm.stop();
    expect(existsSync(path)).toBe(false);
    rmSync(directory, { recursive: true });
  });
});

describe.skipIf(noKvm)('breakpoint exceptions', () => {
  let system: System;
  let guest: MicroGuest;

  beforeAll(() => {
    system = System.open();
    guest = new MicroGuest(system, system.supportedCpuid(), 4000);
  });

  afterAll(() => {
    guest.close();
    system.close();
  });

  it('"an int3 that gdb planted goes to gdb", the guest’s own goes to the guest', () => {
    const quirks = presentQuirks(probeQuirks(system));
    if (quirks.includes('breakpoint-exit')) return;
    // nop; int3 (planted); and, where #BP's handler lies, the port write with which it ends.
    guest.prepare({ mode: 'long', cpl: 0, code: [0x90, 0xcc, 0xcc] });
    const { vcpu: fd, memory } = guest;
    const guestDebug = new GuestDebug(fd);
    const debug = new Debugger(fd, memory, guestDebug);
    const ownsInt3 = (linear: bigint): boolean => debug.ownsInt3(linear);
    const assist = quirks.includes('int3')
      ? createAssist({ vcpu: fd, memory, quirks, guestDebug, ownsInt3 })
      : undefined;
    const none = { read: () => 0, write: () => undefined, readLow: () => 0, writeLow: () => undefined };
    let vector: number | undefined;
    const pending = new Int32Array(1);
    const pio = { ...none, writeLow: (port: number) => void ((vector = port), (pending[0] = 1)) };
    const vcpu = new Vcpu({ fd, pio, mmio: none, pending, ...(assist === undefined ? {} : { assist }) });
    debug.set({ ...NO_DEBUGGER, isAttached: true, planted: [MICRO_CODE + 1] });
    expect(debug.claim(vcpu.run())).toEqual({ kind: 'software-breakpoint' });
    expect(fd.getRegs().rip).toBe(BigInt(MICRO_CODE + 1));
    fd.setRegs({ rip: BigInt(MICRO_CODE + 2) });
    let stop = vcpu.run();
    while (debug.claim(stop) === 'go-on') stop = vcpu.run();
    expect([stop.kind, vector]).toEqual(['pending', 3]);
    expect(memory.readU64(Number(fd.getRegs().rsp))).toBe(BigInt(MICRO_CODE + 3));
    debug.set(NO_DEBUGGER);
  });
});
