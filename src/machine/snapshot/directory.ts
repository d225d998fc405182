// A snapshot on disk: a directory with the file `state` and the RAM file that it names. Whatever happens while one is
// written, the directory holds the whole snapshot that it held before, or the whole new one.
// rename(2) is what makes it so: it replaces `state` at once, and only after both files are durable.
import {
  closeSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { randomBytes } from '../../devices/backend/random-source.js';
import { fileWords, type FileUse } from '../../kvm/file-words.js';
import { SnapshotError } from './error.js';
import type { RamContent } from './ram-map.js';
import { decodeStateFile, encodeStateFile } from './state-file.js';
import type { MachineState } from './state.js';

const STATE = 'state';
const PARTIAL = '.partial';
const OURS = /^(ram\.[0-9a-f]{16}|state\.[0-9a-f]{16}\.partial)$/;
/** Guest RAM holds the guest's secrets. */
const DIRECTORY_MODE = 0o700;
const FILE_MODE = 0o600;
const ID_BYTES = 8;

/**
 * Writes a snapshot, in place of one that is there. One at a time in a directory.
 * @param writeRam fills the RAM file; nothing of the machine may change until it returns
 * @throws SnapshotError when there is no room, or no right to write; what was there before is whole then
 */
export function writeSnapshot(
  directory: string,
  state: Omit<MachineState, 'ram'>,
  writeRam: (fd: number) => RamContent,
): void {
  const id = Buffer.from(randomBytes(ID_BYTES)).toString('hex');
  const file = `ram.${id}`;
  const partial = join(directory, `${STATE}.${id}${PARTIAL}`);
  try {
    mkdirSync(directory, { recursive: true, mode: DIRECTORY_MODE });
    const ram = durable(join(directory, file), writeRam);
    durable(partial, (fd) => writeFileSync(fd, encodeStateFile({ ...state, ram: { ...ram, file } })));
    renameSync(partial, join(directory, STATE));
    syncDirectory(directory);
  } catch (cause) {
    rmSync(join(directory, file), { force: true });
    rmSync(partial, { force: true });
    throw problem(directory, 'the snapshot cannot be written, and what was there before is whole', 'write', cause);
  }
  // Also those that a killed process left. A guest that runs from one keeps its pages: the file lives while it is mapped.
  for (const name of readdirSync(directory))
    if (OURS.test(name) && name !== file) rmSync(join(directory, name), { force: true });
}

export interface OpenSnapshot {
  readonly state: MachineState;
  readonly path: string;
  /** The RAM file, open for reading; the caller closes it. */
  readonly fd: number;
  readonly ramPath: string;
}

/** @throws SnapshotError for what is no snapshot, or is damaged; RAM is only opened */
export function openSnapshot(directory: string): OpenSnapshot {
  const path = join(directory, STATE);
  let bytes: Uint8Array;
  try {
    bytes = readFileSync(path);
  } catch (cause) {
    throw problem(directory, 'there is no snapshot to be read', 'read', cause);
  }
  const state = decodeStateFile(bytes, path);
  const ramPath = join(directory, state.ram.file);
  try {
    return { state, path: directory, ramPath, fd: openSync(ramPath, 'r') };
  } catch (cause) {
    throw problem(ramPath, 'the RAM of the snapshot cannot be read', 'read', cause);
  }
}

function durable<T>(path: string, write: (fd: number) => T): T {
  const fd = openSync(path, 'wx', FILE_MODE);
  try {
    const result = write(fd);
    fsyncSync(fd);
    return result;
  } finally {
    closeSync(fd);
  }
}

function syncDirectory(path: string): void {
  const fd = openSync(path, 'r');
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}

function problem(path: string, what: string, use: FileUse, cause: unknown): SnapshotError {
  return new SnapshotError(path, `${what}: ${fileWords(use, cause)}`, { cause });
}
