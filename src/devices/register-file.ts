// The register file: all device state of a machine as named 32-bit fields in one shared buffer.
// ECMAScript §25.4 (Atomics): each access here is sequentially consistent with each other one.

/** One field of a device: what it starts as, and what it is. */
export interface FieldRow {
  /** 0 when not given. */
  readonly initial?: number;
  readonly doc: string;
}
/** Name → row. Names of hardware registers are the specification's own, in capitals. */
export type FieldRows = Readonly<Record<string, FieldRow>>;
/** The fields of a device, by the names of its rows. */
export type FieldsOf<R extends FieldRows> = { readonly [K in keyof R]: Field };

/** A field as the explorer, the trace and a snapshot list it. */
export interface FieldEntry {
  readonly device: string;
  readonly name: string;
  readonly doc: string;
  readonly field: Field;
}

/** A run of bytes in the register file (a ring's cells, CMOS RAM). */
export interface AreaEntry {
  readonly device: string;
  readonly name: string;
  readonly doc: string;
  /** Live: the bytes change while the machine runs. */
  readonly bytes: Uint8Array<SharedArrayBuffer>;
}

/** All that is in a register file, by name: what a snapshot keeps of a machine's devices. */
export interface SavedRegisters {
  readonly fields: readonly (readonly [device: string, name: string, value: number])[];
  /** Up to the last byte that is not 0: most of them are rings with little in them. */
  readonly areas: readonly (readonly [device: string, name: string, bytes: Uint8Array])[];
}

/** One 32-bit word that any thread may read and change. Values are unsigned; the operations return the old value. */
export class Field {
  constructor(
    readonly words: Int32Array<SharedArrayBuffer>,
    /** Index into `words`. */
    readonly index: number,
  ) {}

  get(): number {
    return Atomics.load(this.words, this.index) >>> 0;
  }
  set(value: number): void {
    Atomics.store(this.words, this.index, value | 0);
  }
  exchange(value: number): number {
    return Atomics.exchange(this.words, this.index, value | 0) >>> 0;
  }
  or(mask: number): number {
    return Atomics.or(this.words, this.index, mask | 0) >>> 0;
  }
  and(mask: number): number {
    return Atomics.and(this.words, this.index, mask | 0) >>> 0;
  }
  /** Wraps at 2^32. */
  add(value: number): number {
    return Atomics.add(this.words, this.index, value | 0) >>> 0;
  }
  /** Stores `replacement` when the field holds `expected`; returns what it held. */
  compareExchange(expected: number, replacement: number): number {
    return Atomics.compareExchange(this.words, this.index, expected | 0, replacement | 0) >>> 0;
  }
}

/** Header words: the fingerprint of the layout (0 until sealed), then the bytes in use. */
const FINGERPRINT = 0;
const HEADER_BYTES = 8;
/** Room for a machine with two UARTs and dozens of small devices. Not more: the allocator may zero it by hand. */
const DEFAULT_BYTES = 512 << 10;

/**
 * Allocation is a matter of order only: every thread that builds the same board in the same order over the same
 * buffer gets the same fields. The thread that created the file sets the initial values; `seal` catches the thread
 * that built another board.
 */
export class RegisterFile {
  readonly #buffer: SharedArrayBuffer;
  readonly #words: Int32Array<SharedArrayBuffer>;
  readonly #isCreator: boolean;
  readonly #fields: FieldEntry[] = [];
  readonly #areas: AreaEntry[] = [];
  readonly #devices = new Set<string>();
  #end = HEADER_BYTES;
  #fingerprint = FNV_OFFSET;

  private constructor(buffer: SharedArrayBuffer, isCreator: boolean) {
    this.#buffer = buffer;
    this.#words = new Int32Array(buffer);
    this.#isCreator = isCreator;
  }

  /** @param bytes room for all fields and areas, a multiple of 8 */
  static create(bytes = DEFAULT_BYTES): RegisterFile {
    return new RegisterFile(new SharedArrayBuffer(bytes), true);
  }

  /** The same file in another thread, from `share()`. Its fields keep the values they have. */
  static attach(buffer: SharedArrayBuffer): RegisterFile {
    return new RegisterFile(buffer, false);
  }

  share(): SharedArrayBuffer {
    return this.#buffer;
  }

