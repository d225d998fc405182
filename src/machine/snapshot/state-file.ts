// The state file of a snapshot: one line that says what it is, then the state as JSON.
// Our own. The checksum finds accidents: CRC-32 (IEEE 802.3) misses no flip of a bit or two, and no burst of up to 32.
import { crc32 } from 'node:zlib';
import { SnapshotError } from './error.js';
import { checkState, plainState, type MachineState } from './state.js';

/** Counts changes of the format; a file of another version is refused. */
export const FORMAT_VERSION = 2;
const MAGIC = 'microvisor-snapshot';
const HEADER = /^microvisor-snapshot (\d{1,9}) ([0-9a-f]{8}) (\d{1,10})\n/;
/** Longer than any header. */
const HEADER_MAX = 64;

export function encodeStateFile(state: MachineState): Buffer {
  const body = Buffer.from(JSON.stringify(plainState(state), plainValue));
  const checksum = crc32(body).toString(16).padStart(8, '0');
  return Buffer.concat([Buffer.from(`${MAGIC} ${FORMAT_VERSION} ${checksum} ${body.length}\n`), body]);
}

/**
 * @param path for messages
 * @throws SnapshotError that says what is wrong; nothing else, whatever the bytes are
 */
export function decodeStateFile(file: Uint8Array, path: string): MachineState {
  const bytes = Buffer.from(file.buffer, file.byteOffset, file.byteLength);
  const header = HEADER.exec(bytes.subarray(0, HEADER_MAX).toString('latin1'));
  if (header === null) throw new SnapshotError(path, 'this is no state of a snapshot, or it is cut off');
  const [line, version, checksum, length] = header;
  if (Number(version) !== FORMAT_VERSION || version !== String(FORMAT_VERSION))
    throw new SnapshotError(
      path,
      `the snapshot has format version ${version}, and this Microvisor reads ${FORMAT_VERSION}; make it anew`,
    );
  const body = bytes.subarray(line.length);
  if (String(body.length) !== length)
    throw new SnapshotError(path, `the file should have ${length} bytes behind its first line and has ${body.length}`);
  if (crc32(body) !== Number.parseInt(checksum as string, 16))
    throw new SnapshotError(path, 'the file is damaged: its checksum does not match');
  const state = checkState(parse(body, path));
  if (typeof state === 'string') throw new SnapshotError(path, `the file says what no snapshot says: ${state}`);
  return state;
}

function parse(body: Buffer, path: string): unknown {
  try {
    return JSON.parse(body.toString('utf8'));
  } catch (cause) {
    throw new SnapshotError(path, 'the file is no JSON', { cause });
  }
}

/** JSON has neither bytes nor integers of 64 bits. A Buffer would have turned itself into a list by now. */
function plainValue(this: Readonly<Record<string, unknown>>, key: string): unknown {
  const value = this[key];
  if (typeof value === 'bigint') return value.toString();
  if (value instanceof Uint8Array) return Buffer.from(value.buffer, value.byteOffset, value.length).toString('base64');
  return value;
}
