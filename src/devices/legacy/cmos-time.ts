// The time registers of the MC146818A: from milliseconds to bytes and back, in BCD or binary, with 12 or 24 hours.
// Motorola MC146818A data sheet, "Time, calendar, and alarm locations", table 2.

/** Bits of register B that matter to the format. */
export const STATUS_B = { SET: 0x80, BINARY: 0x04, HOURS_24: 0x02 } as const;

const HOURS = 0x04;
const PM = 0x80;

interface TimeRow {
  readonly index: number;
  readonly of: (date: Date) => number;
}

const ROWS: readonly TimeRow[] = [
  { index: 0x00, of: (date) => date.getUTCSeconds() },
  { index: 0x02, of: (date) => date.getUTCMinutes() },
  { index: HOURS, of: (date) => date.getUTCHours() },
  // Sunday is 1.
  { index: 0x06, of: (date) => date.getUTCDay() + 1 },
  { index: 0x07, of: (date) => date.getUTCDate() },
  { index: 0x08, of: (date) => date.getUTCMonth() + 1 },
  { index: 0x09, of: (date) => date.getUTCFullYear() % 100 },
  // The century is no register of the chip's, but a byte that PC firmware keeps; FADT's CENTURY field names it.
  { index: 0x32, of: (date) => Math.floor(date.getUTCFullYear() / 100) },
];

const BY_INDEX: ReadonlyMap<number, TimeRow> = new Map(ROWS.map((row) => [row.index, row]));

/** CMOS addresses that show the time. */
export const TIME_REGISTERS: ReadonlySet<number> = new Set(BY_INDEX.keys());

/**
 * @param index one of TIME_REGISTERS
 * @param milliseconds since 1970-01-01 UTC
 * @param statusB register B: data mode and hour format
 */
export function encodeTime(index: number, milliseconds: number, statusB: number): number {
  const value = BY_INDEX.get(index)?.of(new Date(milliseconds)) ?? 0;
  if (index !== HOURS || (statusB & STATUS_B.HOURS_24) !== 0) return encode(value, statusB);
  return encode(value % 12 === 0 ? 12 : value % 12, statusB) | (value >= 12 ? PM : 0);
}

/** @returns milliseconds since 1970-01-01 UTC, or undefined when the bytes are no time */
export function decodeTime(byteAt: (index: number) => number, statusB: number): number | undefined {
  const [second = 0, minute = 0, rawHour = 0, , day = 0, month = 0, year = 0, century = 0] = ROWS.map(({ index }) =>
    decode(index === HOURS ? byteAt(index) & ~hourFlag(statusB) : byteAt(index), statusB),
  );
  const isPm = (byteAt(HOURS) & hourFlag(statusB)) !== 0;
  const hour = (statusB & STATUS_B.HOURS_24) !== 0 ? rawHour : (rawHour % 12) + (isPm ? 12 : 0);
  const fits = second < 60 && minute < 60 && hour < 24 && day >= 1 && day <= 31 && month >= 1 && month <= 12;
  if (!fits) return undefined;
  return Date.UTC(century * 100 + year, month - 1, day, hour, minute, second);
}

function hourFlag(statusB: number): number {
  return (statusB & STATUS_B.HOURS_24) !== 0 ? 0 : PM;
}

function encode(value: number, statusB: number): number {
  return (statusB & STATUS_B.BINARY) !== 0 ? value : (Math.floor(value / 10) << 4) | (value % 10);
}

function decode(byte: number, statusB: number): number {
  return (statusB & STATUS_B.BINARY) !== 0 ? byte : (byte >>> 4) * 10 + (byte & 0x0f);
}
