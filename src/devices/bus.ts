// The two buses of the machine, I/O ports and MMIO: who serves an address, and what nobody's address reads as.
// Intel SDM vol. 1 §19 (I/O address space: ports, sizes, alignment); vol. 3A §12 (memory-mapped I/O).
import { LOW_END, PageTable, PortTable, type AddressTable } from './address-table.js';
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
  /**
   * What such a read or write comes to, where that is one function of a register, the same each time: the bus then calls
   * it without asking again. Undefined where it is not.
   */
  reader?(offset: number, size: number): RegisterReader | undefined;
  writer?(offset: number, size: number): RegisterWriter | undefined;
}

export type RegisterReader = () => number;
/** `mask` has the bits that the access covers. */
export type RegisterWriter = (value: number, mask: number) => void;

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
  /**
   * As `read`, below 4 GiB.
   * @param address as a signed 32-bit integer: an unsigned one from 2^31 on is a box of its own to the compiler
   */
  readonly readLow: (address: number, size: number) => number;
  /** As `write`, below 4 GiB. @param address as a signed 32-bit integer @param value signed or unsigned */
  readonly writeLow: (address: number, size: number, value: number) => void;
  readonly #space: string;
  readonly #limit: number;
  readonly #table: AddressTable;
  readonly #onUnclaimed: OnUnclaimed | undefined;
  readonly #rows: BusRow[] = [];
  // Index 0 means nobody; these are read on each access, so they are parallel arrays and not rows.
  /** By owner number. */
  readonly #claims: Claim[] = [claimOf({ base: 0, length: 0, name: NOBODY.name, handler: NOBODY })];

  private constructor(space: string, limit: number, table: AddressTable, onUnclaimed: OnUnclaimed | undefined) {
    this.#space = space;
    this.#limit = limit;
    this.#table = table;
    this.#onUnclaimed = onUnclaimed;
    // Constants that the functions close over: the run loop is compiled for them.
    const owners = table;
    const claims = this.#claims;
    // Whatever was asked last is usually asked again, and is known by a few compares instead of a look-up: a register's
    // own function by its address and size, or else a handler without registers by its range.
    const last = new Int32Array(new ArrayBuffer(16)).fill(NOTHING);
    let reader: RegisterReader = () => 0;
    let writer: RegisterWriter = () => undefined;
    let mask = 0;
    let plain = claims[0] as Claim;

    this.readLow = (address, size) => {
      if (address === last[READ] && size === last[READ_SIZE]) return reader() >>> 0;
      const offset = (address - plain.base) | 0;
      if (offset < 0 || offset + size > plain.length) return readOther(address, size) >>> 0;
      return plain.read.call(plain.handler, offset, size) >>> 0;
    };

    this.writeLow = (address, size, value) => {
      const others = 32 - 8 * size;
      const bits = (value << others) >>> others;
      if (address === last[WRITTEN] && size === last[WRITTEN_SIZE]) {
        writer(bits, mask);
        return;
      }
      const offset = (address - plain.base) | 0;
      if (offset < 0 || offset + size > plain.length) writeOther(address, size, bits);
      else plain.write.call(plain.handler, offset, size, bits);
    };

    const readOther = (address: number, size: number): number => {
      const owner = owners.findLow(address);
      const claim = claims[owner] as Claim;
      const offset = (address - claim.base) | 0;
      if (offset + size > claim.length) return this.#readSlowly(owner, address >>> 0, size);
      const found = claim.reader?.call(claim.handler, offset, size);
      if (found === undefined) {
        if (claim.reader === undefined) plain = claim;
        return claim.read.call(claim.handler, offset, size);
      }
      reader = found;
      last[READ] = address;
      last[READ_SIZE] = size;
      return found();
    };

    const writeOther = (address: number, size: number, value: number): void => {
      const owner = owners.findLow(address);
      const claim = claims[owner] as Claim;
      const offset = (address - claim.base) | 0;
      if (offset + size > claim.length) {
        this.#writeSlowly(owner, address >>> 0, size, value);
        return;
      }
      const found = claim.writer?.call(claim.handler, offset, size);
      if (found === undefined) {
        if (claim.writer === undefined) plain = claim;
        claim.write.call(claim.handler, offset, size, value);
        return;
      }
      writer = found;
      mask = valueMask(size);
      last[WRITTEN] = address;
      last[WRITTEN_SIZE] = size;
      found(value, mask);
    };
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
    const row = { base, length, name: handler.name, handler };
    this.#table.claim(base, length, this.#claims.length);
    this.#claims.push(claimOf(row));
    this.#rows.push(row);
    this.#rows.sort((a, b) => a.base - b.base);
  }

  /** @param size 1, 2 or 4 bytes */
  read(address: number, size: number): number {
    if (address >= 0 && address < LOW_END) return this.readLow(address | 0, size);
    return this.#readSlowly(this.#table.find(address), address, size);
  }

  /** @param value unsigned, `size` bytes; higher bits are ignored */
  write(address: number, size: number, value: number): void {
    if (address >= 0 && address < LOW_END) this.writeLow(address | 0, size, value);
    else this.#writeSlowly(this.#table.find(address), address, size, value);
  }

  /** Who serves `address`; for reports and the trace. */
  rowAt(address: number): BusRow | undefined {
    const index = this.#table.find(address);
    return index === 0 ? undefined : this.#rowOf(index);
  }

  #rowOf(index: number): BusRow {
    return (this.#claims[index] as Claim).row;
  }

  // Above 4 GiB, nobody's, across a border, or of a range so long that the short way has no number for the offset.
  #readSlowly(owner: number, address: number, size: number): number {
    const { base, length, handler } = this.#rowOf(owner);
    if (owner !== 0 && address - base + size <= length) return handler.read(address - base, size) >>> 0;
    if (!this.#anyOwner(address, size)) {
      this.#nobody(address, size, false);
      return valueMask(size);
    }
    let value = 0;
    for (let i = 0; i < size; i++) {
      const index = this.#table.find(address + i);
      if (index === 0) this.#nobody(address + i, 1, false);
      const owner = this.#rowOf(index);
      value |= (owner.handler.read(address + i - owner.base, 1) & 0xff) << (8 * i);
    }
    return value >>> 0;
  }

  #writeSlowly(owner: number, address: number, size: number, value: number): void {
    const { base, length, handler } = this.#rowOf(owner);
    if (owner !== 0 && address - base + size <= length) {
      handler.write(address - base, size, (value & valueMask(size)) >>> 0);
      return;
    }
    if (!this.#anyOwner(address, size)) {
      this.#nobody(address, size, true);
      return;
    }
    for (let i = 0; i < size; i++) {
      const index = this.#table.find(address + i);
      if (index === 0) this.#nobody(address + i, 1, true);
      const owner = this.#rowOf(index);
      owner.handler.write(address + i - owner.base, 1, (value >>> (8 * i)) & 0xff);
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

/**
 * A row as the look-up needs it: small integers, and functions by themselves, since a machine's handlers have too many
 * shapes for a property of theirs to be found fast.
 */
interface Claim {
  /** Of the base the low 32 bits, signed: offsets are differences modulo 2^32. */
  readonly base: number;
  /** NOTHING for a range whose offsets need more than 31 bits, one that ends above 4 GiB, and for nobody. */
  readonly length: number;
  readonly handler: IoHandler;
  readonly read: IoHandler['read'];
  readonly write: IoHandler['write'];
  readonly reader: IoHandler['reader'];
  readonly writer: IoHandler['writer'];
  readonly row: BusRow;
}

const LONGEST_CLAIM = 2 ** 31 - 1;
/** No access ends within this, whatever its offset as a signed 32-bit integer. */
const NOTHING = -(2 ** 31);

function claimOf(row: BusRow): Claim {
  const { base, length, handler } = row;
  // Each is called with its handler as `this`.
  // oxlint-disable-next-line typescript/unbound-method
  const { read, write, reader, writer } = handler;
  return {
    base: base | 0,
    length: length > LONGEST_CLAIM || length === 0 || base + length > LOW_END ? NOTHING : length,
    handler,
    read,
    write,
    reader,
    writer,
    row,
  };
}

/** Words of what was asked last. */
const READ = 0;
const READ_SIZE = 1;
const WRITTEN = 2;
const WRITTEN_SIZE = 3;

function hex(value: number): string {
  return `0x${value.toString(16)}`;
}

function formatRange(base: number, length: number): string {
  return `${hex(base)}–${hex(base + length - 1)}`;
}
