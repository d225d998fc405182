// The buses: who serves an access, what nobody's address reads as, and what is refused.
import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { Bus, type IoHandler } from '../../../src/devices/bus.js';

/** A handler that is memory: reads give what was written, at first its own pattern. */
function memory(name: string, length: number, seed: number): IoHandler & { readonly bytes: Uint8Array } {
  const bytes = Uint8Array.from({ length }, (_, i) => (seed + i * 7) & 0xff);
  return {
    name,
    bytes,
    read(offset, size) {
      if (offset < 0 || offset + size > length) throw new Error(`${name} was asked for ${offset}+${size}`);
      let value = 0;
      for (let i = 0; i < size; i++) value |= (bytes[offset + i] ?? 0) << (8 * i);
      return value;
    },
    write(offset, size, value) {
      if (offset < 0 || offset + size > length) throw new Error(`${name} was asked for ${offset}+${size}`);
      for (let i = 0; i < size; i++) bytes[offset + i] = (value >>> (8 * i)) & 0xff;
    },
  };
}

/** The same with registers of four bytes, each with functions of its own. */
function registers(name: string, length: number, seed: number): IoHandler {
  const all = memory(name, length, seed);
  const isRegister = (offset: number, size: number): boolean => size === 4 && offset % 4 === 0;
  return {
    ...all,
    reader: (offset, size) => (isRegister(offset, size) ? () => all.read(offset, size) : undefined),
    writer: (offset, size) => (isRegister(offset, size) ? (value) => all.write(offset, size, value) : undefined),
  };
}

describe('attach', () => {
  test('"refuses overlap and names both owners", with both ranges', () => {
    const bus = Bus.ports();
    bus.attach(0x3f8, 8, memory('COM1', 8, 0));
    expect(() => bus.attach(0x3fc, 8, memory('floppy', 8, 0))).toThrow(
      /0x3fc–0x403 for floppy: it overlaps 0x3f8–0x3ff of COM1/,
    );
    bus.attach(0x400, 1, memory('next', 1, 0));
    expect(bus.handlers.map(({ base, length, name }) => [base, length, name])).toEqual([
      [0x3f8, 8, 'COM1'],
      [0x400, 1, 'next'],
    ]);
  });

  test.each([
    [-1, 1],
    [0, 0],
    [0.5, 1],
    [Number.NaN, 1],
    [0xffff, 2],
    [0x1_0000, 1],
    [0, Number.POSITIVE_INFINITY],
  ])('ports %d+%d do not exist', (base, length) => {
    expect(() => Bus.ports().attach(base, length, memory('x', 1, 0))).toThrow(/cannot attach I\/O port range.* for x/);
  });

  test('the 256th device on the ports is refused, the 255th is served', () => {
    const bus = Bus.ports();
    for (let i = 0; i < 255; i++) bus.attach(i * 16, 1, memory(`d${i}`, 1, i));
    expect(bus.read(254 * 16, 1)).toBe(254);
    expect(() => bus.attach(0xf000, 1, memory('one', 1, 0))).toThrow(/255 devices/);
  });
});

describe('access', () => {
  test('"Nobody\'s address reads as all ones and is counted"', () => {
    const seen: [number, number, boolean][] = [];
    const bus = Bus.ports((address, size, isWrite) => seen.push([address, size, isWrite]));
    expect([bus.read(0x1234, 1), bus.read(0x1234, 2), bus.read(0x1234, 4)]).toEqual([0xff, 0xffff, 0xffff_ffff]);
    bus.write(0xcf8, 4, 0x8000_0000);
    expect(bus.unclaimed).toBe(4);
    expect(seen).toEqual([
      [0x1234, 1, false],
      [0x1234, 2, false],
      [0x1234, 4, false],
      [0xcf8, 4, true],
    ]);
  });

  test('values are unsigned, in both directions', () => {
    const bus = Bus.mmio();
    const seen: number[] = [];
    bus.attach(0xd000_0000, 0x1000, { name: 'x', read: () => -1, write: (_offset, _size, value) => seen.push(value) });
    expect(bus.read(0xd000_0000, 4)).toBe(0xffff_ffff);
    bus.write(0xd000_0000, 4, -1);
    bus.write(0xd000_0000, 1, 0x1ff);
    expect(seen).toEqual([0xffff_ffff, 0xff]);
  });

  test('an access across a border "is made of byte accesses, in ascending order": each byte its own owner', () => {
    const bus = Bus.ports();
    const [low, high] = [memory('low', 2, 0x10), memory('high', 1, 0x20)];
    bus.attach(0x100, 2, low);
    bus.attach(0x102, 1, high);
    expect(bus.read(0x101, 4)).toBe(0xffff_2017);
    bus.write(0x0ff, 4, 0x4433_2211);
    expect([...low.bytes, ...high.bytes]).toEqual([0x22, 0x33, 0x44]);
    expect(bus.unclaimed).toBe(3);
  });

  test('the last port and addresses above 4 GiB', () => {
    const ports = Bus.ports();
    ports.attach(0xffff, 1, memory('last', 1, 5));
    expect(ports.read(0xffff, 4)).toBe(0xffff_ff05);
    const mmio = Bus.mmio();
    mmio.attach(0x40_0000_0ff0, 0x2020, memory('far', 0x2020, 3));
    expect(mmio.read(0x40_0000_0ff0, 1)).toBe(3);
    expect(mmio.read(0x40_0000_0ff0 + 0x201c, 4)).toBe(0xdc_d5_ce_c7);
    expect(mmio.rowAt(0x40_0000_2000)?.name).toBe('far');
    expect(mmio.read(0x0ff0, 1)).toBe(0xff);
  });
});

