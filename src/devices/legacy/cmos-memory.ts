// How firmware tells the size of RAM in CMOS bytes.
// Ralf Brown's CMOS list: 0x15 base, 0x17 and 0x30 extended, 0x34 above 16 MiB; 0x5b above 4 GiB as Bochs and QEMU have it.
import { HIGH_RAM_START, ramRanges } from '../../memory/layout.js';

const KIB = 1024;
const MIB = 1024 * KIB;
/** Unit of the bytes above 16 MiB. */
const CHUNK = 64 * KIB;

interface SizeRow {
  /** CMOS address of the lowest byte; little-endian. */
  readonly index: number;
  readonly bytes: number;
  /** Value for so much RAM below and above 4 GiB; the field's maximum is applied after it. */
  readonly value: (low: number, high: number) => number;
}

const extendedKib = (low: number): number => Math.max(0, low - MIB) / KIB;

const SIZES: readonly SizeRow[] = [
  { index: 0x15, bytes: 2, value: (low) => Math.min(640, low / KIB) },
  { index: 0x17, bytes: 2, value: extendedKib },
  { index: 0x30, bytes: 2, value: extendedKib },
  { index: 0x34, bytes: 2, value: (low) => Math.max(0, low - 16 * MIB) / CHUNK },
  { index: 0x5b, bytes: 3, value: (_low, high) => high / CHUNK },
];

/** @param memoryBytes size of RAM @returns CMOS address and byte */
export function cmosMemoryBytes(memoryBytes: number): [index: number, byte: number][] {
  let low = 0;
  let high = 0;
  for (const { base, size } of ramRanges(memoryBytes)) {
    if (base < HIGH_RAM_START) low += size;
    else high += size;
  }
  return SIZES.flatMap(({ index, bytes, value }) => {
    const stored = Math.min(Math.floor(value(low, high)), 2 ** (8 * bytes) - 1);
    return Array.from({ length: bytes }, (_, i): [number, number] => [index + i, (stored >>> (8 * i)) & 0xff]);
  });
}
