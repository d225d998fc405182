// Packed little-endian structures as rows: name → [offset, type]. Used for kernel interface structs and boot structures.
// Layouts come from the header or specification that the table's owner names; nothing here knows any of them.

/** A field's type: an unsigned integer of 1 to 8 bytes, or raw bytes of a fixed length. `u64` is a bigint. */
export type FieldType = 'u8' | 'u16' | 'u32' | 'i32' | 'u64' | 'i64' | `bytes${number}`;

/** One row: offset in bytes from the start of the structure, then the type. */
export type Row = readonly [offset: number, type: FieldType];
export type Rows = Readonly<Record<string, Row>>;

type ValueOf<T extends FieldType> = T extends 'u64' | 'i64' ? bigint : T extends `bytes${number}` ? Uint8Array : number;
export type Fields<R extends Rows> = { -readonly [K in keyof R]: ValueOf<R[K][1]> };

/** A packed structure: its size and rows, and the two directions between bytes and values. */
export interface Struct<R extends Rows> {
  readonly name: string;
  /** Size in bytes. */
  readonly size: number;
  readonly rows: R;
  /** Reads every field. `bytes` fields are copies. @throws RangeError when fewer than `size` bytes are there. */
  decode(bytes: Uint8Array): Fields<R>;
  /** Writes the given fields into zeroed (or the given) bytes; fields not given keep what is there. */
  encode(values: Partial<Fields<R>>, into?: Uint8Array): Uint8Array;
}

type Reader = (view: DataView, at: number) => number | bigint;
type Writer = (view: DataView, at: number, value: never) => void;

const READERS: Readonly<Record<string, Reader>> = {
  u8: (view, at) => view.getUint8(at),
  u16: (view, at) => view.getUint16(at, true),
  u32: (view, at) => view.getUint32(at, true),
  i32: (view, at) => view.getInt32(at, true),
  u64: (view, at) => view.getBigUint64(at, true),
  i64: (view, at) => view.getBigInt64(at, true),
};

const WRITERS: Readonly<Record<string, Writer>> = {
  u8: (view, at, value: number) => view.setUint8(at, value),
  u16: (view, at, value: number) => view.setUint16(at, value, true),
  u32: (view, at, value: number) => view.setUint32(at, value, true),
  i32: (view, at, value: number) => view.setInt32(at, value, true),
  u64: (view, at, value: bigint) => view.setBigUint64(at, value, true),
  i64: (view, at, value: bigint) => view.setBigInt64(at, value, true),
};

/** Builds a structure of `size` bytes from its rows. Rows are checked to lie inside it. */
export function defineStruct<const R extends Rows>(name: string, size: number, rows: R): Struct<R> {
  for (const [field, [offset, type]] of Object.entries(rows)) {
    if (offset + sizeOf(type) > size)
      throw new RangeError(`${name}.${field} ends beyond the structure's ${size} bytes`);
  }
  return {
    name,
    size,
    rows,
    decode(bytes) {
      if (bytes.byteLength < size)
        throw new RangeError(`${name}: ${size} bytes are needed, ${bytes.byteLength} are there`);
      const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
      const values: Record<string, number | bigint | Uint8Array> = {};
      for (const [field, [offset, type]] of Object.entries(rows)) {
        const read = READERS[type];
        values[field] = read ? read(view, offset) : bytes.slice(offset, offset + sizeOf(type));
      }
      return values as Fields<R>;
    },
    encode(values, into = new Uint8Array(size)) {
      if (into.byteLength < size)
        throw new RangeError(`${name}: ${size} bytes are needed, ${into.byteLength} are there`);
      const view = new DataView(into.buffer, into.byteOffset, into.byteLength);
      for (const [field, value] of Object.entries(values)) {
        const row = rows[field];
        if (row === undefined) throw new TypeError(`${name} has no field ${field}`);
        const [offset, type] = row;
        const write = WRITERS[type];
        if (write) write(view, offset, value as never);
        else {
          const data = value as Uint8Array;
          if (data.byteLength > sizeOf(type))
            throw new RangeError(`${name}.${field} holds ${sizeOf(type)} bytes, ${data.byteLength} were given`);
          into.set(data, offset);
        }
      }
      return into;
    },
  };
}

const SIZES: Readonly<Record<string, number>> = { u8: 1, u16: 2, u32: 4, i32: 4, u64: 8, i64: 8 };

function sizeOf(type: FieldType): number {
  return SIZES[type] ?? Number(type.slice('bytes'.length));
}
