// Register tables: rows compiled into a handler, for accesses of every size and alignment.
import { describe, expect, test } from 'vitest';
import { RegisterTable } from '../../../src/devices/register-table.js';

function table(): { table: RegisterTable; log: [string, number, number][] } {
  const log: [string, number, number][] = [];
  const note = (name: string) => (value: number, mask: number) => void log.push([name, value, mask]);
  return {
    log,
    table: new RegisterTable('device', [
      { offset: 0, name: 'IIR', size: 1, read: () => 0xc1 },
      { offset: 0, name: 'FCR', size: 1, write: note('FCR') },
      { offset: 2, name: 'STS', size: 2, read: () => 0x1234, write: note('STS') },
      { offset: 4, name: 'WIDE', size: 4, read: () => -2, write: note('WIDE') },
    ]),
  };
}

describe('reads', () => {
  test.each([
    [0, 1, 0xc1],
    [1, 1, 0xff],
    [0, 2, 0xffc1],
    [0, 4, 0x1234_ffc1],
    [2, 1, 0x34],
    [3, 1, 0x12],
    [2, 4, 0xfffe_1234],
    [3, 2, 0xfe12],
    [4, 4, 0xffff_fffe],
    [6, 2, 0xffff],
    [6, 4, 0xffff_ffff],
    [100, 4, 0xffff_ffff],
  ])('offset %d, %d bytes: 0x%s', (offset, size, expected) => {
    expect(table().table.read(offset, size)).toBe(expected);
  });
});

test('writes are "cut at the registers\' borders, in ascending order", with byte enables', () => {
  const { table: subject, log } = table();
  subject.write(0, 4, 0xaabb_ccdd);
  subject.write(3, 1, 0x80);
  subject.write(5, 2, 0x1122);
  subject.write(4, 4, 0xffff_ffff);
  expect(log).toEqual([
    ['FCR', 0xdd, 0xff],
    ['STS', 0xaabb, 0xffff],
    ['STS', 0x8000, 0xff00],
    ['WIDE', 0x0011_2200, 0x00ff_ff00],
    ['WIDE', 0xffff_ffff, 0xffff_ffff],
  ]);
});

test('the rows can be read without touching the device', () => {
  const { table: subject } = table();
  expect(subject.registers.map(({ offset, name, access }) => [offset, name, access])).toEqual([
    [0, 'IIR', 'read'],
    [0, 'FCR', 'write'],
    [2, 'STS', 'read-write'],
    [4, 'WIDE', 'read-write'],
  ]);
  expect([subject.registerName(0, false), subject.registerName(0, true), subject.registerName(3, true)]).toEqual([
    'IIR',
    'FCR',
    'STS',
  ]);
  expect(subject.registerName(1, false)).toBeUndefined();
});

test('two registers on one byte are a mistake of the table', () => {
  const rows = [
    { offset: 0, name: 'A', size: 4, read: () => 0 },
    { offset: 3, name: 'B', size: 1, read: () => 0 },
  ];
  expect(() => new RegisterTable('device', rows)).toThrow(/device: registers A and B both lie at offset 0x3/);
  expect(() => new RegisterTable('device', [{ offset: 0, name: 'A', size: 8 }])).toThrow(/device.A: .* not 8/);
});
