// The ring of coalesced writes, with this test as the kernel's half of it: order, wrapping, widths, and one drain at a time.
// <linux/kvm.h>, struct kvm_coalesced_mmio_ring; Linux virt/kvm/coalesced_mmio.c for what the kernel does.
import { describe, expect, it } from 'vitest';
import {
  COALESCED_RING_ENTRIES as ENTRIES,
  COALESCED_RING_OFFSET as AT,
  COALESCED_RING_STRIDE as STRIDE,
} from '../../../src/kvm/kvm-run.js';
import { CoalescedRing } from '../../../src/vcpu/coalesced-ring.js';
import type { ExitBus } from '../../../src/vcpu/exit-bus.js';

/** space, address, size, value */
type Write = readonly ['pio' | 'mmio', number, number, number];

interface Rig {
  readonly ring: CoalescedRing;
  readonly lock: Int32Array;
  readonly delivered: Write[];
  /** As the kernel's coalesced_mmio_write. @returns false when the ring is full and the write would exit instead */
  readonly kernelWrites: (pio: boolean, address: number, data: readonly number[]) => boolean;
  /** first and last, as they stand. */
  readonly cursors: () => readonly [number, number];
}

function rig(options: { readonly start?: number; readonly onWrite?: (rig: Rig) => void } = {}): Rig {
  const buffer = new ArrayBuffer(3 * 4096);
  const view = new DataView(buffer);
  const delivered: Write[] = [];
  const bus = (space: 'pio' | 'mmio'): Pick<ExitBus, 'write' | 'writeLow'> => {
    const write = (address: number, size: number, value: number): void => {
      delivered.push([space, address, size, value]);
      options.onWrite?.(result);
    };
    // As a bus has it: the address as a signed integer, and what lies beyond the size does not count.
    return {
      write,
      writeLow: (low, size, bits) => write(low >>> 0, size, Number(BigInt.asUintN(size * 8, BigInt(bits)))),
    };
  };
  const lock = new Int32Array(new SharedArrayBuffer(4));
  view.setUint32(AT.first, options.start ?? 0, true);
  view.setUint32(AT.last, options.start ?? 0, true);
  const result: Rig = {
    ring: new CoalescedRing(
      { run: { i32: new Int32Array(buffer), u8: new Uint8Array(buffer) } },
      lock,
      bus('pio'),
      bus('mmio'),
    ),
    lock,
    delivered,
    kernelWrites(pio, address, data) {
      const first = view.getUint32(AT.first, true);
      const last = view.getUint32(AT.last, true);
      if ((last + 1) % ENTRIES === first) return false;
      const entry = AT.entries + last * STRIDE;
      view.setBigUint64(entry + AT.entry.phys_addr, BigInt(address), true);
      view.setUint32(entry + AT.entry.len, data.length, true);
      view.setUint32(entry + AT.entry.pio, pio ? 1 : 0, true);
      new Uint8Array(buffer, entry + AT.entry.data, 8).set(data);
      view.setUint32(AT.last, (last + 1) % ENTRIES, true);
      return true;
    },
    cursors: () => [view.getUint32(AT.first, true), view.getUint32(AT.last, true)],
  };
  return result;
}

describe('CoalescedRing', () => {
  it('"hands every waiting write to its bus, oldest first"', () => {
    const { ring, delivered, kernelWrites, cursors } = rig();
    kernelWrites(true, 0x80, [1]);
    kernelWrites(false, 0xd000_0000, [2, 0, 0, 0]);
    kernelWrites(true, 0x80, [3]);
    ring.drain();
    expect(delivered).toEqual([
      ['pio', 0x80, 1, 1],
      ['mmio', 0xd000_0000, 4, 2],
      ['pio', 0x80, 1, 3],
    ]);
    expect(cursors()).toEqual([3, 3]);
    ring.drain();
    expect(delivered).toHaveLength(3);
  });

  it('widths: little-endian and unsigned; eight bytes and odd lengths come as bytes, in ascending order', () => {
    const { ring, delivered, kernelWrites } = rig();
    kernelWrites(true, 0x80, [0xff]);
    kernelWrites(true, 0x80, [0xfe, 0xff]);
    kernelWrites(false, 2 ** 40, [0xfd, 0xff, 0xff, 0xff]);
    kernelWrites(false, 0x1000, [1, 2, 3]);
    kernelWrites(false, 0x2000, [1, 2, 3, 4, 5, 6, 7, 8]);
    ring.drain();
    expect(delivered).toEqual([
      ['pio', 0x80, 1, 0xff],
      ['pio', 0x80, 2, 0xfffe],
      ['mmio', 2 ** 40, 4, 0xffff_fffd],
      ...[1, 2, 3].map((byte, i) => ['mmio', 0x1000 + i, 1, byte]),
      ...[1, 2, 3, 4, 5, 6, 7, 8].map((byte, i) => ['mmio', 0x2000 + i, 1, byte]),
    ]);
  });

  it('goes round the end of the ring, and takes a full one', () => {
    const { ring, delivered, kernelWrites, cursors } = rig({ start: ENTRIES - 2 });
    let written = 0;
    while (kernelWrites(true, 0x80, [written & 0xff])) written += 1;
    expect(written).toBe(ENTRIES - 1);
    ring.drain();
    expect(delivered.map(([, , , value]) => value)).toEqual(Array.from({ length: written }, (_, i) => i & 0xff));
    const [first, last] = cursors();
    expect(first).toBe(last);
  });

  it('gives each place back at once, and ends though the guest writes on while it is drained', () => {
    const { ring, delivered, kernelWrites } = rig({ onWrite: (self) => self.kernelWrites(true, 0x80, [9]) });
    kernelWrites(true, 0x80, [1]);
    kernelWrites(true, 0x80, [2]);
    ring.drain();
    expect(delivered.map(([, , , value]) => value)).toEqual([1, 2]);
    ring.drain();
    expect(delivered.map(([, , , value]) => value)).toEqual([1, 2, 9, 9]);
  });

  it('"a vCPU that finds it taken goes on: the other drains"', () => {
    const { ring, lock, delivered, kernelWrites } = rig();
    kernelWrites(true, 0x80, [1]);
    lock[0] = 1;
    ring.drain();
    expect(delivered).toEqual([]);
    expect(lock[0]).toBe(1);
    lock[0] = 0;
    ring.drain();
    expect(delivered).toHaveLength(1);
    expect(lock[0]).toBe(0);
  });

  it('cursors beyond the ring are no way out of it', () => {
    const { ring, delivered } = rig({ start: 0xffff_ffff });
    ring.drain();
    expect(delivered).toEqual([]);
  });
});
