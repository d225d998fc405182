// A copy-on-write disk: what the guest writes goes to the overlay file, and the base stays as it is.
// The format is drawn in overlay-format.ts.
import type { GuestVector as Vector, Regions } from '../virtio/guest-vector.js';
import { GuestVector } from '../virtio/guest-vector.js';
import { SECTOR_BYTES, type BlockBackend, type Done } from './block-backend.js';
import { zeroBytes } from './disk-zeros.js';
import type { HostFile } from './host-file.js';
import { MAP_BLOCK_BYTES, overlayLayout, type OverlayLayout } from './overlay-format.js';
import { OverlayMap } from './overlay-map.js';

export interface OverlayParts {
  /** Only read. */
  readonly base: HostFile;
  readonly overlay: HostFile;
  /** Vectors of both files lie in these: guest RAM, then the regions below. */
  readonly memory: Regions;
  /** Index of a region of zeros: see `zeroBytes`. */
  readonly zeros: number;
  /** Index of a region with the bits of the sectors that the overlay has; taken over. */
  readonly bits: number;
  /** Index of a region as long, which holds the map as the file has it. */
  readonly image: number;
  readonly readOnly: boolean;
}

/**
 * Why a write that was acknowledged and flushed survives a power loss: a sector's bit is set, in memory, once its data
 * was written. A flush takes the bits as they are at its start, makes the data durable (first fdatasync), then writes
 * those bits to the map, then makes them durable (second fdatasync). So a bit of the map never stands before its data.
 * Bits are only ever set: a write of the map that was torn by the power's end leaves each bit old or new, and both are
 * true. Without new sectors a flush is one fdatasync.
 *
 * Why an acknowledged write survives the end of the process: its bit is in the live map, in the page cache, before it is
 * acknowledged. After a restart of the host the live map does not count, for it may have become durable before its data.
 */
export class OverlayDisk implements BlockBackend {
  readonly capacityBytes: number;
  readonly readOnly: boolean;
  readonly #parts: OverlayParts;
  readonly #layout: OverlayLayout;
  readonly #map: OverlayMap;
  readonly #image: Uint8Array;
  #isFlushing = false;
  /** Flushes that came while one was running: it may not cover their writes, so they share the next. */
  #waiting: Done[] = [];
  #isWritingLive = false;
  /** Writes that are done, but not acknowledged before the live map says so. */
  #unacknowledged: Done[] = [];

