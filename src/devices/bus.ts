// The two buses of the machine, I/O ports and MMIO: who serves an address, and what nobody's address reads as.
// Intel SDM vol. 1 §19 (I/O address space: ports, sizes, alignment); vol. 3A §12 (memory-mapped I/O).
import { PageTable, PortTable, type AddressTable } from './address-table.js';
import { valueMask } from './value-mask.js';

/**
 * Serves a range of ports or of guest-physical addresses; it sees offsets only.
 * Sizes are 1, 2 or 4 bytes and values are unsigned; an access never leaves the handler's range.
 * A handler must not throw: the guest chooses offset, size and value.
 */
export interface IoHandler {
  /** Who this is, in reports and error messages: `COM1`, `rtc`. */
  readonly name: string;
  read(offset: number, size: number): number;
  write(offset: number, size: number, value: number): void;
}

/** Who serves what: one row of a bus. */
export interface BusRow {
  /** First port, or first GPA. */
  readonly base: number;
  /** Length in bytes. */
  readonly length: number;
  readonly name: string;
  readonly handler: IoHandler;
}

/** Called on each access that nobody serves, on the thread that made it. It must not throw. */
export type OnUnclaimed = (address: number, size: number, isWrite: boolean) => void;

/**
 * One address space. Look-up takes the same time whatever the number of handlers, and allocates nothing.
 *
 * An access that no single handler's range holds entirely is made of byte accesses, in ascending order, as on a bus
 * of byte lanes: each byte goes to its own owner; nobody's bytes read as ones. Accesses of 8 bytes (MMIO) are two of
 * 4 bytes, low half first; the run loop makes them so, because a 64-bit value has no place in a number.
 */
export class Bus {
  /** How many accesses nobody served, on this thread. An access counts once, however many bytes it has. */
  unclaimed = 0;
  readonly #space: string;
  readonly #limit: number;
  readonly #table: AddressTable;
  readonly #onUnclaimed: OnUnclaimed | undefined;
  readonly #rows: BusRow[] = [];
  // Index 0 means nobody; these are read on each access, so they are parallel arrays and not rows.
  readonly #handlers: IoHandler[] = [NOBODY];
  #bases = new Float64Array(16);
  #ends = new Float64Array(16);

  private constructor(space: string, limit: number, table: AddressTable, onUnclaimed: OnUnclaimed | undefined) {
    this.#space = space;
    this.#limit = limit;
    this.#table = table;
    this.#onUnclaimed = onUnclaimed;
  }

  /** The 64 Ki I/O ports. */
  static ports(onUnclaimed?: OnUnclaimed): Bus {
    return new Bus('I/O port', 0x1_0000, new PortTable(), onUnclaimed);
  }

  /** Guest-physical addresses below 2^53. */
  static mmio(onUnclaimed?: OnUnclaimed): Bus {
    return new Bus('MMIO', Number.MAX_SAFE_INTEGER, new PageTable(), onUnclaimed);
  }

  /** In ascending order of `base`. */
  get handlers(): readonly BusRow[] {
    return this.#rows;
  }

  /**
   * Gives `length` bytes from `base` to `handler`.
   * @throws RangeError when the range is empty, outside the address space, or somebody else's
   */
  attach(base: number, length: number, handler: IoHandler): void {
    const range = `${this.#space} range ${formatRange(base, length)} for ${handler.name}`;
    if (!Number.isSafeInteger(base) || !Number.isSafeInteger(length) || base < 0 || length < 1)
      throw new RangeError(`cannot attach ${range}: base and length must be whole numbers, the length at least 1`);
    if (length > this.#limit - base)
      throw new RangeError(`cannot attach ${range}: it ends beyond ${hex(this.#limit - 1)}, the last address`);
    const other = this.#rows.find((row) => base < row.base + row.length && row.base < base + length);
    if (other !== undefined)
      throw new RangeError(
        `cannot attach ${range}: it overlaps ${formatRange(other.base, other.length)} of ${other.name}; move one of them`,
      );
    const index = this.#handlers.length;
    this.#table.claim(base, length, index);
    if (index >= this.#bases.length) {
      this.#bases = grow(this.#bases);
      this.#ends = grow(this.#ends);
    }
    this.#handlers.push(handler);
    this.#bases[index] = base;
    this.#ends[index] = base + length;
    this.#rows.push({ base, length, name: handler.name, handler });
    this.#rows.sort((a, b) => a.base - b.base);
  }

  /** @param size 1, 2 or 4 bytes */
  read(address: number, size: number): number {
    const index = this.#table.find(address);
    if (index !== 0 && address + size <= (this.#ends[index] ?? 0))
      return (this.#handlers[index] ?? NOBODY).read(address - (this.#bases[index] ?? 0), size) >>> 0;
    return this.#readBytes(address, size);
  }

  /** @param value unsigned, `size` bytes; higher bits are ignored */
  write(address: number, size: number, value: number): void {
    const index = this.#table.find(address);
    if (index !== 0 && address + size <= (this.#ends[index] ?? 0))
      (this.#handlers[index] ?? NOBODY).write(
        address - (this.#bases[index] ?? 0),
        size,
        (value & valueMask(size)) >>> 0,
      );
    else this.#writeBytes(address, size, value);
  }

  /** Who serves `address`; for reports and the trace. */
  rowAt(address: number): BusRow | undefined {
    const index = this.#table.find(address);
    return index === 0 ? undefined : this.#rows.find((row) => row.base === this.#bases[index]);
  }

  #readBytes(address: number, size: number): number {
    if (!this.#anyOwner(address, size)) {
      this.#nobody(address, size, false);
      return valueMask(size);
    }
    let value = 0;
    for (let i = 0; i < size; i++) {
      const index = this.#table.find(address + i);
      if (index === 0) this.#nobody(address + i, 1, false);
      const handler = this.#handlers[index] ?? NOBODY;
      value |= (handler.read(address + i - (this.#bases[index] ?? 0), 1) & 0xff) << (8 * i);
    }
    return value >>> 0;
  }

  #writeBytes(address: number, size: number, value: number): void {
    if (!this.#anyOwner(address, size)) {
      this.#nobody(address, size, true);
      return;
    }
    for (let i = 0; i < size; i++) {
      const index = this.#table.find(address + i);
      if (index === 0) this.#nobody(address + i, 1, true);
      const handler = this.#handlers[index] ?? NOBODY;
      handler.write(address + i - (this.#bases[index] ?? 0), 1, (value >>> (8 * i)) & 0xff);
    }
  }

  #anyOwner(address: number, size: number): boolean {
    for (let i = 0; i < size; i++) if (this.#table.find(address + i) !== 0) return true;
    return false;
  }

  #nobody(address: number, size: number, isWrite: boolean): void {
    this.unclaimed++;
    this.#onUnclaimed?.(address, size, isWrite);
  }
}

/** An undriven bus: reads as ones, swallows writes. */
const NOBODY: IoHandler = {
  name: 'nobody',
  read: (_offset, size) => valueMask(size),
  write: () => undefined,
};

function grow(array: Float64Array): Float64Array<ArrayBuffer> {
  const larger = new Float64Array(array.length * 2);
  larger.set(array);
  return larger;
}

function hex(value: number): string {
  return `0x${value.toString(16)}`;
}

function formatRange(base: number, length: number): string {
  return `${hex(base)}–${hex(base + length - 1)}`;
}
