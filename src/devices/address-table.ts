// From an address to the index of its owner in constant time: one table for ports, one for MMIO.
// Intel SDM vol. 1 §19.3 (64 Ki ports); pages of 4 KiB as in src/memory/layout.
import { PAGE_SIZE } from '../memory/layout.js';

/** Who owns an address. Owners are small whole numbers from 1; 0 means nobody. */
export interface AddressTable {
  /** Gives a range, which the caller knows to be free, to `owner`. @throws RangeError when the table is full */
  claim(base: number, length: number, owner: number): void;
  /** Any number is allowed; what is no address has no owner. */
  find(address: number): number;
}

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
}

/**
 * A page that is all one owner's is a number in the map; a page of several owners has a table of its bytes.
 * The page of the last hit is kept, for the same device is usually asked again; a page's entry never changes for
 * another, since a table is filled in place and a page of one owner has no room.
 */
export class PageTable implements AddressTable {
  readonly #pages = new Map<number, number | Uint16Array>();
  #lastPage = -1;
  #last: number | Uint16Array = 0;

  claim(base: number, length: number, owner: number): void {
    if (owner > 0xffff) throw new RangeError('cannot attach more than 65535 devices to the MMIO bus of one machine');
    const end = base + length;
    for (let page = pageOf(base); page * PAGE_SIZE < end; page++) {
      const from = Math.max(0, base - page * PAGE_SIZE);
      const to = Math.min(PAGE_SIZE, end - page * PAGE_SIZE);
      if (to - from === PAGE_SIZE) {
        this.#pages.set(page, owner);
        continue;
      }
      const there = this.#pages.get(page);
      const bytes = there instanceof Uint16Array ? there : new Uint16Array(PAGE_SIZE);
      bytes.fill(owner, from, to);
      this.#pages.set(page, bytes);
    }
  }

  find(address: number): number {
    const page = pageOf(address);
    if (page !== this.#lastPage) {
      const found = this.#pages.get(page);
      if (found === undefined) return 0;
      this.#lastPage = page;
      this.#last = found;
    }
    const owners = this.#last;
    return typeof owners === 'number' ? owners : (owners[address % PAGE_SIZE] ?? 0);
  }
}

function pageOf(address: number): number {
  return Math.floor(address / PAGE_SIZE);
}
