// Guest RAM: shared, page-aligned memory in one region per stretch of RAM, with checked little-endian access by GPA.
// WebAssembly JavaScript Interface §5.2 (shared Memory objects); KVM API 4.35 (what a memory slot needs).
import { PAGE_SIZE, ramRanges } from './layout.js';

/** What crosses to another thread: the same bytes at the same address. Structured-cloneable. */
export interface SharedGuestMemory {
  readonly regions: readonly { readonly base: number; readonly buffer: SharedArrayBuffer }[];
}

/** One contiguous stretch of RAM. */
export interface GuestRegion {
  /** First GPA. */
  readonly base: number;
  /** Length in bytes, a multiple of the page size. */
  readonly size: number;
  /** The region's bytes; index 0 is GPA `base`. */
  readonly bytes: Uint8Array;
  readonly view: DataView;
  /** The same bytes as 16-bit words, for Atomics on the indices of rings. */
  readonly words16: Uint16Array<SharedArrayBuffer>;
  readonly words32: Uint32Array<SharedArrayBuffer>;
  readonly buffer: SharedArrayBuffer;
}

/** An access outside guest RAM, or across the end of a region. The guest may have chosen the address: catch it. */
export class GuestAddressError extends RangeError {
  override readonly name = 'GuestAddressError';
  constructor(
    readonly gpa: number,
    readonly length: number,
  ) {
    super(`no guest RAM at ${hex(gpa)} for ${length} bytes`);
  }
}

/**
 * The guest's RAM. Every access is checked against the regions; numbers are little-endian, at any alignment.
 * GPAs are numbers below 2^53; anything else (NaN, negative, fractional) is outside RAM.
 */
export class GuestMemory {
  /** Total RAM in bytes. */
  readonly size: number;

  private constructor(
    /** In ascending order of `base`, not overlapping. */
    readonly regions: readonly GuestRegion[],
  ) {
    this.size = regions.reduce((sum, region) => sum + region.size, 0);
  }

  /**
   * Allocates zeroed RAM (lazily committed by the host).
   * @param bytes a positive multiple of 64 KiB (the WebAssembly page)
   * @throws RangeError for other sizes, or when the host has no address space left
   */
  static create(bytes: number): GuestMemory {
    if (!Number.isSafeInteger(bytes) || bytes <= 0 || bytes % WASM_PAGE !== 0)
      throw new RangeError(`guest RAM: the size must be a positive multiple of ${WASM_PAGE} bytes, not ${bytes}`);
    return GuestMemory.attach({
      regions: ramRanges(bytes).map(({ base, size }) => ({ base, buffer: allocate(size) })),
    });
  }

  /** The same RAM in another thread, from what `share()` gave. */
  static attach(shared: SharedGuestMemory): GuestMemory {
    return new GuestMemory(
      shared.regions.map(({ base, buffer }) => ({
        base,
        size: buffer.byteLength,
        bytes: new Uint8Array(buffer),
        view: new DataView(buffer),
        words16: new Uint16Array(buffer),
        words32: new Uint32Array(buffer),
        buffer,
      })),
    );
  }

  share(): SharedGuestMemory {
    return { regions: this.regions.map(({ base, buffer }) => ({ base, buffer })) };
  }

  /** The region that holds all of `gpa … gpa + length - 1`, or undefined. */
  regionOf(gpa: number, length: number): GuestRegion | undefined {
    for (const region of this.regions) {
      const offset = gpa - region.base;
      // Compared by subtraction: gpa + length could pass 2^53 and lose bits.
      if (offset >= 0 && length >= 0 && offset <= region.size && length <= region.size - offset)
        return Number.isSafeInteger(gpa) ? region : undefined;
    }
    return undefined;
  }

  /** True when all `length` bytes at `gpa` are RAM of one region. */
  contains(gpa: number, length: number): boolean {
    return this.regionOf(gpa, length) !== undefined;
  }

  /** The bytes themselves, no copy; they change while the guest runs. @throws GuestAddressError */
  window(gpa: number, length: number): Uint8Array {
    const region = this.#find(gpa, length);
    return region.bytes.subarray(gpa - region.base, gpa - region.base + length);
  }

  /** A copy of `length` bytes. @throws GuestAddressError */
  read(gpa: number, length: number): Uint8Array {
    return this.window(gpa, length).slice();
  }

  /** Copies `bytes` to `gpa`. @throws GuestAddressError */
  write(gpa: number, bytes: Uint8Array): void {
    const region = this.#find(gpa, bytes.byteLength);
    region.bytes.set(bytes, gpa - region.base);
  }

  /** Sets `length` bytes to `value`. @throws GuestAddressError */
  fill(gpa: number, length: number, value = 0): void {
    this.window(gpa, length).fill(value);
  }

  readU8(gpa: number): number {
    const region = this.#find(gpa, 1);
    return region.view.getUint8(gpa - region.base);
  }

  readU16(gpa: number): number {
    const region = this.#find(gpa, 2);
    return region.view.getUint16(gpa - region.base, true);
  }

  readU32(gpa: number): number {
    const region = this.#find(gpa, 4);
    return region.view.getUint32(gpa - region.base, true);
  }

  readU64(gpa: number): bigint {
    const region = this.#find(gpa, 8);
    return region.view.getBigUint64(gpa - region.base, true);
  }

  writeU8(gpa: number, value: number): void {
    const region = this.#find(gpa, 1);
    region.view.setUint8(gpa - region.base, value);
  }

  writeU16(gpa: number, value: number): void {
    const region = this.#find(gpa, 2);
    region.view.setUint16(gpa - region.base, value, true);
  }

  writeU32(gpa: number, value: number): void {
    const region = this.#find(gpa, 4);
    region.view.setUint32(gpa - region.base, value, true);
  }

  writeU64(gpa: number, value: bigint): void {
    const region = this.#find(gpa, 8);
    region.view.setBigUint64(gpa - region.base, value, true);
  }

  #find(gpa: number, length: number): GuestRegion {
    const region = this.regionOf(gpa, length);
    if (region === undefined) throw new GuestAddressError(gpa, length);
    return region;
  }
}

/** Unit of a WebAssembly memory in bytes; sixteen pages of the guest. */
const WASM_PAGE = 16 * PAGE_SIZE;

// Node's type definitions leave WebAssembly to the DOM library, which has no place here.
declare const WebAssembly: {
  readonly Memory: new (descriptor: { initial: number; maximum: number; shared: true }) => {
    readonly buffer: SharedArrayBuffer;
  };
};

// A WebAssembly memory, because its bytes are page-aligned and shared; a SharedArrayBuffer's are not page-aligned,
// and KVM refuses those.
function allocate(bytes: number): SharedArrayBuffer {
  const pages = bytes / WASM_PAGE;
  return new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true }).buffer;
}

function hex(value: number): string {
  return Number.isSafeInteger(value) && value >= 0 ? `0x${value.toString(16)}` : String(value);
}