describe('look-up', () => {
  test('a device attached to a page that was asked before is found', () => {
    const bus = Bus.mmio();
    bus.attach(0xd000_0000, 8, memory('one', 8, 1));
    expect([bus.read(0xd000_0000, 1), bus.read(0xd000_0008, 1), bus.read(0xd000_1000, 1)]).toEqual([1, 0xff, 0xff]);
    bus.attach(0xd000_0008, 0xff8, memory('two', 0xff8, 2));
    bus.attach(0xd000_1000, 0x1000, memory('three', 0x1000, 3));
    expect([bus.read(0xd000_0000, 1), bus.read(0xd000_0008, 1), bus.read(0xd000_1000, 1)]).toEqual([1, 2, 3]);
  });

  test('an address is not taken for another one that differs by 4 GiB', () => {
    const bus = Bus.mmio();
    bus.attach(0xffff_f000, 0x2000, memory('across', 0x2000, 1));
    bus.attach(0x2_0000_0000, 0x1000, memory('above', 0x1000, 2));
    for (const [address, value] of [
      [0xffff_f000, 1],
      [0, 0xff],
      [0x1_0000_0000, (1 + 0x1000 * 7) & 0xff],
      [0, 0xff],
      [0x2_0000_0000, 2],
      [0, 0xff],
    ] as const)
      expect(bus.read(address, 1), address.toString(16)).toBe(value);
  });

  test('"the bus then calls it without asking again": a register that was asked before is not looked for', () => {
    const bus = Bus.ports();
    let asked = 0;
    const values: [number, number][] = [];
    bus.attach(0x10, 4, {
      name: 'one',
      read: () => 0,
      write: () => undefined,
      reader: () => (asked++, () => 0x8000_0001),
      writer: () => (asked++, (value, mask) => void values.push([value, mask])),
    });
    for (let i = 0; i < 3; i++) {
      expect(bus.read(0x10, 4)).toBe(0x8000_0001);
      bus.write(0x10, 2, 0xfedc_ba98);
    }
    expect(asked).toBe(2);
    expect(values).toEqual(Array.from({ length: 3 }, () => [0xba98, 0xffff]));
  });

  const ranges = fc.array(fc.tuple(fc.nat(0x3000), fc.oneof(fc.integer({ min: 1, max: 40 }), fc.constant(0x1400))), {
    maxLength: 12,
  });
  const accesses = fc.array(fc.tuple(fc.nat(0x4400), fc.constantFrom(1, 2, 4), fc.boolean()), { maxLength: 60 });

  test.each([
    ['ports', () => Bus.ports(), 0],
    ['mmio', () => Bus.mmio(), 0xd000_0000],
  ] as const)('%s: the same as looking at every range in turn, byte by byte', (_name, make, origin) => {
    fc.assert(
      fc.property(ranges, accesses, (wanted, todo) => {
        const bus = make();
        const model = new Map<number, number>();
        for (const [index, [base, length]] of wanted.entries()) {
          const isTaken = Array.from({ length }, (_, i) => base + i).some((at) => model.has(at));
          const attach = (): void =>
            bus.attach(origin + base, length, (index % 2 === 0 ? memory : registers)(`d${index}`, length, index));
          if (isTaken) {
            expect(attach).toThrow(/overlaps/);
            continue;
          }
          attach();
          for (let i = 0; i < length; i++) model.set(base + i, (index + i * 7) & 0xff);
        }
        for (const [at, size, isWrite] of todo) {
          if (isWrite) {
            bus.write(origin + at, size, 0xa1b2_c3d4);
            for (let i = 0; i < size; i++) if (model.has(at + i)) model.set(at + i, (0xa1b2_c3d4 >>> (8 * i)) & 0xff);
          } else {
            let expected = 0;
            for (let i = 0; i < size; i++) expected += (model.get(at + i) ?? 0xff) * 2 ** (8 * i);
            expect(bus.read(origin + at, size)).toBe(expected);
          }
        }
      }),
    );
  });
});
