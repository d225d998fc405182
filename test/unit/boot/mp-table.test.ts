// The MP table, read back the way a kernel does: find the pointer, walk the entries, believe only what sums to zero.
import { describe, expect, it } from 'vitest';
import { byteSum } from '../../../src/boot/checksum.js';
import { MP_CPUS_MAX, mpTable } from '../../../src/boot/mp-table.js';
import { GSI, MP_TABLE, VIDEO_HOLE } from '../../../src/memory/layout.js';
import { boot, bootError } from '../../support/boot.js';

interface Entry {
  readonly type: number;
  readonly bytes: readonly number[];
}

/** Walks the table as the specification says: processor entries have 20 bytes, all others 8. */
function walk(blob: Uint8Array): { count: number; lapic: number; entries: Entry[] } {
  const view = new DataView(blob.buffer, blob.byteOffset);
  const start = view.getUint32(4, true) - MP_TABLE;
  const length = view.getUint16(start + 4, true);
  const entries: Entry[] = [];
  for (let at = start + 44; at < start + length;) {
    const type = blob[at] ?? -1;
    const size = type === 0 ? 20 : 8;
    entries.push({ type, bytes: [...blob.subarray(at, at + size)] });
    at += size;
  }
  return { count: view.getUint16(start + 34, true), lapic: view.getUint32(start + 36, true), entries };
}

describe('the MP table', () => {
  it('"all bytes … including CHECKSUM … must add up to zero", the pointer\'s and the table\'s', () => {
    for (const cpus of [1, 2, 8, MP_CPUS_MAX]) {
      const blob = mpTable(cpus);
      expect(Buffer.from(blob.subarray(0, 4)).toString()).toBe('_MP_');
      expect(Buffer.from(blob.subarray(16, 20)).toString()).toBe('PCMP');
      expect(byteSum(blob.subarray(0, 16))).toBe(0);
      expect(byteSum(blob.subarray(16))).toBe(0);
    }
  });

  it('counts its entries, sorted "by entry type in ascending order"', () => {
    const { count, entries, lapic } = walk(mpTable(4));
    expect(count).toBe(entries.length);
    expect(lapic).toBe(0xfee0_0000);
    const types = entries.map(({ type }) => type);
    expect(types).toEqual(types.toSorted((a, b) => a - b));
  });

  it('names each processor by its APIC id, the first as the bootstrap processor', () => {
    const processors = walk(mpTable(3)).entries.filter(({ type }) => type === 0);
    expect(processors.map(({ bytes }) => [bytes[1], bytes[3]])).toEqual([
      [0, 3],
      [1, 1],
      [2, 1],
    ]);
  });

  it('wires bus interrupt n to pin n, edge-triggered and active-high, for every pin but the cascade', () => {
    const interrupts = walk(mpTable(1)).entries.filter(({ type }) => type === 3);
    const pins = Array.from({ length: GSI.COUNT }, (_, pin) => pin).filter((pin) => pin !== 2);
    expect(interrupts.map(({ bytes }) => bytes)).toEqual(pins.map((pin) => [3, 0, 5, 0, 0, pin, 0, pin]));
  });

  it('wires ExtINT to LINT0 of the bootstrap processor and NMI to LINT1 of all', () => {
    const local = walk(mpTable(2)).entries.filter(({ type }) => type === 4);
    expect(local.map(({ bytes }) => bytes)).toEqual([
      [4, 3, 0, 0, 0, 0, 0, 0],
      [4, 1, 0, 0, 0, 0, 0xff, 1],
    ]);
  });

  it('ends below the video hole, and says so when it cannot', () => {
    expect(mpTable(MP_CPUS_MAX).byteLength).toBeLessThanOrEqual(VIDEO_HOLE - MP_TABLE);
    expect(bootError(() => mpTable(MP_CPUS_MAX + 1))).toMatchObject({ field: 'cpus' });
  });

  it('lies "within the first kilobyte of Extended BIOS Data Area", to which the BIOS data area points', () => {
    const { memory } = boot(Uint8Array.of(0xf4), { entry: 'protected' });
    const ebda = memory.readU16(0x40e) * 16;
    expect(Buffer.from(memory.read(ebda, 4)).toString()).toBe('_MP_');
    expect(memory.readU16(0x413)).toBe(ebda / 1024);
  });
});
