// Numbers on the command line: every bad form of every numeric option is refused with one sentence.
import { describe, expect, test } from 'vitest';
import { parseNumber, type NumberRow } from '../../../src/cli/numbers.js';
import { NUMBER_ROWS } from '../../../src/cli/run-options.js';
import { UsageError } from '../../../src/cli/usage-error.js';

const BAD = [
  ['NaN', 'NaN'],
  ['negative', '-1'],
  ['zero', '0'],
  ['2^64', '18446744073709551616'],
  ['2^64 in hexadecimal', '0x10000000000000000'],
  ['text', 'many'],
  ['empty', ''],
  ['a blank', ' '],
  ['a number with a blank', ' 1'],
  ['a number and text', '12MB'],
  ['an exponent', '1e3'],
  ['Infinity', 'Infinity'],
  ['a sign', '+1'],
  ['digits of another script', '١'],
  ['an underscore', '1_0'],
  ['two points', '1.2.3'],
  ['a line feed', '1\n'],
  ['octal and binary prefixes', '0b1'],
] as const;

const ROWS: readonly NumberRow[] = Object.values(NUMBER_ROWS);

describe.each(ROWS.map((row) => ({ ...row, row })))(
  '"every numeric option as NaN, negative, zero, 2^64, text": $option',
  ({ row }) => {
    test.each(BAD)('%s', (_, text) => {
      expect(() => parseNumber(row, text)).toThrow(UsageError);
      // One sentence that names the option and what to do, with an example that works.
      expect(() => parseNumber(row, text)).toThrow(
        new RegExp(`^${row.option}: takes .* from .* to .*, not .*; for example ${row.option} `),
      );
    });

    test('its ends, and its example', () => {
      expect(parseNumber(row, String(row.low))).toBe(row.low);
      expect(parseNumber(row, String(row.high))).toBe(row.high);
      expect(() => parseNumber(row, String(row.high + 1))).toThrow(UsageError);
      const [option, example = ''] = row.example.split(' ');
      expect(option).toBe(row.option);
      expect(parseNumber(row, example)).toBeGreaterThan(0);
    });
  },
);

describe('forms', () => {
  test('an address may be hexadecimal, in either case', () => {
    expect(parseNumber(NUMBER_ROWS.load, '0x7c00')).toBe(0x7c00);
    expect(parseNumber(NUMBER_ROWS.load, '0X7C00')).toBe(0x7c00);
    expect(parseNumber(NUMBER_ROWS.load, '31744')).toBe(0x7c00);
  });

  test('"fractions allowed" for seconds, and nowhere else', () => {
    expect(parseNumber(NUMBER_ROWS.timeout, '0.25')).toBe(0.25);
    expect(parseNumber(NUMBER_ROWS.timeout, '.5')).toBe(0.5);
    expect(() => parseNumber(NUMBER_ROWS.cpus, '1.5')).toThrow(/whole number/);
    expect(() => parseNumber(NUMBER_ROWS.mem, '0x80')).toThrow(/whole number/);
  });

  test('leading zeros are decimal', () => {
    expect(parseNumber(NUMBER_ROWS.mem, '0128')).toBe(128);
  });
});
