// Makes a disk image with an ext4 file system: a sparse file that mke2fs fills, and that appears whole or not at all.
// mke2fs(8); rename(2), link(2).
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { link, lstat, open, rename, rm, stat } from 'node:fs/promises';
import { basename, delimiter, dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { errorCode } from '../kvm/file-words.js';
import { refuseFile, UsageError } from './usage-error.js';

const PROGRAM = 'mke2fs';
/** Where Debian has it, and where PATH of a user who is not root does not look. */
const SYSTEM_FOLDERS = ['/sbin', '/usr/sbin'] as const;

/** The same image whatever the host's mke2fs.conf says; zeros stay holes, and the guest has none left to write. */
const LAYOUT = ['-q', '-F', '-t', 'ext4', '-b', '4096', '-I', '256', '-m', '0'] as const;
const EXTENDED = 'root_owner=0:0,lazy_itable_init=0,lazy_journal_init=1';

/** mke2fs's words when the files of a folder do not fit. */
const FULL = /could not allocate|no space|ext2 directory block|free (blocks|inodes)/i;

export interface DiskRequest {
  readonly path: string;
  /** Size of the image, a multiple of 512. */
  readonly bytes: number;
  /** A folder whose content goes into the file system. */
  readonly from: string | undefined;
  /** Replaces a file that is there. */
  readonly force: boolean;
  readonly signal: AbortSignal;
}

function findProgram(): string {
  const folders = [
    ...(process.env['PATH'] ?? '').split(delimiter).filter((folder) => folder !== ''),
    ...SYSTEM_FOLDERS,
  ];
  const found = folders.map((folder) => join(folder, PROGRAM)).find((path) => existsSync(path));
  if (found === undefined)
    throw new Error(`${PROGRAM} is not on this machine; install Debian's package e2fsprogs: apt-get install e2fsprogs`);
  return found;
}

/** @throws UsageError when the file is there and must stay, or is no file */
async function checkTarget({ path, force }: DiskRequest): Promise<void> {
  const found = await lstat(path).catch((error: unknown) => {
    if (errorCode(error) === 'ENOENT') return undefined;
    throw refuseFile('FILE', path, error);
  });
  if (found === undefined) return;
  if (!found.isFile()) throw new UsageError('FILE', `${path}: it is there and is no regular file; choose another name`);
  if (!force) throw new UsageError('FILE', `${path}: it is there already; add --force to replace it`);
}

async function checkFolder(path: string): Promise<void> {
  const found = await stat(path).catch((error: unknown) => {
    if (errorCode(error) === 'ENOENT')
      throw new UsageError('--from', `${path}: there is no such folder; check the path`);
    throw refuseFile('--from', path, error, 'read');
  });
  if (!found.isDirectory()) throw new UsageError('--from', `${path}: it is no folder; name the folder to be copied`);
}

async function makeEmpty(path: string, request: DiskRequest): Promise<void> {
  try {
    const file = await open(path, 'wx');
    try {
      await file.truncate(request.bytes);
    } finally {
      await file.close();
    }
  } catch (error) {
    if (errorCode(error) === 'EFBIG')
      throw new UsageError(
        '--size',
        `${request.path}: its file system takes no file of this size; choose a smaller one`,
      );
    throw refuseFile('FILE', request.path, error);
  }
}

async function fill(program: string, path: string, { from, signal }: DiskRequest): Promise<void> {
  const source = from === undefined ? [] : ['-d', from];
  try {
    await promisify(execFile)(program, [...LAYOUT, '-E', EXTENDED, ...source, path], {
      signal,
      // It speaks English to us, and asks nobody.
      env: { ...process.env, LC_ALL: 'C' },
    });
  } catch (error) {
    signal.throwIfAborted();
    const said = error instanceof Error && 'stderr' in error ? String(error.stderr).trim() : '';
    if (from !== undefined && FULL.test(said))
      throw new UsageError('--size', `the content of ${from} does not fit; choose a larger one`);
    const reason = said === '' ? String(error) : said.split('\n').at(-1);
    throw new Error(`no file system could be made: ${program} said: ${reason}`, { cause: error });
  }
}

/** Gives the finished file its name. Without `force` nothing that came there meanwhile is replaced. */
async function publish(part: string, request: DiskRequest): Promise<void> {
  try {
    if (!request.force) {
      await link(part, request.path);
      return;
    }
  } catch (error) {
    if (errorCode(error) === 'EEXIST') await checkTarget(request);
    // A file system without links (vfat): what is left is to look and then to rename.
    if (errorCode(error) !== 'EPERM' && errorCode(error) !== 'EOPNOTSUPP')
      throw refuseFile('FILE', request.path, error);
    await checkTarget(request);
  }
  await rename(part, request.path);
}

/**
 * Makes the image. No privileges are needed; files keep their owners' numbers, the root folder is root's.
 * @throws UsageError when the words cannot work, Error when mke2fs is missing or fails; no partial file is left
 */
export async function createDisk(request: DiskRequest): Promise<void> {
  await checkTarget(request);
  if (request.from !== undefined) await checkFolder(request.from);
  const program = findProgram();
  const part = join(dirname(request.path), `.${basename(request.path)}.${process.pid}.part`);
  try {
    await makeEmpty(part, request);
    await fill(program, part, request);
    await publish(part, request);
  } finally {
    await rm(part, { force: true });
  }
}
