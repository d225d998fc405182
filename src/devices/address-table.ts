// From an address to the index of its owner in constant time: one table for ports, one for MMIO.
// Intel SDM vol. 1 §19.3 (64 Ki ports); pages of 4 KiB as in src/memory/layout.
import { PAGE_SIZE } from '../memory/layout.js';

/** Who owns an address. Owners are small whole numbers from 1; 0 means nobody. */
export interface AddressTable {
  /** Gives a range, which the caller knows to be free, to `owner`. @throws RangeError when the table is full */
  claim(base: number, length: number, owner: number): void;
  /** Any number is allowed; what is no address has no owner. */
  find(address: number): number;
  /** As `find`, below 4 GiB. @param address as a signed 32-bit integer */
  findLow(address: number): number;
}

const PAGE_SHIFT = Math.log2(PAGE_SIZE);
/** Bits of an address within its page. */
const IN_PAGE = PAGE_SIZE - 1;

/** One byte a port. The host commits only the pages of it that are touched. */
export class PortTable implements AddressTable {
  readonly #owners = new Uint8Array(0x1_0000);

  claim(base: number, length: number, owner: number): void {
    if (owner > 0xff) throw new RangeError('cannot attach more than 255 devices to the I/O ports of one machine');
    this.#owners.fill(owner, base, base + length);
  }

  find(address: number): number {
    return this.#owners[address] ?? 0;
  }

  findLow(address: number): number {
    return this.#owners[address] ?? 0;
  }
}

/** Entries from here on are numbers of tables of bytes, for pages of several owners. */
const FIRST_SHARED = 0x8000;
const MOST_SHARED = 0x8000;
/** Below it two levels of tables, as a processor has them: 1024 entries of 4 MiB, each 1024 of a page. */
export const LOW_END = 2 ** 32;
const LEAF_ENTRIES = 1024;
const LEAF_SHIFT = PAGE_SHIFT + 10;

/** From an address to its owner in two loads, or three where a page has several owners; above 4 GiB through a map. */
export class PageTable implements AddressTable {
  /** Stands for every leaf that nobody has claimed a page of; never written. */
  readonly #nobody = new Uint16Array(LEAF_ENTRIES);
  readonly #leaves = Array.from<unknown, Uint16Array>(
    { length: LOW_END / PAGE_SIZE / LEAF_ENTRIES },
    () => this.#nobody,
  );
  readonly #shared: Uint16Array[] = [];
  readonly #high = new Map<number, number>();

  claim(base: number, length: number, owner: number): void {
    if (owner >= FIRST_SHARED)
      throw new RangeError(`cannot attach more than ${FIRST_SHARED - 1} devices to the MMIO bus of one machine`);
    const end = base + length;
    for (let page = pageOf(base); page * PAGE_SIZE < end; page++) {
      const from = Math.max(0, base - page * PAGE_SIZE);
      const to = Math.min(PAGE_SIZE, end - page * PAGE_SIZE);
      if (to - from === PAGE_SIZE) this.#setEntry(page, owner);
      else this.#bytesOf(page).fill(owner, from, to);
    }
  }

  find(address: number): number {
    return address >= 0 && address < LOW_END ? this.findLow(address | 0) : this.#findHigh(address);
  }

  findLow(address: number): number {
    const entry = (this.#leaves[address >>> LEAF_SHIFT] as Uint16Array)[
      (address >>> PAGE_SHIFT) & (LEAF_ENTRIES - 1)
    ] as number;
    if (entry < FIRST_SHARED) return entry;
    return (this.#shared[entry - FIRST_SHARED] as Uint16Array)[address & IN_PAGE] as number;
  }

  #setEntry(page: number, entry: number): void {
    const at = Math.floor(page / LEAF_ENTRIES);
    if (at >= this.#leaves.length) {
      this.#high.set(page, entry);
      return;
    }
    if (this.#leaves[at] === this.#nobody) this.#leaves[at] = new Uint16Array(LEAF_ENTRIES);
    (this.#leaves[at] as Uint16Array)[page % LEAF_ENTRIES] = entry;
  }

  #entryOf(page: number): number {
    return (
      (page * PAGE_SIZE < LOW_END
        ? this.#leaves[Math.floor(page / LEAF_ENTRIES)]?.[page % LEAF_ENTRIES]
        : this.#high.get(page)) ?? 0
    );
  }

  /** The table of a page's bytes, made when there is none. */
  #bytesOf(page: number): Uint16Array {
    const there = this.#shared[this.#entryOf(page) - FIRST_SHARED];
    if (there !== undefined) return there;
    if (this.#shared.length >= MOST_SHARED)
      throw new RangeError(`cannot attach devices to parts of more than ${MOST_SHARED} pages`);
    const bytes = new Uint16Array(PAGE_SIZE);
    this.#setEntry(page, FIRST_SHARED + this.#shared.push(bytes) - 1);
    return bytes;
  }

  #findHigh(address: number): number {
    const entry = this.#high.get(pageOf(address)) ?? 0;
    return entry < FIRST_SHARED ? entry : (this.#shared[entry - FIRST_SHARED]?.[address % PAGE_SIZE] ?? 0);
  }
}

function pageOf(address: number): number {
  return Math.floor(address / PAGE_SIZE);
}
