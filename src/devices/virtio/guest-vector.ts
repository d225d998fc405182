// Windows of guest memory in a row: what a descriptor chain's buffers are to the code that fills or reads them.
// VIRTIO 1.2 §2.7.4.1: "device MUST NOT make assumptions about the particular arrangement of descriptors."
/** What windows lie in: guest RAM, or any row of buffers. */
export interface Regions {
  readonly regions: readonly { readonly bytes: Uint8Array }[];
}

/** Segments for which there is room at once; a longer vector grows. */
const FIRST_SEGMENTS = 4;
/** More than a region's bytes; two numbers in one that is exact. */
const REGION_STRIDE = 2 ** 33;

/**
 * A list of windows as three parallel arrays, so that nothing is allocated per chain and native code takes it as it is.
 * Every segment was checked to lie in its region. The guest may write these bytes at any time: copy once, then check.
 */
export class GuestVector {
  /** Segments in use. */
  count = 0;
  /** Sum of the lengths. */
  bytes = 0;
  /** By segment: index into the regions. */
  regions = new Uint8Array(FIRST_SEGMENTS);
  /** By segment: first byte, from the start of its region. */
  offsets = new Uint32Array(FIRST_SEGMENTS);
  /** By segment: bytes, at least 1. */
  lengths = new Uint32Array(FIRST_SEGMENTS);
  readonly #memory: Regions;

  constructor(memory: Regions) {
    this.#memory = memory;
  }

  clear(): void {
    this.count = 0;
    this.bytes = 0;
  }

  /** Appends a window that the caller has checked. */
  add(region: number, offset: number, length: number): void {
    const at = this.count;
    if (at === this.lengths.length) this.#grow();
    this.regions[at] = region;
    this.offsets[at] = offset;
    this.lengths[at] = length;
    this.count = at + 1;
    this.bytes += length;
  }

  /**
   * Makes `into` the part of `length` bytes that starts at byte `from`.
   * @returns false, and `into` empty, when the vector does not have these bytes
   */
  slice(from: number, length: number, into: GuestVector): boolean {
    into.clear();
    if (from + length > this.bytes) return false;
    let skip = from;
    let left = length;
    for (let i = 0; left > 0; i++) {
      const have = this.lengths[i] as number;
      if (skip >= have) {
        skip -= have;
        continue;
      }
      const count = Math.min(have - skip, left);
      into.add(this.regions[i] as number, (this.offsets[i] as number) + skip, count);
      left -= count;
      skip = 0;
    }
    return true;
  }

  /**
   * Takes the last byte off: where a device has to put its answer.
   * @returns the byte's region and its offset there, as one number for `storeAt`; -1 when the vector is empty
   */
  takeLastByte(): number {
    const at = this.count - 1;
    if (at < 0) return -1;
    const left = (this.lengths[at] as number) - 1;
    const place = (this.regions[at] as number) * REGION_STRIDE + (this.offsets[at] as number) + left;
    if (left === 0) this.count = at;
    else this.lengths[at] = left;
    this.bytes--;
    return place;
  }

  /** Stores one byte at a place that `takeLastByte` gave. */
  storeAt(place: number, value: number): void {
    const region = this.#memory.regions[Math.floor(place / REGION_STRIDE)];
    if (region !== undefined) region.bytes[place % REGION_STRIDE] = value;
  }

  /** Takes the first bytes off. @returns false, and leaves the vector as it is, when it has fewer */
  dropFirst(length: number): boolean {
    if (length > this.bytes) return false;
    this.bytes -= length;
    let whole = 0;
    let left = length;
    while (left > 0 && left >= (this.lengths[whole] as number)) left -= this.lengths[whole++] as number;
    if (whole > 0) {
      this.count -= whole;
      for (let i = 0; i < this.count; i++) {
        this.regions[i] = this.regions[i + whole] as number;
        this.offsets[i] = this.offsets[i + whole] as number;
        this.lengths[i] = this.lengths[i + whole] as number;
      }
    }
    if (left > 0) {
      this.offsets[0] = (this.offsets[0] as number) + left;
      this.lengths[0] = (this.lengths[0] as number) - left;
    }
    return true;
  }

  /** Copies bytes out, from byte `from` on. @returns how many: as many as there are and as fit */
  copyTo(target: Uint8Array, from = 0): number {
    let skip = from;
    let done = 0;
    for (let i = 0; i < this.count && done < target.length; i++) {
      const have = this.lengths[i] as number;
      if (skip >= have) {
        skip -= have;
        continue;
      }
      const start = (this.offsets[i] as number) + skip;
      const count = Math.min(have - skip, target.length - done);
      const { bytes } = this.#region(i);
      // A loop beats set() with its subarray as long as a header is meant.
      if (count <= 32) for (let k = 0; k < count; k++) target[done + k] = bytes[start + k] as number;
      else target.set(bytes.subarray(start, start + count), done);
      done += count;
      skip = 0;
    }
    return done;
  }

  /** Copies `source` in, to byte `at` on. @returns how many bytes: as many as there are and as fit */
  copyFrom(source: Uint8Array, at = 0): number {
    let skip = at;
    let done = 0;
    for (let i = 0; i < this.count && done < source.length; i++) {
      const have = this.lengths[i] as number;
      if (skip >= have) {
        skip -= have;
        continue;
      }
      const start = (this.offsets[i] as number) + skip;
      const count = Math.min(have - skip, source.length - done);
      const { bytes } = this.#region(i);
      if (count <= 32) for (let k = 0; k < count; k++) bytes[start + k] = source[done + k] as number;
      else bytes.set(done === 0 && count === source.length ? source : source.subarray(done, done + count), start);
      done += count;
      skip = 0;
    }
    return done;
  }

  /** Sets every byte to `value`. */
  fill(value: number): void {
    for (let i = 0; i < this.count; i++) {
      const start = this.offsets[i] as number;
      this.#region(i).bytes.fill(value, start, start + (this.lengths[i] as number));
    }
  }

  /** Stores one byte. Outside the vector nothing happens. */
  setU8(at: number, value: number): void {
    let skip = at;
    for (let i = 0; i < this.count; i++) {
      const have = this.lengths[i] as number;
      if (skip < have) {
        this.#region(i).bytes[(this.offsets[i] as number) + skip] = value;
        return;
      }
      skip -= have;
    }
  }

  /** The segments as byte arrays over guest memory: short-lived objects, for backends written in TypeScript. */
  windows(): Uint8Array[] {
    return Array.from({ length: this.count }, (_, i) => {
      const start = this.offsets[i] as number;
      return this.#region(i).bytes.subarray(start, start + (this.lengths[i] as number));
    });
  }

  #region(segment: number) {
    // `add` gets indices of regions only.
    return this.#memory.regions[this.regions[segment] as number] as Regions['regions'][number];
  }

  #grow(): void {
    const double = this.lengths.length * 2;
    const grown = {
      regions: new Uint8Array(double),
      offsets: new Uint32Array(double),
      lengths: new Uint32Array(double),
    };
    grown.regions.set(this.regions);
    grown.offsets.set(this.offsets);
    grown.lengths.set(this.lengths);
    Object.assign(this, grown);
  }
}
