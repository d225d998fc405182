// A file that remembers each write and each fdatasync, and can say what a disk might hold had the power gone at a moment.
// What no returned fdatasync covers may be there or not, sector by sector, in any order.
import type { Done } from '../../src/devices/backend/block-backend.js';
import type { HostFile } from '../../src/devices/backend/host-file.js';
import type { GuestVector } from '../../src/devices/virtio/guest-vector.js';

const SECTOR = 512;

/** Whole numbers below a limit, the same ones for the same seed (mulberry32). */
export function randomOf(seed: number): (limit: number) => number {
  let state = seed | 0;
  return (limit) => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) % limit;
  };
}

/** The order of things over all files and all who watch them: the next moment has the next number. */
export class Moments {
  now = 0;

  next(): number {
    return ++this.now;
  }
}

interface Write {
  readonly position: number;
  readonly bytes: Uint8Array;
  readonly begun: number;
  ended: number;
}

interface Sync {
  readonly begun: number;
  ended: number;
}

/** How a file's fdatasync lies, for tests that must fail then. @returns true when this one does nothing */
export type Liar = (count: number) => boolean;

export class RecordingFile implements HostFile {
  readonly bytes: number;
  /** What a reader sees. */
  readonly content: Uint8Array;
  syncs = 0;
  readonly #first: Uint8Array;
  readonly #moments: Moments;
  readonly #lies: Liar;
  readonly #writes: Write[] = [];
  readonly #syncs: Sync[] = [];
  #due: (() => void)[] = [];
  #inFlight = 0;
  #onIdle: (() => void) | undefined;

  /** @param content as it is durable at the start; taken over */
  constructor(
    readonly path: string,
    content: Uint8Array,
    moments: Moments,
    lies: Liar = () => false,
  ) {
    this.content = content;
    this.bytes = content.length;
    this.#first = content.slice();
    this.#moments = moments;
    this.#lies = lies;
  }

  read(position: number, vector: GuestVector, done: Done): void {
    this.#later(() => {
      vector.copyFrom(this.content.subarray(position, position + vector.bytes));
      done(0);
    });
  }

  write(position: number, vector: GuestVector, done: Done): void {
    const bytes = new Uint8Array(vector.bytes);
    vector.copyTo(bytes);
    this.#change(position, bytes, done);
  }

  punch(position: number, length: number, done: Done): void {
    this.#change(position, new Uint8Array(length), done);
  }

  sync(done: Done): void {
    const isLie = this.#lies(this.syncs++);
    const sync = { begun: this.#moments.next(), ended: Number.POSITIVE_INFINITY };
    if (!isLie) this.#syncs.push(sync);
    this.#later(() => {
      sync.ended = this.#moments.next();
      done(0);
    });
  }

  /** Everything is answered a turn of the event loop later. */
  submit(): void {
    const due = this.#due;
    this.#due = [];
    if (due.length === 0) return;
    setImmediate(() => {
      for (const answer of due) {
        this.#inFlight--;
        answer();
      }
      this.submit();
      if (this.#inFlight === 0) this.#onIdle?.();
    });
  }

  async close(): Promise<void> {
    this.submit();
    if (this.#inFlight > 0) await new Promise<void>((resolve) => (this.#onIdle = resolve));
  }

  /**
   * What may be found after the power went at moment `cut`.
   * @param isSyncing false: as if no fdatasync had done anything
   * @param atom bytes, aligned, that are written whole or not at all
   */
  afterPowerLoss(
    cut: number,
    random: (limit: number) => number,
    { isSyncing = true, atom = SECTOR }: { readonly isSyncing?: boolean; readonly atom?: number } = {},
  ): Uint8Array {
    const image = this.#first.slice();
    const ended = isSyncing ? this.#syncs.filter((sync) => sync.ended <= cut) : [];
    const covered = ended.reduce((latest, { begun }) => Math.max(latest, begun), 0);
    const begun = this.#writes.filter((write) => write.begun <= cut);
    for (const { position, bytes } of begun.filter(({ ended }) => ended <= covered)) image.set(bytes, position);
    const open = begun.filter(({ ended }) => ended > covered);
    // Chances differ from loss to loss: all but nothing lost, or all but everything.
    const chance = random(101);
    for (let left = open.length; left > 0; left--) {
      const [write] = open.splice(random(left), 1) as [Write];
      const { position, bytes } = write;
      for (let at = 0, next; at < bytes.length; at = next) {
        next = at + atom - ((position + at) % atom);
        if (random(100) < chance) image.set(bytes.subarray(at, next), position + at);
      }
    }
    return image;
  }

  #change(position: number, bytes: Uint8Array, done: Done): void {
    const write = { position, bytes, begun: this.#moments.next(), ended: Number.POSITIVE_INFINITY };
    this.#writes.push(write);
    this.#later(() => {
      this.content.set(bytes, position);
      write.ended = this.#moments.next();
      done(0);
    });
  }

  #later(answer: () => void): void {
    this.#inFlight++;
    this.#due.push(answer);
  }
}
