// Transfers between shared memory and one open file, many in flight, none of them on Node's thread pool.
// preadv2(2), pwritev(2), fdatasync(2), fallocate(2), io_uring(7), fcntl(2) F_OFD_SETLK.
import { constants } from 'node:os';
import { checked } from './errors.js';
import { EventFd } from './event-fd.js';
import { loadNative, type Native, type NativeIo } from './native.js';

/** Pieces of memory in a row, by index into the regions that the file was given. */
export interface Segments {
  readonly count: number;
  readonly regions: { readonly [index: number]: number };
  /** From the start of the region, in bytes. */
  readonly offsets: { readonly [index: number]: number };
  readonly lengths: { readonly [index: number]: number };
}

/** Called once for every request, from `submit` or later. @param errno 0 when it was done whole */
export type Done = (errno: number) => void;

/** Requests that one file may have in flight. native/io.h: MV_IO_DEPTH. */
export const IO_DEPTH = 512;

const OP = { read: 0, write: 1, sync: 2, punch: 3 } as const;
/** native/io.h: struct mv_io_words, in words. */
const HEAD = 0;
const ASLEEP = 1;
const CELLS = 16;
const REQUESTS = CELLS + 2 * IO_DEPTH;
const REQUEST_WORDS = 8;
const SEGMENT_WORDS = 3;
/** Room for 32 requests of the longest chain that a queue of 256 gives, and for hundreds of ordinary ones. */
const REQUEST_ROOM = 32 * (REQUEST_WORDS + 256 * SEGMENT_WORDS);

const NOTHING: Segments = { count: 0, regions: [], offsets: [], lengths: [] };

/**
 * Requests are described in shared words, and `submit` hands all of them to the addon with one call; what the page
 * cache has is read in that call, all else is done by threads of this file's own.
 *
 * Why this way (`npm run bench -- virtio-block`; processor time for 4 KiB in the page cache, 16 at a time, on the
 * development host, where a system call costs more than 1 µs): a read costs 2.1 µs by preadv, 0.8 by io_uring, 6.6 by a
 * thread. io_uring would also write, but what it may not do at once (ext4: every write) goes to workers that the kernel
 * shares between all rings of a thread and picks by a hash of the inode: one slow disk could stall another, and a write
 * costs no less that way (14 µs) than here (13 to 16, of which 1.5 to 2.7 on the caller's thread). So io_uring, with
 * RWF_NOWAIT, only reads what is there, and the file's own threads do what may take its time. Where io_uring is forbidden
 * each cached read is a system call.
 */
export class FileIo {
  /** Takes what an answer throws when the event loop brought it. Default: it is thrown on, an uncaughtException. */
  onError: (error: unknown) => void = (error) => {
    throw error;
  };
  readonly #native: Native = loadNative();
  readonly #io: NativeIo;
  readonly #bell: EventFd;
  readonly #words: Int32Array<SharedArrayBuffer>;
  readonly #done: (Done | undefined)[] = Array.from({ length: IO_DEPTH });
  readonly #free = Uint16Array.from({ length: IO_DEPTH }, (_, tag) => tag);
  #freeCount = IO_DEPTH;
  /** Words of requests that were described and not handed over. */
  #used = 0;
  /** Completions seen, as the addon counts them. */
  #seen = 0;
  #isDraining = false;
  #onIdle: (() => void) | undefined;
  #isClosed = false;