  /**
   * Reserves the fields of one device.
   * @param device a name that no other device of the machine has: `COM1`
   * @throws RangeError when the file is full, TypeError when the name is taken
   */
  allocate<const R extends FieldRows>(device: string, rows: R): FieldsOf<R> {
    this.#claimName(device);
    const fields: Record<string, Field> = {};
    for (const [name, row] of Object.entries(rows)) {
      const field = new Field(this.#words, this.#reserve(device, name, 4) / 4);
      if (this.#isCreator) field.set(row.initial ?? 0);
      fields[name] = field;
      this.#fields.push({ device, name, doc: row.doc, field });
    }
    return fields as FieldsOf<R>;
  }

  /**
   * Reserves bytes, aligned to 8 and zeroed. Same errors as `allocate`.
   * @param initialise called on the creator's thread only
   */
  allocateArea(
    device: string,
    name: string,
    bytes: number,
    doc: string,
    initialise?: (area: Uint8Array<SharedArrayBuffer>) => void,
  ): Uint8Array<SharedArrayBuffer> {
    this.#claimName(`${device}.${name}`);
    this.#end = alignUp(this.#end, 8);
    const offset = this.#reserve(device, name, alignUp(bytes, 8));
    const area = new Uint8Array(this.#buffer, offset, bytes);
    if (this.#isCreator) initialise?.(area);
    this.#areas.push({ device, name, doc, bytes: area });
    return area;
  }

  /**
   * Ends the composition. The creator leaves the layout's fingerprint for the others, who compare theirs with it.
   * @throws Error when this thread's layout differs from the creator's
   */
  seal(): void {
    const mine = this.#fingerprint | 1;
    if (this.#isCreator) {
      Atomics.store(this.#words, FINGERPRINT, mine | 0);
      return;
    }
    const theirs = Atomics.load(this.#words, FINGERPRINT) >>> 0;
    if (theirs !== mine >>> 0)
      throw new Error(
        `cannot use the register file: this thread laid out ${this.#fields.length} fields otherwise than its creator ` +
          `(fingerprint ${(mine >>> 0).toString(16)}, not ${theirs.toString(16)}); build the same devices in the same order`,
      );
  }

  /** Bytes in use, the header included. */
  get usedBytes(): number {
    return this.#end;
  }

  /** A copy of everything, consistent while no thread changes it. */
  save(): SavedRegisters {
    return {
      fields: this.#fields.map(({ device, name, field }) => [device, name, field.get()]),
      areas: this.#areas.map(({ device, name, bytes }) => [device, name, bytes.slice(0, usedLength(bytes))]),
    };
  }

  /**
   * Takes over what another machine with the same devices has saved; before any other thread uses the file.
   * @throws Error that names the first device in which they differ; some fields may have been set then
   */
  load(saved: SavedRegisters): void {
    const values = new Map(saved.fields.map(([device, name, value]) => [`${device}.${name}`, value]));
    const contents = new Map(saved.areas.map(([device, name, bytes]) => [`${device}.${name}`, bytes]));
    for (const { device, name, field } of this.#fields) {
      const value = values.get(`${device}.${name}`);
      if (value === undefined) throw new Error(`the snapshot has no ${name} of ${device}, which this machine has`);
      field.set(value);
      values.delete(`${device}.${name}`);
    }
    for (const { device, name, bytes } of this.#areas) {
      const content = contents.get(`${device}.${name}`);
      if (content === undefined) throw new Error(`the snapshot has no ${name} of ${device}, which this machine has`);
      if (content.length > bytes.length)
        throw new Error(`the snapshot's ${name} of ${device} has ${content.length} bytes, of ${bytes.length} at most`);
      bytes.set(content);
      bytes.fill(0, content.length);
      contents.delete(`${device}.${name}`);
    }
    const [other] = [...values.keys(), ...contents.keys()];
    if (other !== undefined) throw new Error(`the snapshot has ${other}, which this machine lacks`);
  }

  /** In order of allocation. */
  get fields(): readonly FieldEntry[] {
    return this.#fields;
  }

  get areas(): readonly AreaEntry[] {
    return this.#areas;
  }

  #claimName(name: string): void {
    if (this.#devices.has(name)) throw new TypeError(`the register file already has a device named ${name}`);
    this.#devices.add(name);
  }

  #reserve(device: string, name: string, bytes: number): number {
    const offset = this.#end;
    if (offset + bytes > this.#buffer.byteLength)
      throw new RangeError(
        `cannot reserve ${bytes} bytes for ${device}.${name}: the register file has ${this.#buffer.byteLength}, of which ` +
          `${offset} are in use; create it larger`,
      );
    this.#end = offset + bytes;
    for (const character of `${device}.${name}@${offset}+${bytes};`)
      this.#fingerprint = Math.imul(this.#fingerprint ^ (character.codePointAt(0) ?? 0), FNV_PRIME);
    return offset;
  }
}

/** FNV-1a, 32 bit. */
const FNV_OFFSET = 0x811c_9dc5;
const FNV_PRIME = 0x0100_0193;

function alignUp(value: number, alignment: number): number {
  return Math.ceil(value / alignment) * alignment;
}

function usedLength(bytes: Uint8Array): number {
  let length = bytes.length;
  while (length > 0 && bytes[length - 1] === 0) length--;
  return length;
}
