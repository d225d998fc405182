// The plan of guest RAM: whatever is asked of it, no two pieces overlap and none lies outside RAM.
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { BootError } from '../../../src/boot/errors.js';
import { Placement } from '../../../src/boot/placement.js';
import { bootError } from '../../support/boot.js';

const RAM = [
  { base: 0, size: 0x1_0000 },
  { base: 0x2_0000, size: 0x1_0000 },
];
const BLAME = { file: 'image', field: 'p_paddr' };

describe('Placement', () => {
  it('"no piece outside RAM, no two on the same address"', () => {
    // Small, so that neighbours touch: the errors are off by one.
    const ram = [
      { base: 0, size: 40 },
      { base: 60, size: 40 },
    ];
    const range = fc.record({ base: fc.integer({ min: -2, max: 102 }), size: fc.integer({ min: 1, max: 12 }) });
    fc.assert(
      fc.property(fc.array(range, { maxLength: 40 }), (ranges) => {
        const placement = new Placement(ram);
        const accepted: { base: number; size: number }[] = [];
        for (const { base, size } of ranges) {
          const inRam = ram.some((stretch) => base >= stretch.base && base + size <= stretch.base + stretch.size);
          const free = accepted.every((other) => base + size <= other.base || other.base + other.size <= base);
          expect(placement.isFree(base, size)).toBe(inRam && free);
          if (inRam && free) {
            placement.add('piece', base, undefined, BLAME, size);
            accepted.push({ base, size });
          } else expect(() => placement.add('piece', base, undefined, BLAME, size)).toThrow(BootError);
        }
        expect(placement.list()).toEqual(
          accepted.toSorted((a, b) => a.base - b.base).map((piece) => ({ name: 'piece', ...piece })),
        );
      }),
    );
  });

  it('"the highest free, page-aligned GPA"', () => {
    const unit = 0x400;
    const range = fc.record({
      base: fc.integer({ min: 0, max: 0xbf }).map((units) => units * unit),
      size: fc.integer({ min: 1, max: 12 }).map((units) => units * unit),
    });
    fc.assert(
      fc.property(
        fc.array(range, { maxLength: 20 }),
        fc.integer({ min: 1, max: 68 }).map((units) => units * unit),
        (ranges, size) => {
          const placement = new Placement(RAM);
          for (const { base, size } of ranges) placement.addIfFree('piece', base, undefined, size);
          const bounds = { from: 0x1000, to: 0x2_f000 };
          let expected: number | undefined;
          for (let base = bounds.to - 0x1000; base >= bounds.from && expected === undefined; base -= 0x1000)
            if (base + size <= bounds.to && placement.isFree(base, size)) expected = base;
          expect(placement.highest(size, bounds)).toBe(expected);
        },
      ),
    );
  });

  it('names both pieces when they overlap', () => {
    const placement = new Placement(RAM);
    placement.add('boot GDT', 0x500, undefined, BLAME, 0x20);
    expect(bootError(() => placement.add('kernel segment 1', 0x510, undefined, BLAME, 0x100)).message).toBe(
      'image: kernel segment 1 at 0x510–0x60f lies on the boot GDT at 0x500–0x51f; link or load it elsewhere',
    );
  });

  it.each([Number.NaN, Infinity, 0.5, -1, 2 ** 53, 2 ** 64])('a base of %d is outside RAM', (base) => {
    expect(new Placement(RAM).isFree(base, 1)).toBe(false);
  });
});
