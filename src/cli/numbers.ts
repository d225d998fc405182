// Numbers on the command line: one row per numeric option, and the one function that reads them all.
// Our own. Nothing is rounded, cut off or guessed: what is not plainly a number in range is refused.
import { UsageError } from './usage-error.js';

interface Form {
  readonly pattern: RegExp;
  readonly what: string;
  readonly format: (value: number) => string;
  /** Number() where there is none. */
  readonly read?: (text: string) => number;
}

/** Letters behind a size, each 1024 times the one before. */
const UNITS = ['', 'K', 'M', 'G', 'T'] as const;

function readSize(text: string): number {
  const power = UNITS.findIndex((unit) => unit !== '' && text.toUpperCase().endsWith(unit));
  return power < 0 ? Number(text) : Number(text.slice(0, -1)) * 1024 ** power;
}

/** With the largest unit that leaves a whole number. */
function formatSize(value: number): string {
  const power = UNITS.findLastIndex((_, i) => value % 1024 ** i === 0 && value >= 1024 ** i);
  return power <= 0 ? String(value) : `${value / 1024 ** power}${UNITS[power]}`;
}

const decimal = (value: number): string => String(value);

/** The ways in which a number may be written. */
const FORMS = {
  whole: { pattern: /^[0-9]{1,20}$/, what: 'a whole number', format: decimal },
  address: {
    pattern: /^(0x[0-9a-f]{1,16}|[0-9]{1,20})$/i,
    what: 'an address, decimal or after 0x,',
    format: (value) => `0x${value.toString(16)}`,
  },
  fraction: { pattern: /^([0-9]{1,20}(\.[0-9]{0,9})?|\.[0-9]{1,9})$/, what: 'a number', format: decimal },
  size: {
    pattern: /^[0-9]{1,20}[KMGT]?$/i,
    what: 'a size in bytes, or with K, M, G or T behind it,',
    format: formatSize,
    read: readSize,
  },
} as const satisfies Readonly<Record<string, Form>>;

/** What a numeric option accepts. */
export interface NumberRow {
  readonly option: string;
  /** With its preposition, for the message: `of MiB`. */
  readonly unit: string;
  readonly form: keyof typeof FORMS;
  /** Smallest accepted value. */
  readonly low: number;
  /** Largest accepted value. */
  readonly high: number;
  readonly multipleOf?: number;
  readonly example: string;
}

/** @throws UsageError that names the option, says what it takes, and gives an example */
export function parseNumber(row: NumberRow, text: string): number {
  const { pattern, what, format, read = Number }: Form = FORMS[row.form];
  // Number() reads 20 digits as a double that may be rounded, but never one that is in range when the text is not.
  const value = pattern.test(text) ? read(text) : NaN;
  const divides = row.multipleOf === undefined || value % row.multipleOf === 0;
  if (value >= row.low && value <= row.high && divides) return value;
  const multiple = row.multipleOf === undefined ? '' : `, a multiple of ${row.multipleOf}`;
  const range = `from ${format(row.low)} to ${format(row.high)}${multiple}`;
  const found = text === '' ? 'nothing' : JSON.stringify(text);
  throw new UsageError(row.option, `takes ${what}${row.unit} ${range}, not ${found}; for example ${row.example}`);
}
