// Coalesced writes against the real kernel and through the real run loop: in order, and none lost when the ring is full.
// KVM API 4.116 (KVM_REGISTER_COALESCED_MMIO); Intel SDM volume 2 for the guests' bytes.
import { describe, expect, it } from 'vitest';
import { Bus } from '../../src/devices/bus.js';
import { COALESCED_RING_ENTRIES } from '../../src/kvm/kvm-run.js';
import type { VmFd } from '../../src/kvm/vm-fd.js';
import { CoalescedRing } from '../../src/vcpu/coalesced-ring.js';
import { ExitStatistics } from '../../src/vcpu/observe/statistics.js';
import { Vcpu } from '../../src/vcpu/vcpu.js';
import { noKvm } from '../support/kvm.js';
import { microGuest } from './micro-guest.js';

const PORT = 0x50;
const OTHER_PORT = 0x60;
/** The first address above the guest's RAM. */
const DEVICE = 0x10_0000;
const ROUNDS = 1000;
const HLT = 0xf4;

/** mov ax, 0xffff; mov ds, ax: offset 0x10 of the data segment is DEVICE; xor ax, ax; mov cx, ROUNDS */
const PROLOGUE = [0xb8, 0xff, 0xff, 0x8e, 0xd8, 0x31, 0xc0, 0xb9, ROUNDS & 0xff, ROUNDS >> 8];
const OUT_PORT = [0xe7, PORT];
const OUT_OTHER = [0xe7, OTHER_PORT];
/** mov [0x10], ax */
const STORE_DEVICE = [0xa3, 0x10, 0x00];

/** The prologue, then `body` ROUNDS times with AX counting up, then HLT. */
function counting(body: readonly number[]): number[] {
  const round = [...body, 0x40]; // inc ax
  return [...PROLOGUE, ...round, 0xe2, 0x100 - round.length - 2, HLT]; // loop
}

function run(body: readonly number[], prepare: (vm: VmFd) => void): { writes: string[]; exits: number } {
  using guest = microGuest({ code: counting(body) });
  prepare(guest.vm);
  const writes: string[] = [];
  const handler = (name: string) => ({
    name,
    read: () => 0,
    write: (_offset: number, size: number, value: number) => void writes.push(`${name}${size} ${value}`),
  });
  const pio = Bus.ports();
  pio.attach(PORT, 2, handler('port'));
  pio.attach(OTHER_PORT, 2, handler('other'));
  const mmio = Bus.mmio();
  mmio.attach(DEVICE, 4096, handler('device'));
  const statistics = new ExitStatistics(ExitStatistics.allocate());
  const coalesced = new CoalescedRing(guest.vcpu, new Int32Array(1), pio, mmio);
  expect(new Vcpu({ fd: guest.vcpu, pio, mmio, statistics, coalesced }).run()).toEqual({ kind: 'hlt' });
  return { writes, exits: statistics.entries };
}

const expected = (...names: readonly string[]): string[] =>
  Array.from({ length: ROUNDS }, (_, i) => names.map((name) => `${name} ${i}`)).flat();

const coalescePort = (vm: VmFd): void => vm.registerCoalescedMmio({ address: PORT, size: 2, pio: true });
const coalesceDevice = (vm: VmFd): void => vm.registerCoalescedMmio({ address: DEVICE, size: 4096 });

describe.skipIf(noKvm)('writes to a coalesced zone', () => {
  it('of ports arrive in order, and "none lost when the ring overflows": the write that found it full exits', () => {
    const { writes, exits } = run(OUT_PORT, coalescePort);
    expect(writes).toEqual(expected('port2'));
    // One exit each time the ring is full, and the HLT.
    expect(exits).toBeGreaterThan(ROUNDS / COALESCED_RING_ENTRIES);
    expect(exits).toBeLessThan(ROUNDS / 10);
  });

  it('of MMIO arrive in order, and none is lost', () => {
    const { writes, exits } = run(STORE_DEVICE, coalesceDevice);
    expect(writes).toEqual(expected('device2'));
    expect(exits).toBeLessThan(ROUNDS / 10);
  });

  it('of both kinds keep their order to each other: it is one ring', () => {
    const { writes } = run([...OUT_PORT, ...STORE_DEVICE], (vm) => {
      coalescePort(vm);
      coalesceDevice(vm);
    });
    expect(writes).toEqual(expected('port2', 'device2'));
  });

  it('come before a later write that exits: the ring is "drained before every dispatch"', () => {
    const { writes, exits } = run([...OUT_PORT, ...OUT_OTHER], coalescePort);
    expect(writes).toEqual(expected('port2', 'other2'));
    expect(exits).toBeGreaterThanOrEqual(ROUNDS);
  });
});
