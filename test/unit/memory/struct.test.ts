// Packed structures: what is encoded is decoded again, and nothing beside the given fields changes.
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { defineStruct } from '../../../src/memory/struct.js';

const every = defineStruct('every', 40, {
  a: [0, 'u8'],
  b: [1, 'u16'],
  c: [3, 'u32'],
  d: [7, 'i32'],
  e: [11, 'u64'],
  f: [19, 'i64'],
  g: [27, 'bytes5'],
});

const values = fc.record({
  a: fc.integer({ min: 0, max: 0xff }),
  b: fc.integer({ min: 0, max: 0xffff }),
  c: fc.integer({ min: 0, max: 0xffff_ffff }),
  d: fc.integer({ min: -0x8000_0000, max: 0x7fff_ffff }),
  e: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
  f: fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }),
  g: fc.uint8Array({ minLength: 5, maxLength: 5 }),
});

describe('defineStruct', () => {
  it('"the two directions between bytes and values" are inverse', () => {
    fc.assert(
      fc.property(values, (fields) => {
        expect(every.decode(every.encode(fields))).toEqual(fields);
      }),
    );
  });

  it('"fields not given keep what is there"', () => {
    fc.assert(
      fc.property(values, fc.uint8Array({ minLength: 40, maxLength: 60 }), ({ c }, before) => {
        const after = every.encode({ c }, before.slice());
        expect(after.slice(0, 3)).toEqual(before.slice(0, 3));
        expect(after.slice(7)).toEqual(before.slice(7));
        expect(every.decode(after).c).toBe(c);
      }),
    );
  });

  it('"packed little-endian"', () => {
    expect([...every.encode({ b: 0x1234, c: 0xa0b0_c0d0 }).subarray(0, 7)]).toEqual([
      0, 0x34, 0x12, 0xd0, 0xc0, 0xb0, 0xa0,
    ]);
  });

  it('works on a window that does not start at its buffer', () => {
    const buffer = new Uint8Array(100);
    every.encode({ e: 5n }, buffer.subarray(10, 50));
    expect(buffer[21]).toBe(5);
    expect(every.decode(buffer.subarray(10)).e).toBe(5n);
  });

  it('"bytes fields are copies"', () => {
    const bytes = every.encode({ g: new Uint8Array(5).fill(1) });
    const { g } = every.decode(bytes);
    bytes.fill(0);
    expect([...g]).toEqual([1, 1, 1, 1, 1]);
  });

  it('refuses what does not fit: "ends beyond the structure", too few bytes, too long a field, an unknown one', () => {
    expect(() => defineStruct('bad', 4, { x: [1, 'u32'] })).toThrow('bad.x ends beyond');
    expect(() => every.decode(new Uint8Array(39))).toThrow('40 bytes are needed, 39 are there');
    expect(() => every.encode({}, new Uint8Array(39))).toThrow('40 bytes are needed, 39 are there');
    expect(() => every.encode({ g: new Uint8Array(6) })).toThrow('holds 5 bytes, 6 were given');
    expect(() => every.encode({ nosuch: 1 } as object)).toThrow('has no field nosuch');
  });
});
