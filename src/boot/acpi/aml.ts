// A small AML assembler: just the terms and resource descriptors that the DSDT needs, each as its bytes.
// ACPI 6.5 §20.2 (AML grammar) and §6.4 (resource data types).

/** The bytes of one or more AML terms. */
export type Aml = Uint8Array;

/** \_SB and the like: one path from the root. */
export function scope(path: string, ...terms: Aml[]): Aml {
  return packaged([SCOPE_OP], concat([nameString(path), ...terms]));
}

export function device(name: string, ...terms: Aml[]): Aml {
  return packaged([EXT_OP_PREFIX, DEVICE_OP], concat([nameString(name), ...terms]));
}

/** Name(name, value). */
export function named(name: string, value: Aml): Aml {
  return concat([bytes(NAME_OP), nameString(name), value]);
}

/** Method(name, arguments, serialized) of the given terms. */
export function method(name: string, args: number, ...terms: Aml[]): Aml {
  const SERIALIZED = 1 << 3;
  return packaged([METHOD_OP], concat([nameString(name), bytes(args | SERIALIZED), ...terms]));
}

/** Notify(object, value); the name is looked up outwards from the scope (§5.3). */
export function notify(object: string, value: number): Aml {
  return concat([bytes(NOTIFY_OP), nameString(object), integer(value)]);
}

/** An unsigned integer below 2^32, in as few bytes as it takes. */
export function integer(value: number): Aml {
  if (value === 0) return bytes(ZERO_OP);
  if (value === 1) return bytes(ONE_OP);
  const form = INTEGERS.find(({ below }) => value < below);
  if (form === undefined || value < 0 || !Number.isSafeInteger(value))
    throw new RangeError(`AML integer: ${value} is not from 0 to 2^32 - 1`);
  return concat([bytes(form.prefix), littleEndian(value, form.size)]);
}

/** A string of ASCII characters. */
export function string(text: string): Aml {
  return concat([bytes(STRING_PREFIX), new TextEncoder().encode(`${text}\0`)]);
}

/** Package of at most 255 elements. */
export function packageOf(...elements: Aml[]): Aml {
  return packaged([PACKAGE_OP], concat([bytes(elements.length), ...elements]));
}

/** A hardware id such as PNP0501, in the compressed form of EISA (§19.3.4). */
export function eisaId(id: string): Aml {
  if (!/^[A-Z]{3}[0-9A-F]{4}$/.test(id))
    throw new RangeError(`EISA id: "${id}" is not three letters and four hex digits`);
  const letter = (at: number) => id.charCodeAt(at) - 0x40;
  const letters = (letter(0) << 10) | (letter(1) << 5) | letter(2);
  const product = Number.parseInt(id.slice(3), 16);
  // The id is stored with its most significant byte first.
  const swapped = new DataView(new ArrayBuffer(4));
  swapped.setUint16(0, letters);
  swapped.setUint16(2, product);
  return concat([bytes(DWORD_PREFIX), new Uint8Array(swapped.buffer)]);
}

/** ResourceTemplate: a buffer of descriptors with its end tag. */
export function resources(...descriptors: Aml[]): Aml {
  // A checksum of 0 in the end tag means that there is none.
  const content = concat([...descriptors, bytes(END_TAG, 0)]);
  return packaged([BUFFER_OP], concat([integer(content.byteLength), content]));
}

/** `length` I/O ports from `port` on, 16-bit decoded (§6.4.2.5). */
export function io(port: number, length: number): Aml {
  const DECODE_16 = 1;
  return concat([bytes(0x47, DECODE_16), littleEndian(port, 2), littleEndian(port, 2), bytes(1, length)]);
}

/** ISA interrupt, edge-triggered and active-high, not shared (§6.4.2.1 without flags). */
export function irq(line: number): Aml {
  return concat([bytes(0x22), littleEndian(1 << line, 2)]);
}

/** A read-write window of memory (§6.4.3.4). */
export function memory32Fixed(base: number, size: number): Aml {
  const READ_WRITE = 1;
  return concat([bytes(0x86), littleEndian(9, 2), bytes(READ_WRITE), littleEndian(base, 4), littleEndian(size, 4)]);
}

/** A GSI, edge-triggered and active-high, not shared (§6.4.3.6). */
export function interrupt(gsi: number): Aml {
  const CONSUMER = 1 << 0;
  const EDGE = 1 << 1;
  return concat([bytes(0x89), littleEndian(6, 2), bytes(CONSUMER | EDGE, 1), littleEndian(gsi, 4)]);
}

const ZERO_OP = 0x00;
const ONE_OP = 0x01;
const NAME_OP = 0x08;
const DWORD_PREFIX = 0x0c;
const STRING_PREFIX = 0x0d;
const SCOPE_OP = 0x10;
const BUFFER_OP = 0x11;
const PACKAGE_OP = 0x12;
const METHOD_OP = 0x14;
const EXT_OP_PREFIX = 0x5b;
const NOTIFY_OP = 0x86;
const DEVICE_OP = 0x82;
const END_TAG = 0x79;

const INTEGERS = [
  { below: 2 ** 8, prefix: 0x0a, size: 1 },
  { below: 2 ** 16, prefix: 0x0b, size: 2 },
  { below: 2 ** 32, prefix: DWORD_PREFIX, size: 4 },
] as const;

/** One name segment of up to four characters, after a root prefix where the text has one. */
function nameString(text: string): Aml {
  const match = /^(\\?)([A-Z_][A-Z0-9_]{0,3})$/.exec(text);
  if (match === null) throw new RangeError(`AML name: "${text}" is not one segment of up to four characters`);
  return new TextEncoder().encode(`${match[1] ?? ''}${(match[2] ?? '').padEnd(4, '_')}`);
}

/** `opcode PkgLength content`; the length counts its own bytes (§20.2.4). */
function packaged(opcode: readonly number[], content: Aml): Aml {
  return concat([bytes(...opcode), packageLength(content.byteLength), content]);
}

function packageLength(content: number): Aml {
  if (content + 1 < 0x40) return bytes(content + 1);
  // The first byte holds the count of those that follow it and the length's low four bits.
  const following = [1, 2, 3].find((count) => content + 1 + count < 2 ** (4 + 8 * count));
  if (following === undefined) throw new RangeError(`AML package: ${content} bytes are too long`);
  const length = content + 1 + following;
  return concat([bytes((following << 6) | (length & 0xf)), littleEndian(length >>> 4, following)]);
}

function littleEndian(value: number, size: number): Aml {
  return Uint8Array.from({ length: size }, (_, i) => Math.floor(value / 2 ** (8 * i)) % 256);
}

function bytes(...values: number[]): Aml {
  return Uint8Array.from(values);
}

function concat(parts: readonly Aml[]): Aml {
  return new Uint8Array(Buffer.concat(parts));
}
