// A kernel or initrd as a file on the host: opened without ever blocking, read in pieces, straight into guest memory.
// open(2) O_NONBLOCK: a FIFO opens at once, a device is refused before it is opened.
import { closeSync, constants, fstatSync, openSync, readSync, statSync, type Stats } from 'node:fs';
import { errorCode, fileWords } from '../kvm/file-words.js';
import { BootError } from './errors.js';

/** Where an image comes from: a file, or bytes with the name that messages (and a multiboot guest) see. */
export type FileSource = { readonly path: string } | { readonly bytes: Uint8Array; readonly name: string };

/** What the file is for; it appears in messages. */
export type FileRole = 'kernel' | 'initrd';

/** An opened image. Every failure is a BootError that names the file. */
export class ImageFile {
  readonly #fd: number | undefined;
  readonly #bytes: Uint8Array;

  private constructor(
    readonly name: string,
    /** Length in bytes, above 0. */
    readonly size: number,
    source: number | Uint8Array,
  ) {
    this.#fd = typeof source === 'number' ? source : undefined;
    this.#bytes = typeof source === 'number' ? new Uint8Array() : source;
  }

  static open(source: FileSource, role: FileRole): ImageFile {
    if ('bytes' in source) {
      if (source.bytes.byteLength === 0) throw empty(source.name, role);
      return new ImageFile(source.name, source.bytes.byteLength, source.bytes);
    }
    const { path } = source;
    // Looked at before it is opened: opening a device can already do something.
    refuseSpecial(
      path,
      role,
      attempt(path, role, () => statSync(path)),
    );
    const fd = attempt(path, role, () => openSync(path, constants.O_RDONLY | constants.O_NONBLOCK));
    try {
      // And again, now that nobody can exchange it.
      const stats = fstatSync(fd);
      refuseSpecial(path, role, stats);
      return new ImageFile(path, stats.size, fd);
    } catch (error) {
      closeSync(fd);
      throw error;
    }
  }

  /** A copy of `length` bytes; `field` is what they hold, for the message when the file ends before them. */
  read(offset: number, length: number, field: string): Uint8Array {
    this.require(offset, length, field);
    const bytes = new Uint8Array(length);
    this.readInto(bytes, offset);
    return bytes;
  }

  /** At most `length` bytes from the start of the file. */
  readStart(length: number): Uint8Array {
    return this.read(0, Math.min(length, this.size), 'header');
  }

  /** @throws BootError when the file has no `length` bytes at `offset` */
  require(offset: number, length: number, field: string): void {
    if (offset >= 0 && length >= 0 && offset <= this.size && length <= this.size - offset) return;
    throw new BootError(
      this.name,
      field,
      `${field} should lie at byte ${offset} (${length} bytes), but the file has only ${this.size} bytes; it is truncated or damaged, get it anew`,
    );
  }

  /** Fills `window`, which may be guest memory, from `offset` on. */
  readInto(window: Uint8Array, offset: number): void {
    if (this.#fd === undefined) {
      window.set(this.#bytes.subarray(offset, offset + window.byteLength));
      return;
    }
    for (let done = 0; done < window.byteLength;) {
      const count = this.#readSome(this.#fd, window, done, offset + done);
      if (count === 0)
        throw new BootError(this.name, 'size', `the file became shorter while it was read; try again when it is whole`);
      done += count;
    }
  }

  close(): void {
    if (this.#fd !== undefined) closeSync(this.#fd);
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #readSome(fd: number, window: Uint8Array, at: number, offset: number): number {
    try {
      return readSync(fd, window, at, Math.min(window.byteLength - at, READ_MAX), offset);
    } catch (error) {
      throw new BootError(
        this.name,
        'size',
        `reading it failed at byte ${offset}: ${errorCode(error) ?? String(error)}`,
        { cause: error },
      );
    }
  }
}

/** Bytes per read(2): the kernel itself stops below 2 GiB. */
const READ_MAX = 0x4000_0000;

const KINDS: readonly { readonly is: (stats: Stats) => boolean; readonly name: string }[] = [
  { is: (stats) => stats.isDirectory(), name: 'a directory' },
  { is: (stats) => stats.isFIFO(), name: 'a FIFO' },
  { is: (stats) => stats.isCharacterDevice(), name: 'a character device' },
  { is: (stats) => stats.isBlockDevice(), name: 'a block device' },
  { is: (stats) => stats.isSocket(), name: 'a socket' },
];

function refuseSpecial(path: string, role: FileRole, stats: Stats): void {
  const kind = KINDS.find(({ is }) => is(stats));
  if (kind) throw new BootError(path, role, `it is ${kind.name}, but the ${role} must be a regular file`);
  if (stats.size === 0) throw empty(path, role);
}

function empty(name: string, role: FileRole): BootError {
  return new BootError(name, role, `the file is empty, so there is no ${role} in it; get it anew`);
}

function attempt<T>(path: string, role: FileRole, call: () => T): T {
  try {
    return call();
  } catch (error) {
    throw new BootError(path, role, `cannot open the ${role}: ${fileWords('read', error)}`, { cause: error });
  }
}
