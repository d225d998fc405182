// The real-time clock: the host's time in every format, a consistent second, the time that a guest sets, memory sizes.
// Motorola MC146818A data sheet; quotations are from there unless marked.
import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { cmosMemoryBytes } from '../../../../src/devices/legacy/cmos-memory.js';
import { createCmosRtc } from '../../../../src/devices/legacy/cmos-rtc.js';
import { RegisterFile } from '../../../../src/devices/register-file.js';

const GIB = 2 ** 30;

function make(iso: string, memoryBytes = 128 << 20) {
  const registers = RegisterFile.create(8192);
  const clock = { time: Date.parse(iso), now: () => clock.time };
  const rtc = createCmosRtc(registers, clock, memoryBytes);
  const read = (index: number): number => {
    rtc.write(0, 1, index);
    return rtc.read(1, 1);
  };
  const write = (index: number, value: number): void => {
    rtc.write(0, 1, index);
    rtc.write(1, 1, value);
  };
  const time = (): number[] => [0x32, 9, 8, 7, 4, 2, 0].map(read);
  return { rtc, clock, read, write, time, registers };
}

describe('time', () => {
  test("the host's time in UTC, BCD and 24 hours as firmware leaves it; Sunday is 1", () => {
    const { time, read } = make('2026-11-22T23:58:59.100Z');
    expect(time()).toEqual([0x20, 0x26, 0x11, 0x22, 0x23, 0x58, 0x59]);
    expect(read(6)).toBe(1);
  });

  test.each([
    ['00:00', 0x02, 0x00],
    ['13:00', 0x06, 13],
    ['00:00', 0x00, 0x12],
    ['11:00', 0x00, 0x11],
    ['12:00', 0x00, 0x92],
    ['23:00', 0x00, 0x91],
    ['23:00', 0x04, 0x8b],
  ])('hours at %s with register B %d', (hour, statusB, expected) => {
    const { read, write } = make(`2026-01-02T${hour}:00Z`);
    write(0x0b, statusB);
    expect(read(4)).toBe(expected);
  });

  test('"The update in progress (UIP) bit … when UIP is a 0 the update cycle is not in progress and will not be soon"', () => {
    const { read, clock } = make('2026-01-02T03:04:59.000Z');
    for (let millisecond = 0; millisecond < 1000; millisecond++) {
      clock.time = Date.parse('2026-01-02T03:04:59.000Z') + millisecond;
      const isUpdating = (read(0x0a) & 0x80) !== 0;
      // Clear means: there are at least 2 ms left to read all registers of the same second.
      expect(isUpdating).toBe(millisecond >= 998);
    }
    expect(read(0x0a) & 0x7f).toBe(0x26);
  });

  test('registers C and D: no interrupt flags, "valid RAM and time"; both read-only', () => {
    const { read, write } = make('2026-01-02T03:04:05Z');
    write(0x0c, 0xff);
    write(0x0d, 0);
    expect([read(0x0c), read(0x0d)]).toEqual([0, 0x80]);
  });

  test('"When the SET bit is written to a 1, any update cycle in progress is aborted, and the program may initialize the time": the guest\'s own offset', () => {
    const { read, write, time, clock, registers } = make('2026-11-23T12:00:00.250Z');
    write(0x0b, 0x82);
    clock.time += 5000;
    expect([read(0), read(0x0a) & 0x80]).toEqual([0, 0]);
    for (const [index, value] of [
      [0x32, 0x19],
      [9, 0x99],
      [8, 0x12],
      [7, 0x31],
      [4, 0x23],
      [2, 0x59],
      [0, 0x58],
    ] as const)
      write(index, value);
    write(0x0b, 0x02);
    expect(time()).toEqual([0x19, 0x99, 0x12, 0x31, 0x23, 0x59, 0x58]);
    clock.time += 3000;
    expect(time()).toEqual([0x20, 0x00, 0x01, 0x01, 0x00, 0x00, 0x01]);
    // The offset is in the register file: another thread shows the same time.
    const other = createCmosRtc(RegisterFile.attach(registers.share()), clock, 128 << 20);
    other.write(0, 1, 9);
    expect(other.read(1, 1)).toBe(0x00);
  });

  test('what is no time changes nothing when SET is cleared', () => {
    const { write, time } = make('2026-11-23T12:00:00Z');
    write(0x0b, 0x82);
    write(8, 0x13);
    write(0x0b, 0x02);
    expect(time()).toEqual([0x20, 0x26, 0x11, 0x23, 0x12, 0x00, 0x00]);
  });

  test('any time, in any format, is read back as it was set', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: Date.parse('1990-01-01Z') / 1000, max: Date.parse('2068-01-01Z') / 1000 }),
        fc.constantFrom(0, 2, 4, 6),
        (seconds, statusB) => {
          const [source, target] = [make(new Date(seconds * 1000).toISOString()), make('2026-11-23T12:00:00.700Z')];
          for (const { write } of [source, target]) write(0x0b, statusB);
          const indices = [0x32, 9, 8, 7, 6, 4, 2, 0];
          target.write(0x0b, statusB | 0x80);
          for (const index of indices) target.write(index, source.read(index));
          target.write(0x0b, statusB);
          target.clock.time += 300;
          expect(indices.map(target.read)).toEqual(indices.map(source.read));
        },
      ),
    );
  });
});

