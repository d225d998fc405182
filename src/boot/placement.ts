// Decides what lies where in guest RAM before a byte is written: no piece outside RAM, no two on the same address.
// Everything a loader puts into memory goes through here, so every loader has the same checks and the same report.
import type { GuestMemory } from '../memory/guest-memory.js';
import { type AddressRange, PAGE_SIZE } from '../memory/layout.js';
import { BootError, hex, hexRange } from './errors.js';
import type { ImageFile } from './image-file.js';
import type { Placed } from './request.js';

/** A part of a file that is read straight into guest memory. */
export interface FilePart {
  readonly file: ImageFile;
  readonly offset: number;
  readonly size: number;
}

/** What a piece is filled with; undefined keeps a range free (bss, a stack, room to unpack). */
export type Content = Uint8Array | FilePart | undefined;

/** Who is to blame when a piece does not fit. */
export interface Blame {
  readonly file: string;
  readonly field: string;
}

interface Piece extends Placed {
  readonly content: Content;
}

/** Bounds for a search: GPAs from `from` up to, not including, `to`. */
export interface Bounds {
  readonly from: number;
  readonly to: number;
}

/** A plan of guest RAM. RAM behind it must be fresh: ranges kept free are not cleared. */
export class Placement {
  /** In ascending order, not overlapping. */
  readonly #pieces: Piece[] = [];

  constructor(readonly ram: readonly AddressRange[]) {}

  /** Puts a piece at `base`. @throws BootError with `blame` when it lies outside RAM or on another piece */
  add(name: string, base: number, content: Content, blame: Blame, size = sizeOf(content)): void {
    if (!this.#inRam(base, size))
      throw new BootError(blame.file, blame.field, `${name} belongs at ${this.#place(base, size)}; ${this.#ramText()}`);
    const other = this.#overlapping(base, size);
    if (other)
      throw new BootError(
        blame.file,
        blame.field,
        `${name} at ${hexRange(base, size)} lies on the ${other.name} at ${hexRange(other.base, other.size)}; link or load it elsewhere`,
      );
    this.#insert({ name, base, size, content });
  }

  /** Puts a piece at `base` if it fits there. A courtesy to guests that may look for it. */
  addIfFree(name: string, base: number, content: Content, size = sizeOf(content)): boolean {
    if (!this.isFree(base, size)) return false;
    this.#insert({ name, base, size, content });
    return true;
  }

  /** True when the range is RAM and nothing lies there. */
  isFree(base: number, size: number): boolean {
    return this.#inRam(base, size) && this.#overlapping(base, size) === undefined;
  }

  /** The highest free, page-aligned GPA for `size` bytes in `bounds`, or undefined. */
  highest(size: number, { from, to }: Bounds): number | undefined {
    for (const stretch of this.ram.toReversed()) {
      const low = Math.max(from, stretch.base);
      let base = pageDown(Math.min(to, stretch.base + stretch.size) - size);
      while (base >= low) {
        const other = this.#overlapping(base, size);
        if (other === undefined) return base;
        base = pageDown(other.base - size);
      }
    }
    return undefined;
  }

  /** Every piece, for reports. */
  list(): Placed[] {
    return this.#pieces.map(({ name, base, size }) => ({ name, base, size }));
  }

  /** Fills guest memory. @throws BootError when a file can no longer be read */
  writeTo(memory: GuestMemory): void {
    for (const { base, content } of this.#pieces) {
      if (content instanceof Uint8Array) memory.write(base, content);
      else if (content !== undefined && content.size > 0)
        content.file.readInto(memory.window(base, content.size), content.offset);
    }
  }

  #inRam(base: number, size: number): boolean {
    return (
      Number.isSafeInteger(base) &&
      this.ram.some((stretch) => base >= stretch.base && size <= stretch.base + stretch.size - base)
    );
  }

  #place(base: number, size: number): string {
    const wraps = base + size > 2 ** 64;
    return wraps ? `${hex(base)} and wraps around the end of the address space` : hexRange(base, size);
  }

  #ramText(): string {
    return `the guest's RAM is ${this.ram.map(({ base, size }) => hexRange(base, size)).join(' and ')}, give it more or link the image lower`;
  }

  /** Index of the first piece that ends above `base`. */
  #search(base: number): number {
    let low = 0;
    let high = this.#pieces.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      const piece = this.#pieces[middle];
      if (piece && piece.base + piece.size <= base) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  #overlapping(base: number, size: number): Piece | undefined {
    const piece = this.#pieces[this.#search(base)];
    return piece && piece.base < base + size ? piece : undefined;
  }

  #insert(piece: Piece): void {
    if (piece.size > 0) this.#pieces.splice(this.#search(piece.base), 0, piece);
  }
}

function sizeOf(content: Content): number {
  if (content === undefined) return 0;
  return content instanceof Uint8Array ? content.byteLength : content.size;
}

function pageDown(gpa: number): number {
  return Math.floor(gpa / PAGE_SIZE) * PAGE_SIZE;
}