  constructor(parts: OverlayParts) {
    const { base, memory, image, bits, readOnly } = parts;
    const region = (index: number): Uint8Array => (memory.regions[index] as Regions['regions'][number]).bytes;
    this.capacityBytes = base.bytes;
    this.readOnly = readOnly;
    this.#parts = parts;
    this.#layout = overlayLayout(base.bytes);
    this.#map = new OverlayMap(region(bits));
    this.#image = region(image);
    // A process before this one was killed: what it acknowledged is in the live map only.
    for (let block = 0; block < this.#image.length / MAP_BLOCK_BYTES; block++)
      if (isDifferent(region(bits), this.#image, block)) this.#map.changed.add(block);
  }

  attach(fail: (error: unknown) => void): void {
    this.#parts.base.attach?.(fail);
    this.#parts.overlay.attach?.(fail);
  }

  read(position: number, vector: Vector, done: Done): void {
    const first = position / SECTOR_BYTES;
    const count = vector.bytes / SECTOR_BYTES;
    if (this.#map.run(first, count) === count) this.#readRun(position, vector, done);
    else this.#readRuns(position, vector, done);
  }

  write(position: number, vector: Vector, done: Done): void {
    const first = position / SECTOR_BYTES;
    const count = vector.bytes / SECTOR_BYTES;
    this.#parts.overlay.write(this.#layout.dataOffset + position, vector, (errno) => {
      if (errno === 0) this.#acknowledge(first, count, done);
      else done(errno);
    });
  }

  flush(done: Done): void {
    this.#waiting.push(done);
    if (!this.#isFlushing) this.#flush();
  }

  discard(position: number, length: number, done: Done): void {
    // Zeros, and not the base's old content: a guest that gave bytes away is not to see them again.
    this.writeZeroes(position, length, done);
  }

  writeZeroes(position: number, length: number, done: Done): void {
    zeroBytes(this.#parts.overlay, this.#parts, this.#layout.dataOffset + position, length, (errno) => {
      if (errno === 0) this.#acknowledge(position / SECTOR_BYTES, length / SECTOR_BYTES, done);
      else done(errno);
    });
  }

  submit(): void {
    this.#parts.base.submit();
    this.#parts.overlay.submit();
  }

  async close(): Promise<void> {
    // What was acknowledged outlives the machine, whether the guest flushed it or not.
    if (!this.readOnly) {
      await new Promise<void>((resolve) => {
        this.flush(() => resolve());
        this.submit();
      });
    }
    await Promise.all([this.#parts.base.close(), this.#parts.overlay.close()]);
  }

  #readRun(position: number, vector: Vector, done: Done): void {
    if (this.#map.has(position / SECTOR_BYTES))
      this.#parts.overlay.read(this.#layout.dataOffset + position, vector, done);
    else this.#parts.base.read(position, vector, done);
  }

  /** One stretch after the other, each as its sectors are when it is its turn. */
  #readRuns(position: number, vector: Vector, done: Done): void {
    const piece = new GuestVector(this.#parts.memory);
    const next = (from: number): void => {
      const left = (vector.bytes - from) / SECTOR_BYTES;
      const bytes = this.#map.run((position + from) / SECTOR_BYTES, left) * SECTOR_BYTES;
      vector.slice(from, bytes, piece);
      this.#readRun(position + from, piece, (errno) => {
        if (errno !== 0 || from + bytes === vector.bytes) {
          done(errno);
          return;
        }
        next(from + bytes);
        this.submit();
      });
    };
    next(0);
  }

  #acknowledge(first: number, count: number, done: Done): void {
    this.#map.add(first, count);
    // A sector that is not new may be on its way to the live map just now, or have failed to get there.
    if (this.#map.changedLive.isEmpty && !this.#isWritingLive) {
      done(0);
      return;
    }
    this.#unacknowledged.push(done);
    if (!this.#isWritingLive) this.#writeLive();
  }

  #writeLive(): void {
    this.#isWritingLive = true;
    const waiting = this.#unacknowledged;
    this.#unacknowledged = [];
    const blocks = this.#map.changedLive.take();
    // Straight from the bits: one that is set meanwhile has its data already.
    this.#writeBlocks(blocks, this.#layout.liveOffset, this.#parts.bits, (errno) => {
      this.#isWritingLive = false;
      if (errno !== 0) for (const block of blocks) this.#map.changedLive.add(block);
      for (const done of waiting) done(errno);
      if (this.#unacknowledged.length > 0 && !this.#isWritingLive) this.#writeLive();
    });
  }

  #flush(): void {
    this.#isFlushing = true;
    const { overlay } = this.#parts;
    const waiting = this.#waiting;
    this.#waiting = [];
    const blocks = this.#map.changed.take();
    this.#map.copy(blocks, this.#image);
    const end = (errno: number): void => {
      this.#isFlushing = false;
      if (errno !== 0) for (const block of blocks) this.#map.changed.add(block);
      for (const done of waiting) done(errno);
      if (this.#waiting.length > 0 && !this.#isFlushing) this.#flush();
      overlay.submit();
    };
    overlay.sync((errno) => {
      if (errno !== 0 || blocks.length === 0) {
        end(errno);
        return;
      }
      this.#writeBlocks(blocks, this.#layout.mapOffset, this.#parts.image, (failed) => {
        if (failed !== 0) {
          end(failed);
          return;
        }
        overlay.sync(end);
        overlay.submit();
      });
    });
  }

  /** Writes blocks of a map from the same place of a region, neighbours together. */
  #writeBlocks(blocks: readonly number[], offset: number, region: number, done: Done): void {
    const { overlay, memory } = this.#parts;
    const vector = new GuestVector(memory);
    const next = (from: number): void => {
      const first = blocks[from];
      if (first === undefined) {
        done(0);
        return;
      }
      let to = from + 1;
      while (blocks[to] === first + to - from) to++;
      const start = first * MAP_BLOCK_BYTES;
      vector.clear();
      vector.add(region, start, (to - from) * MAP_BLOCK_BYTES);
      overlay.write(offset + start, vector, (errno) => {
        if (errno === 0) next(to);
        else done(errno);
      });
      overlay.submit();
    };
    next(0);
  }
}

function isDifferent(a: Uint8Array, b: Uint8Array, block: number): boolean {
  const start = block * MAP_BLOCK_BYTES;
  const end = start + MAP_BLOCK_BYTES;
  return Buffer.compare(a.subarray(start, end), b.subarray(start, end)) !== 0;
}
