// `--disk`: a virtio disk of the guest.
// Our own; words as in QEMU's -drive, throttling as in its throttling.bps-total.
import type { DiskConfig } from '../machine/device-config.js';
import { parseNumber, type NumberRow } from './numbers.js';
import { parseWords, splitWords, type WordRow } from './suboptions.js';
import { UsageError } from './usage-error.js';

const OPTION = '--disk';
const ID_BYTES = 20;

/** Limits of the numbers; the library has the last word. */
export const RATE_ROWS = {
  bps: { option: '--disk bps', unit: '', form: 'size', low: 1, high: 2 ** 40, example: '--disk path=FILE,bps=20M' },
  iops: { option: '--disk iops', unit: '', form: 'whole', low: 1, high: 2 ** 40, example: '--disk path=FILE,iops=500' },
} as const satisfies Readonly<Record<string, NumberRow>>;

function parseId(id: string): string {
  if (Buffer.byteLength(id) > ID_BYTES)
    throw new UsageError(`${OPTION} id`, `takes at most ${ID_BYTES} bytes, not ${JSON.stringify(id)}; shorten it`);
  return id;
}

const ROWS: readonly WordRow<DiskConfig>[] = [
  { key: 'path', form: 'path=FILE', parse: (path) => ({ path }) },
  { key: 'ro', form: 'ro', parse: () => ({ readOnly: true }) },
  { key: 'overlay', form: 'overlay=FILE', parse: (overlay) => ({ overlay }) },
  { key: 'id', form: 'id=TEXT', parse: (id) => ({ id: parseId(id) }) },
  { key: 'bps', form: 'bps=SIZE', parse: (text) => ({ bytesPerSecond: parseNumber(RATE_ROWS.bps, text) }) },
  { key: 'iops', form: 'iops=N', parse: (text) => ({ operationsPerSecond: parseNumber(RATE_ROWS.iops, text) }) },
];

/** For the help. */
export const DISK_FORM = 'FILE[,ro][,overlay=FILE][,id=TEXT][,bps=SIZE][,iops=N]';

/** @throws UsageError */
export function parseDisk(text: string): DiskConfig {
  const [first, ...rest] = splitWords(text);
  // A file's name may lead the list without its key.
  const bare = first !== undefined && first.value === undefined && first.key !== '';
  const words = bare ? [{ key: 'path', value: first.key }, ...rest] : splitWords(text);
  const { path, ...others } = parseWords(OPTION, ROWS, words);
  if (path === undefined) throw new UsageError(OPTION, 'names no file; start with path=FILE');
  return { path, ...others };
}