describe('RAM', () => {
  test('bit 7 of the index port, the NMI mask, is no part of the address', () => {
    const { rtc, read } = make('2026-01-02T03:04:05Z');
    rtc.write(0, 1, 0x80 | 0x50);
    rtc.write(1, 1, 0x77);
    expect(read(0x50)).toBe(0x77);
  });

  test('alarm registers and plain RAM only store', () => {
    const { read, write } = make('2026-01-02T03:04:05Z');
    for (const index of [1, 3, 5, 0x0e, 0x0f, 0x7f]) write(index, 0xc0 | (index & 0x3f));
    for (const index of [1, 3, 5, 0x0e, 0x0f, 0x7f]) expect(read(index)).toBe(0xc0 | (index & 0x3f));
  });

  test.each([
    [64 << 20, 640, 63 << 10, 768, 0],
    [8 << 20, 640, 7 << 10, 0, 0],
    [3 * GIB, 640, 0xffff, (3 * GIB - (16 << 20)) >>> 16, 0],
    [8 * GIB, 640, 0xffff, (3 * GIB - (16 << 20)) >>> 16, (5 * GIB) / 65536],
  ])('%d bytes of RAM', (bytes, base, extended, above16, above4) => {
    const { read } = make('2026-01-02T03:04:05Z', bytes);
    const word = (index: number): number => read(index) | (read(index + 1) << 8);
    expect([word(0x15), word(0x17), word(0x30), word(0x34), word(0x5b) | (read(0x5d) << 16)]).toEqual([
      base,
      extended,
      extended,
      above16,
      above4,
    ]);
  });

  test('a tiny machine has no negative sizes', () => {
    expect(cmosMemoryBytes(65_536).every(([, byte]) => byte >= 0 && byte <= 0xff)).toBe(true);
    expect(cmosMemoryBytes(65_536).slice(0, 4)).toEqual([
      [0x15, 64],
      [0x16, 0],
      [0x17, 0],
      [0x18, 0],
    ]);
  });
});

test('both ports with 1, 2 and 4 bytes, every index: nothing throws', () => {
  const { rtc } = make('2026-01-02T03:04:05Z');
  for (let index = 0; index < 256; index++) {
    rtc.write(0, 1, index);
    for (const offset of [0, 1]) {
      for (const size of [1, 2, 4]) {
        const value = rtc.read(offset, size);
        expect(Number.isInteger(value) && value >= 0 && value < 2 ** (8 * size)).toBe(true);
        rtc.write(offset, size, 0xffff_ffff);
      }
    }
  }
});
