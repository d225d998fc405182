// Which sectors an overlay has: one bit each, and which blocks of them the file's two maps do not know of yet.
// See overlay-format.ts.
import { MAP_BLOCK_BYTES } from './overlay-format.js';

/** Blocks of a map that changed. */
export class ChangedBlocks {
  readonly #has: Uint8Array;
  #blocks: number[] = [];

  constructor(count: number) {
    this.#has = new Uint8Array(count);
  }

  get isEmpty(): boolean {
    return this.#blocks.length === 0;
  }

  add(block: number): void {
    if (this.#has[block] === 1) return;
    this.#has[block] = 1;
    this.#blocks.push(block);
  }

  /** All of them, ascending; none is left. Who could not write them after all adds them again. */
  take(): readonly number[] {
    const blocks = this.#blocks.toSorted((a, b) => a - b);
    this.#blocks = [];
    for (const block of blocks) this.#has[block] = 0;
    return blocks;
  }
}

export class OverlayMap {
  /** What the file's map lacks, and what its live map lacks. */
  readonly changed: ChangedBlocks;
  readonly changedLive: ChangedBlocks;
  readonly #bits: Uint8Array;

  /** @param bits whole blocks; taken over */
  constructor(bits: Uint8Array) {
    this.#bits = bits;
    this.changed = new ChangedBlocks(bits.length / MAP_BLOCK_BYTES);
    this.changedLive = new ChangedBlocks(bits.length / MAP_BLOCK_BYTES);
  }

  has(sector: number): boolean {
    return ((this.#bits[Math.floor(sector / 8)] as number) & (1 << (sector % 8))) !== 0;
  }

  /** How many of the `count` sectors from `first` on are as the first one: in the overlay, or not. At least 1. */
  run(first: number, count: number): number {
    const isThere = this.has(first);
    const whole = isThere ? 0xff : 0;
    const end = first + count;
    let sector = first + 1;
    while (sector < end) {
      if (sector % 8 === 0 && end - sector >= 8 && this.#bits[sector / 8] === whole) sector += 8;
      else if (this.has(sector) === isThere) sector++;
      else break;
    }
    return sector - first;
  }

  add(first: number, count: number): void {
    const end = first + count;
    for (let sector = first; sector < end;) {
      const at = Math.floor(sector / 8);
      const next = Math.min(end, (at + 1) * 8);
      const mask = ((1 << (next - sector)) - 1) << (sector % 8);
      const before = this.#bits[at] as number;
      if ((before & mask) !== mask) {
        this.#bits[at] = before | mask;
        this.changed.add(Math.floor(at / MAP_BLOCK_BYTES));
        this.changedLive.add(Math.floor(at / MAP_BLOCK_BYTES));
      }
      sector = next;
    }
  }

  /** Copies blocks into `image`, which is as long as the map. */
  copy(blocks: readonly number[], image: Uint8Array): void {
    for (const block of blocks) {
      const start = block * MAP_BLOCK_BYTES;
      image.set(this.#bits.subarray(start, start + MAP_BLOCK_BYTES), start);
    }
  }
}
