// The register file: the same fields in every thread, found by name, with atomic operations.
import { describe, expect, test } from 'vitest';
import { RegisterFile } from '../../../src/devices/register-file.js';

const ROWS = { STATUS: { initial: 0x60, doc: 'status' }, DATA: { doc: 'data' } } as const;

describe('layout', () => {
  test('"every thread that builds the same board in the same order over the same buffer gets the same fields"', () => {
    const owner = RegisterFile.create(4096);
    const [one, two] = [owner.allocate('one', ROWS), owner.allocate('two', ROWS)];
    owner.seal();
    one.DATA.set(7);
    two.STATUS.set(9);
    const other = RegisterFile.attach(owner.share());
    const [sameOne, sameTwo] = [other.allocate('one', ROWS), other.allocate('two', ROWS)];
    other.seal();
    // Values are not initialised again, either.
    expect([sameOne.STATUS, sameOne.DATA, sameTwo.STATUS, sameTwo.DATA].map((field) => field.get())).toEqual([
      0x60, 7, 9, 0,
    ]);
  });

  test('"seal catches the thread that built another board"', () => {
    const owner = RegisterFile.create(4096);
    owner.allocate('one', ROWS);
    owner.allocate('two', ROWS);
    owner.seal();
    const other = RegisterFile.attach(owner.share());
    other.allocate('two', ROWS);
    other.allocate('one', ROWS);
    expect(() => other.seal()).toThrow(/build the same devices in the same order/);
  });

  test('fields and areas are listed by device and register name, with their live values', () => {
    const file = RegisterFile.create(4096);
    file.allocate('one', ROWS).DATA.set(3);
    file.allocateArea('one', 'RAM', 5, 'five bytes', (area) => area.fill(1));
    file.allocate('two', { X: { doc: 'x' } });
    expect(file.fields.map(({ device, name, doc, field }) => [device, name, doc, field.get()])).toEqual([
      ['one', 'STATUS', 'status', 0x60],
      ['one', 'DATA', 'data', 3],
      ['two', 'X', 'x', 0],
    ]);
    expect(file.areas.map(({ device, name, bytes }) => [device, name, [...bytes]])).toEqual([
      ['one', 'RAM', [1, 1, 1, 1, 1]],
    ]);
    expect(file.usedBytes).toBe(8 + 8 + 8 + 4);
  });

  test('a name twice and a full file are refused', () => {
    const file = RegisterFile.create(16);
    file.allocate('one', { A: { doc: '' } });
    expect(() => file.allocate('one', ROWS)).toThrow(/already has a device named one/);
    expect(() => file.allocateArea('two', 'ram', 16, '')).toThrow(
      /cannot reserve 16 bytes for two.ram.*create it larger/,
    );
  });
});

test('a field is 32 bits, unsigned, and each operation returns what was there', () => {
  const { F } = RegisterFile.create(64).allocate('d', { F: { doc: '' } });
  F.set(0xffff_fff0);
  expect(F.get()).toBe(0xffff_fff0);
  expect(F.or(0x0f)).toBe(0xffff_fff0);
  expect(F.and(0x8000_0001)).toBe(0xffff_ffff);
  expect(F.exchange(0xffff_ffff)).toBe(0x8000_0001);
  expect(F.add(3)).toBe(0xffff_ffff);
  expect(F.compareExchange(2, 0x9000_0000)).toBe(2);
  expect(F.compareExchange(2, 1)).toBe(0x9000_0000);
  expect(F.get()).toBe(0x9000_0000);
});

describe('saved', () => {
  const file = (): RegisterFile => {
    const registers = RegisterFile.create(64);
    registers.allocate('one', { A: { initial: 1, doc: '' }, B: { doc: '' } });
    registers.allocateArea('one', 'RAM', 4, '');
    return registers;
  };

  test('goes into a file with the same devices, by their names', () => {
    const first = file();
    for (const { field } of first.fields) field.set(0xffff_ffff);
    first.areas[0]?.bytes.set([1, 2, 3, 4]);
    const saved = first.save();
    const second = file();
    second.load(saved);
    expect(second.save()).toEqual(saved);
  });

  test('keeps no zeros at the end of an area, and has them back', () => {
    const first = file();
    first.areas[0]?.bytes.set([1, 0, 3]);
    const saved = first.save();
    expect(saved.areas).toEqual([['one', 'RAM', Uint8Array.of(1, 0, 3)]]);
    const second = file();
    second.areas[0]?.bytes.fill(9);
    second.load(saved);
    expect(second.areas.map(({ bytes }) => [...bytes])).toEqual([[1, 0, 3, 0]]);
  });

  test.each<[string, (saved: ReturnType<RegisterFile['save']>) => ReturnType<RegisterFile['save']>, RegExp]>([
    ['lacks a field', ({ fields, areas }) => ({ fields: fields.slice(1), areas }), /has no A of one/],
    ['has a field too many', ({ fields, areas }) => ({ fields: [...fields, ['two', 'C', 1]], areas }), /two\.C, which/],
    ['has no area', ({ fields }) => ({ fields, areas: [] }), /has no RAM of one/],
    [
      'has an area that is too long',
      ({ fields }) => ({ fields, areas: [['one', 'RAM', new Uint8Array(5)]] }),
      /RAM of one has 5 bytes, of 4 at most/,
    ],
  ])('one that %s is refused', (_, change, sentence) => {
    expect(() => file().load(change(file().save()))).toThrow(sentence);
  });
});