  /**
   * @param fd duplicated: it may be closed then
   * @param regions shared memory (guest RAM, and buffers of the caller's own)
   * @param name for messages
   * @param uring false: does without io_uring also where the kernel has it
   */
  constructor(
    fd: number,
    regions: readonly Uint8Array[],
    readonly name: string,
    uring = true,
  ) {
    this.#words = new Int32Array(new SharedArrayBuffer(4 * (REQUESTS + REQUEST_ROOM)));
    this.#bell = EventFd.create();
    try {
      const words = new Uint8Array(this.#words.buffer);
      this.#io = checked<NativeIo>(this.#native.ioCreate(fd, this.#bell.fd, regions, words, uring), 'ioCreate', name);
    } catch (error) {
      this.#bell.close();
      throw error;
    }
    this.#words[ASLEEP] = 1;
    this.#bell.onReadable(() => {
      try {
        this.submit();
      } catch (error) {
        this.onError(error);
      }
    });
  }

  /** Requests that have not been answered. */
  get inFlight(): number {
    return IO_DEPTH - this.#freeCount;
  }

  /**
   * Fills the segments with the file's bytes from `position` on. Fails with EIO when the file ends before.
   * @throws RangeError when IO_DEPTH requests are in flight
   */
  read(position: number, segments: Segments, done: Done): void {
    this.#describe(OP.read, position, 0, segments, done);
  }

  /** Same errors as `read`. */
  write(position: number, segments: Segments, done: Done): void {
    this.#describe(OP.write, position, 0, segments, done);
  }

  /** fdatasync: covers every write that was answered before this call. */
  sync(done: Done): void {
    this.#describe(OP.sync, 0, 0, NOTHING, done);
  }

  /** Makes these bytes read as zeros and gives their space back; EOPNOTSUPP where the file system cannot. */
  punch(position: number, length: number, done: Done): void {
    this.#describe(OP.punch, position, length, NOTHING, done);
  }

  /** Hands over what was described, and answers what is done already. */
  submit(): void {
    // Called by one who was answered just now: the loop below comes by.
    if (this.#isDraining || this.#isClosed) return;
    this.#isDraining = true;
    const words = this.#words;
    try {
      Atomics.store(words, ASLEEP, 0);
      for (;;) {
        if (this.#used > 0) this.#handOver();
        if (this.#answer() || this.#used > 0) continue;
        // Partner: a thread publishes its completion and then looks whether we sleep.
        Atomics.store(words, ASLEEP, 1);
        if (Atomics.load(words, HEAD) === this.#seen) break;
        Atomics.store(words, ASLEEP, 0);
      }
    } catch (error) {
      // Whoever was to be answered next is answered all the same.
      this.#bell.signal();
      throw error;
    } finally {
      this.#isDraining = false;
    }
    if (this.#onIdle !== undefined && this.inFlight === 0) this.#onIdle();
  }

  /** Resolves when every request was answered and the file is closed. */
  async close(): Promise<void> {
    if (this.#isClosed) return;
    this.submit();
    if (this.inFlight > 0) await new Promise<void>((resolve) => (this.#onIdle = resolve));
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#native.ioClose(this.#io.handle);
    this.#bell.close();
  }

  #describe(op: number, position: number, length: number, segments: Segments, done: Done): void {
    const { count } = segments;
    const size = REQUEST_WORDS + count * SEGMENT_WORDS;
    if (this.#isClosed) throw new Error(`${this.name}: the file is closed`);
    if (this.#freeCount === 0) throw new RangeError(`${this.name}: ${IO_DEPTH} requests are in flight`);
    if (size > REQUEST_ROOM) throw new RangeError(`${this.name}: a request of ${count} segments is too long`);
    if (this.#used + size > REQUEST_ROOM) this.#handOver();
    const tag = this.#free[--this.#freeCount] as number;
    this.#done[tag] = done;
    const words = this.#words;
    let at = REQUESTS + this.#used;
    words[at] = op;
    words[at + 1] = tag;
    words[at + 2] = position | 0;
    words[at + 3] = position / 2 ** 32;
    words[at + 4] = length | 0;
    words[at + 5] = length / 2 ** 32;
    words[at + 6] = count;
    at += REQUEST_WORDS;
    const { regions, offsets, lengths } = segments;
    for (let i = 0; i < count; i++) {
      words[at] = regions[i] as number;
      words[at + 1] = offsets[i] as number;
      words[at + 2] = lengths[i] as number;
      at += SEGMENT_WORDS;
    }
    this.#used += size;
  }

  #handOver(): void {
    const used = this.#used;
    this.#used = 0;
    checked(this.#io.submit(used), 'submit', this.name);
  }

  /** @returns whether there was anything to answer */
  #answer(): boolean {
    const words = this.#words;
    const head = Atomics.load(words, HEAD);
    if (head === this.#seen) return false;
    while (this.#seen !== head) {
      const at = CELLS + 2 * ((this.#seen >>> 0) % IO_DEPTH);
      const tag = words[at] as number;
      const errno = words[at + 1] as number;
      this.#seen = (this.#seen + 1) | 0;
      const done = this.#done[tag];
      this.#done[tag] = undefined;
      this.#free[this.#freeCount++] = tag;
      done?.(errno);
    }
    return true;
  }
}

/**
 * Locks the whole file for as long as it is open here or in a FileIo made of it; the locks of two opens exclude each
 * other also in one process.
 * @param exclusive for a file opened for writing; a shared one is for a file opened for reading
 * @returns false when somebody else holds a lock that excludes this one
 * @throws KvmError when the file cannot be locked at all
 */
export function lockFile(fd: number, exclusive: boolean, name: string): boolean {
  const result = loadNative().ioLock(fd, exclusive);
  const { EAGAIN, EACCES } = constants.errno;
  if (result === -EAGAIN || result === -EACCES) return false;
  checked(result, 'lock', name);
  return true;
}

/** Bytes of a regular file or a block device. @throws KvmError */
export function fileSize(fd: number, name: string): number {
  return checked(loadNative().ioSize(fd), 'lseek', name);
}
