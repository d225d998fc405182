// Guest RAM: every access inside a region works, every other one throws, whatever number is the address.
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { GuestAddressError, GuestMemory } from '../../../src/memory/guest-memory.js';
import { HIGH_RAM_START, LOW_RAM_END, ramRanges } from '../../../src/memory/layout.js';

const SIZE = 0x2_0000;

/** Two regions with a hole, small: what 8 GiB look like, without the gigabytes. */
function holed(): GuestMemory {
  const low = GuestMemory.create(SIZE).regions[0];
  const high = GuestMemory.create(SIZE).regions[0];
  if (!low || !high) throw new Error('GuestMemory.create made no region');
  return GuestMemory.attach({
    regions: [
      { base: 0, buffer: low.buffer },
      { base: HIGH_RAM_START, buffer: high.buffer },
    ],
  });
}

describe('GuestMemory', () => {
  it('"numbers are little-endian, at any alignment"', () => {
    const memory = GuestMemory.create(SIZE);
    for (const at of [0x1000, 0x1001, 0x1003, 0x1007]) {
      memory.writeU64(at, 0x8877_6655_4433_2211n);
      expect([...memory.read(at, 8)]).toEqual([0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88]);
      expect(memory.readU32(at)).toBe(0x4433_2211);
      expect(memory.readU16(at + 2)).toBe(0x4433);
      expect(memory.readU8(at + 7)).toBe(0x88);
    }
  });

  it('"every access is checked against the regions"', () => {
    const memory = holed();
    const anyGpa = fc.oneof(
      fc.integer({ min: -8, max: SIZE + 8 }),
      fc.integer({ min: HIGH_RAM_START - 8, max: HIGH_RAM_START + SIZE + 8 }),
      fc.double(),
      fc.constantFrom(Number.NaN, -1, 0.5, 2 ** 53, 2 ** 64, Infinity, -Infinity, -0),
    );
    const anyLength = fc.oneof(
      fc.integer({ min: 0, max: SIZE + 8 }),
      fc.constantFrom(Number.NaN, -1, 2 ** 53, Infinity),
    );
    fc.assert(
      fc.property(anyGpa, anyLength, (gpa, length) => {
        const inside = [0, HIGH_RAM_START].some(
          (base) => Number.isSafeInteger(gpa) && gpa >= base && length >= 0 && gpa + length <= base + SIZE,
        );
        expect(memory.contains(gpa, length)).toBe(inside);
        if (inside && Number.isInteger(length)) expect(memory.window(gpa, length).byteLength).toBe(length);
        else if (!inside) expect(() => memory.window(gpa, length)).toThrow(GuestAddressError);
      }),
    );
  });

  it('"an access across the end of a region" is refused, and writes nothing', () => {
    const memory = holed();
    const calls: readonly ((gpa: number) => unknown)[] = [
      (gpa) => memory.writeU64(gpa, ~0n),
      (gpa) => memory.writeU32(gpa, ~0),
      (gpa) => memory.writeU16(gpa, ~0),
      (gpa) => memory.write(gpa, new Uint8Array(2).fill(255)),
      (gpa) => memory.fill(gpa, 2, 255),
      (gpa) => memory.readU64(gpa),
      (gpa) => memory.readU16(gpa),
    ];
    for (const call of calls) {
      expect(() => call(SIZE - 1)).toThrow(GuestAddressError);
      expect(() => call(HIGH_RAM_START - 1)).toThrow(GuestAddressError);
      expect(() => call(HIGH_RAM_START + SIZE - 1)).toThrow(GuestAddressError);
    }
    expect(memory.readU8(SIZE - 1)).toBe(0);
    expect(memory.readU8(HIGH_RAM_START)).toBe(0);
  });

  it('"the same RAM in another thread, from what share() gave"', () => {
    const memory = GuestMemory.create(SIZE);
    const other = GuestMemory.attach(structuredClone(memory.share()));
    memory.writeU32(0x1234, 0xdead_beef);
    expect(other.readU32(0x1234)).toBe(0xdead_beef);
    other.window(0x1234, 4).fill(0);
    expect(memory.readU32(0x1234)).toBe(0);
  });

  it('"read: a copy", window: "the bytes themselves"', () => {
    const memory = GuestMemory.create(SIZE);
    const copy = memory.read(16, 4);
    const window = memory.window(16, 4);
    memory.writeU8(16, 7);
    expect(copy[0]).toBe(0);
    expect(window[0]).toBe(7);
  });

  it.each([0, -65536, 1, 4096, 65535, Number.NaN, Infinity, 2 ** 64])(
    '"a positive multiple of 64 KiB", not %d',
    (bytes) => {
      expect(() => GuestMemory.create(bytes)).toThrow(RangeError);
    },
  );

  it('"RAM … in one region per stretch", 8 GiB around the 32-bit hole', () => {
    const memory = GuestMemory.create(8 * 2 ** 30);
    expect(memory.size).toBe(8 * 2 ** 30);
    expect(memory.regions.map(({ base, size }) => [base, size])).toEqual([
      [0, LOW_RAM_END],
      [HIGH_RAM_START, LOW_RAM_END],
      [HIGH_RAM_START + LOW_RAM_END, 8 * 2 ** 30 - 2 * LOW_RAM_END],
    ]);
    memory.writeU8(HIGH_RAM_START + 5 * 2 ** 30 - 1, 1);
    expect(() => memory.readU8(LOW_RAM_END)).toThrow(GuestAddressError);
    expect(() => memory.readU8(HIGH_RAM_START + 5 * 2 ** 30)).toThrow(GuestAddressError);
  });
});

describe('ramRanges', () => {
  it('"splits RAM around the 32-bit hole" without losing, doubling or misplacing a byte', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 1 << 20 }), (units) => {
        const ranges = ramRanges(units * 65536);
        expect(ranges.reduce((sum, { size }) => sum + size, 0)).toBe(units * 65536);
        for (const [i, { base, size }] of ranges.entries()) {
          expect(base + size <= LOW_RAM_END || base >= HIGH_RAM_START).toBe(true);
          const previous = ranges[i - 1];
          if (previous) expect(base).toBeGreaterThanOrEqual(previous.base + previous.size);
        }
      }),
    );
  });
});
