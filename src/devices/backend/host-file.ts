// A file or block device of the host under a disk: opened, locked and measured, with its transfers on threads of its own.
// open(2), fcntl(2) F_OFD_SETLK. What it holds is never looked at here: the format is what the option says.
import { open, type FileHandle } from 'node:fs/promises';
import { constants } from 'node:fs';
import { getSystemErrorMap } from 'node:util';
import { FileIo, fileSize, lockFile } from '../../kvm/file-io.js';
import { errorCode, fileWords } from '../../kvm/file-words.js';
import type { GuestVector, Regions } from '../virtio/guest-vector.js';
import type { Done } from './block-backend.js';

/** What a disk needs of the file under it. Answers as in BlockBackend. */
export interface HostFile {
  /** As the option spells it. */
  readonly path: string;
  /** When it was opened. */
  readonly bytes: number;
  /** Takes what an answer throws; without it that is an uncaughtException. */
  attach?(fail: (error: unknown) => void): void;
  read(position: number, vector: GuestVector, done: Done): void;
  write(position: number, vector: GuestVector, done: Done): void;
  /** fdatasync(2): covers every write that was answered before this call. */
  sync(done: Done): void;
  /** Makes the bytes zeros that take no space; EOPNOTSUPP where that cannot be done. */
  punch(position: number, length: number, done: Done): void;
  submit(): void;
  close(): Promise<void>;
}

/** A disk that cannot be had: which file, what was found, what to do. */
export class DiskError extends Error {
  override readonly name = 'DiskError';
}

export interface HostFileOptions {
  /** Opens it for writing and keeps every other user out; otherwise only writers are kept out. */
  readonly writable: boolean;
  /** Creates it, empty, when it does not exist. */
  readonly create?: boolean;
  /** What it is to a person: `the disk`. */
  readonly what: string;
}

/** An open file before it takes part in transfers: ordinary reads and writes, for headers. */
export interface OpenedFile {
  readonly path: string;
  readonly handle: FileHandle;
  readonly bytes: number;
  /** Ends the ordinary use: from now on transfers, with vectors in `memory`. */
  start(memory: Regions, bytes?: number): Promise<HostFile>;
}

/** @throws DiskError */
export async function openHostFile(path: string, options: HostFileOptions): Promise<OpenedFile> {
  const { writable, what } = options;
  const name = `${what} ${path}`;
  let handle = await openFile(path, options, name);
  try {
    const stat = await handle.stat();
    if (stat.isBlockDevice() && writable) {
      await handle.close();
      // What the host has mounted, or built a volume of, is not for writing: O_EXCL asks just that.
      handle = await openFile(path, options, name, constants.O_EXCL);
    }
    if (!stat.isFile() && !stat.isBlockDevice())
      throw new DiskError(`cannot use ${name}: it is neither a regular file nor a block device; give one of these`);
    if (!lockFile(handle.fd, writable, name))
      throw new DiskError(
        `cannot use ${name}: somebody else has it open ${writable ? '' : 'for writing '}(another machine, or another ` +
          'disk of this one); end that one, or share it read-only and give each machine an overlay',
      );
    const bytes = fileSize(handle.fd, name);
    return {
      path,
      handle,
      bytes,
      start: async (memory, size = bytes) => {
        const io = new FileIo(
          handle.fd,
          memory.regions.map((region) => region.bytes),
          name,
        );
        // The lock is the open file description's, which the transfers keep open.
        await handle.close();
        return new NativeFile(path, size, io);
      },
    };
  } catch (error) {
    await handle.close();
    throw error;
  }
}

async function openFile(
  path: string,
  { writable, create }: HostFileOptions,
  name: string,
  more = 0,
): Promise<FileHandle> {
  const { O_RDONLY, O_RDWR, O_CREAT, O_NONBLOCK, O_NOCTTY } = constants;
  // O_NONBLOCK: a FIFO in the place of the file must not hang the program.
  const flags = (writable ? O_RDWR : O_RDONLY) | (create === true ? O_CREAT : 0) | O_NONBLOCK | O_NOCTTY | more;
  try {
    return await open(path, flags, 0o666);
  } catch (cause) {
    const code = errorCode(cause) ?? 'unknown';
    const advice = OPEN_ADVICE[code] ?? fileWords(writable ? 'write' : 'read', cause);
    throw new DiskError(`cannot open ${name}${writable ? ' for writing' : ''}: ${code}; ${advice}`, { cause });
  }
}

/** Where a disk has remedies of its own. */
const OPEN_ADVICE: Readonly<Record<string, string>> = {
  ENOENT: 'there is no such file; check the path, or create an image with microvisor disk create',
  EACCES: 'change its permissions, or make the disk read-only when it can be read',
  EROFS: 'its file system is read-only; make the disk read-only, or give it an overlay',
};

/** `EIO (i/o error)` of an errno. */
export function errnoWords(errno: number): string {
  const [code, words] = getSystemErrorMap().get(-errno) ?? [`errno ${errno}`, undefined];
  return words === undefined ? code : `${code} (${words})`;
}

class NativeFile implements HostFile {
  readonly #io: FileIo;

  constructor(
    readonly path: string,
    readonly bytes: number,
    io: FileIo,
  ) {
    this.#io = io;
  }

  attach(fail: (error: unknown) => void): void {
    this.#io.onError = fail;
  }

  read(position: number, vector: GuestVector, done: Done): void {
    this.#io.read(position, vector, done);
  }

  write(position: number, vector: GuestVector, done: Done): void {
    this.#io.write(position, vector, done);
  }

  sync(done: Done): void {
    this.#io.sync(done);
  }

  punch(position: number, length: number, done: Done): void {
    this.#io.punch(position, length, done);
  }

  submit(): void {
    this.#io.submit();
  }

  async close(): Promise<void> {
    await this.#io.close();
  }
}
