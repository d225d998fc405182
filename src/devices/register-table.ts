// Registers as rows, compiled into a handler: the run loop, the trace, the documentation and the tests read the same rows.
// Byte enables as on a bus: a register wider than the access sees which of its bits are meant.
import type { IoHandler, RegisterReader, RegisterWriter } from './bus.js';
import { valueMask } from './value-mask.js';

/** One register. Without `read` it reads as ones, without `write` it ignores writes. */
export interface RegisterRow {
  /** From the start of the device, in bytes. */
  readonly offset: number;
  /** The specification's own name. */
  readonly name: string;
  /** In bytes: 1, 2 or 4. */
  readonly size: number;
  /** @returns the whole register, unsigned */
  readonly read?: RegisterReader;
  /** `mask` has the bits that the access covers (all, unless it is narrower than the register); others are 0 in `value`. */
  readonly write?: RegisterWriter;
}

/** What is said about a register without touching it. */
export interface RegisterInfo {
  readonly offset: number;
  readonly name: string;
  readonly size: number;
  readonly access: 'read' | 'write' | 'read-write';
}

/** A handler whose registers have names. */
export interface RegisterHandler extends IoHandler {
  readonly registers: readonly RegisterInfo[];
  /** Name of the register that a read or a write of `offset` meets, for the trace. */
  registerName(offset: number, isWrite: boolean): string | undefined;
}

/**
 * Rows may share an offset when one is read and the other written (IIR and FCR). Accesses of any size are cut at the
 * registers' borders, in ascending order; bytes of no register read as ones.
 */
export class RegisterTable implements RegisterHandler {
  readonly registers: readonly RegisterInfo[];
  /** By offset: the row that a read, or a write, of this byte meets. */
  readonly #readers: (RegisterRow | undefined)[];
  readonly #writers: (RegisterRow | undefined)[];

  /** @throws TypeError when two rows claim the same byte for the same direction, or a size is not 1, 2 or 4 */
  constructor(
    readonly name: string,
    rows: readonly RegisterRow[],
  ) {
    const length = rows.reduce((end, row) => Math.max(end, row.offset + row.size), 0);
    this.#readers = Array.from({ length });
    this.#writers = Array.from({ length });
    this.registers = rows.map((row) => {
      if (row.size !== 1 && row.size !== 2 && row.size !== 4)
        throw new TypeError(`${name}.${row.name}: a register has 1, 2 or 4 bytes, not ${row.size}`);
      if (row.read) occupy(this.#readers, row, name);
      if (row.write) occupy(this.#writers, row, name);
      const access = row.read ? (row.write ? 'read-write' : 'read') : 'write';
      return { offset: row.offset, name: row.name, size: row.size, access };
    });
  }

  read(offset: number, size: number): number {
    const row = this.#readers[offset];
    if (row?.read !== undefined && row.offset === offset && row.size === size) return row.read() >>> 0;
    return this.#readParts(offset, size);
  }

  write(offset: number, size: number, value: number): void {
    const row = this.#writers[offset];
    if (row?.write !== undefined && row.offset === offset && row.size === size) {
      const mask = valueMask(size);
      row.write((value & mask) >>> 0, mask);
    } else this.#writeParts(offset, size, value);
  }

  reader(offset: number, size: number): RegisterReader | undefined {
    const row = this.#readers[offset];
    return row?.offset === offset && row.size === size ? row.read : undefined;
  }

  writer(offset: number, size: number): RegisterWriter | undefined {
    const row = this.#writers[offset];
    return row?.offset === offset && row.size === size ? row.write : undefined;
  }

  registerName(offset: number, isWrite: boolean): string | undefined {
    return (isWrite ? this.#writers : this.#readers)[offset]?.name;
  }

  #readParts(offset: number, size: number): number {
    let value = 0;
    for (let done = 0; done < size;) {
      const row = this.#readers[offset + done];
      const shift = row === undefined ? 0 : offset + done - row.offset;
      const count = row === undefined ? 1 : Math.min(size - done, row.size - shift);
      const part = row?.read === undefined ? 0xff : row.read() >>> (8 * shift);
      value |= (part & valueMask(count)) << (8 * done);
      done += count;
    }
    return value >>> 0;
  }

  #writeParts(offset: number, size: number, value: number): void {
    for (let done = 0; done < size;) {
      const row = this.#writers[offset + done];
      const shift = row === undefined ? 0 : offset + done - row.offset;
      const count = row === undefined ? 1 : Math.min(size - done, row.size - shift);
      const mask = valueMask(count);
      row?.write?.((((value >>> (8 * done)) & mask) << (8 * shift)) >>> 0, (mask << (8 * shift)) >>> 0);
      done += count;
    }
  }
}

function occupy(slots: (RegisterRow | undefined)[], row: RegisterRow, device: string): void {
  for (let at = row.offset; at < row.offset + row.size; at++) {
    const other = slots[at];
    if (other !== undefined)
      throw new TypeError(`${device}: registers ${other.name} and ${row.name} both lie at offset 0x${at.toString(16)}`);
    slots[at] = row;
  }
}
