// First instructions of page-fault handlers that can be stepped over without the processor: bytes → length and flags.
// Intel SDM vol. 2 (ENDBR64, NOP, CLAC, CLD, CLI).

/** What stepping over an instruction means: RIP grows by `length`, these RFLAGS bits (all below 32) change. */
export interface StepRow {
  readonly bytes: readonly number[];
  readonly length: number;
  readonly clear: number;
  readonly set: number;
}

const DF = 1 << 10;
const IF = 1 << 9;
const AC = 1 << 18;

const row = (bytes: readonly number[], length = bytes.length, clear = 0, set = 0): StepRow => ({
  bytes,
  length,
  clear,
  set,
});

/** Long NOPs are listed in the forms that assemblers and Linux' alternatives emit (SDM vol. 2B table 4-12). */
const ROWS: readonly StepRow[] = [
  row([0xf3, 0x0f, 0x1e, 0xfa]),
  row([0x0f, 0x01, 0xca], 3, AC),
  row([0x0f, 0x01, 0xcb], 3, 0, AC),
  row([0x90]),
  row([0x66, 0x90]),
  row([0x0f, 0x1f, 0x00]),
  row([0x0f, 0x1f, 0x40], 4),
  row([0x0f, 0x1f, 0x44], 5),
  row([0x66, 0x0f, 0x1f, 0x44], 6),
  row([0x0f, 0x1f, 0x80], 7),
  row([0x0f, 0x1f, 0x84], 8),
  row([0xfc], 1, DF),
  row([0xfa], 1, IF),
];

/** @param first the instruction's first four bytes as a little-endian word */
export function stepRow(first: number): StepRow | undefined {
  return ROWS.find(({ bytes }) => bytes.every((byte, index) => ((first >>> (index * 8)) & 0xff) === byte));
}
