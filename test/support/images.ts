// Hand-made kernel images and initrds, small enough that a test can cut them at every byte.
// Layouts written out here a second time, from the specifications, so that a loader is not tested with its own tables.

export interface ElfSegmentSpec {
  /** PT_LOAD = 1 (default), PT_NOTE = 4. */
  readonly type?: number;
  readonly vaddr?: bigint;
  readonly paddr: bigint;
  readonly bytes: Uint8Array;
  /** Size in memory; default the bytes' length. */
  readonly memsz?: bigint;
}

export interface ElfSpec {
  readonly bits?: 32 | 64;
  readonly entry: bigint;
  readonly segments: readonly ElfSegmentSpec[];
  /** Overwrites after building: offset → bytes. */
  readonly patch?: Readonly<Record<number, readonly number[]>>;
}

/** An ELF executable whose segments follow its headers, each at a multiple of 16 bytes. */
export function elfImage({ bits = 64, entry, segments, patch = {} }: ElfSpec): Uint8Array {
  const wide = bits === 64;
  const ehdrSize = wide ? 64 : 52;
  const phdrSize = wide ? 56 : 32;
  let offset = align(ehdrSize + segments.length * phdrSize, 16);
  const offsets = segments.map(({ bytes }) => {
    const at = offset;
    offset = at + align(bytes.byteLength, 16);
    return at;
  });
  const last = segments.at(-1);
  const image = new Uint8Array((offsets.at(-1) ?? offset) + (last?.bytes.byteLength ?? 0));
  const view = new DataView(image.buffer);
  const word = (at: number, value: bigint) =>
    wide ? view.setBigUint64(at, value, true) : view.setUint32(at, Number(value), true);

  image.set([0x7f, 0x45, 0x4c, 0x46, wide ? 2 : 1, 1, 1]);
  view.setUint16(16, 2, true);
  view.setUint16(18, wide ? 62 : 3, true);
  view.setUint32(20, 1, true);
  word(24, entry);
  word(wide ? 32 : 28, BigInt(ehdrSize));
  view.setUint16(wide ? 52 : 40, ehdrSize, true);
  view.setUint16(wide ? 54 : 42, phdrSize, true);
  view.setUint16(wide ? 56 : 44, segments.length, true);
  for (const [i, { type = 1, paddr, vaddr = paddr, bytes, memsz = BigInt(bytes.byteLength) }] of segments.entries()) {
    const at = ehdrSize + i * phdrSize;
    const filesz = BigInt(bytes.byteLength);
    const start = BigInt(offsets[i] ?? 0);
    view.setUint32(at, type, true);
    const fields = [start, vaddr, paddr, filesz, memsz];
    for (const [j, value] of fields.entries()) word(at + (wide ? 8 + j * 8 : 4 + j * 4), value);
    if (wide) view.setBigUint64(at + 48, 4n, true);
    else view.setUint32(at + 28, 4, true);
    image.set(bytes, offsets[i] ?? 0);
  }
  for (const [at, bytes] of Object.entries(patch)) image.set(bytes, Number(at));
  return image;
}

/** One ELF note, padded to 4. */
export function elfNote(name: string, type: number, desc: readonly number[]): Uint8Array {
  const nameSize = name.length + 1;
  const bytes = new Uint8Array(12 + align(nameSize, 4) + align(desc.length, 4));
  const view = new DataView(bytes.buffer);
  view.setUint32(0, nameSize, true);
  view.setUint32(4, desc.length, true);
  view.setUint32(8, type, true);
  bytes.set(Buffer.from(name), 12);
  bytes.set(desc, 12 + align(nameSize, 4));
  return bytes;
}

/** The PVH note: Xen, XEN_ELFNOTE_PHYS32_ENTRY. */
export function pvhNote(entry: number): Uint8Array {
  return elfNote('Xen', 18, [...u32(entry), 0, 0, 0, 0]);
}

/** A note as Linux has them. */
export function linuxNote(): Uint8Array {
  return elfNote('Linux', 0x101, [0, 0, 0, 0]);
}

export interface BzImageSpec {
  readonly payload?: number;
  readonly fields?: Readonly<Record<number, readonly number[]>>;
}

/** A bzImage of protocol 2.15 that prefers 16 MiB; `fields` overwrite bytes of its header. */
export function bzImageFile({ payload = 0x1000, fields = {} }: BzImageSpec = {}): Uint8Array {
  const setup = 2 * 512;
  const image = new Uint8Array(setup + payload);
  const rows: Readonly<Record<number, readonly number[]>> = {
    0x1f1: [1],
    0x1f4: u32(payload / 16),
    0x1fe: [0x55, 0xaa],
    0x200: [0xeb, 0x6a],
    0x202: [...Buffer.from('HdrS')],
    0x206: [0x0f, 0x02],
    0x211: [1],
    0x22c: u32(0x7fff_ffff),
    0x230: u32(0x20_0000),
    0x234: [1],
    0x236: [0x3f, 0],
    0x238: u32(2047),
    0x258: [...u32(0x100_0000), 0, 0, 0, 0],
    0x260: u32(0x20_0000),
    ...fields,
  };
  for (const [at, bytes] of Object.entries(rows)) image.set(bytes, Number(at));
  image.fill(0x90, setup);
  return image;
}

export interface MultibootSpec {
  readonly flags?: number;
  /** header_addr, load_addr, load_end_addr, bss_end_addr, entry_addr. */
  readonly addresses?: readonly number[];
}

/** A multiboot header with a right checksum. */
export function multibootHeader({ flags = 3, addresses = [] }: MultibootSpec = {}): Uint8Array {
  const magic = 0x1bad_b002;
  return Uint8Array.from([magic, flags, -(magic + flags), ...addresses].flatMap(u32));
}

/** An uncompressed newc archive with its trailer. */
export function cpioArchive(files: Readonly<Record<string, string>>): Uint8Array {
  const entries = [...Object.entries(files), ['TRAILER!!!', '']] as const;
  return new Uint8Array(Buffer.concat(entries.map(([name, text]) => cpioEntry(name, Buffer.from(text)))));
}

function cpioEntry(name: string, data: Uint8Array): Uint8Array {
  const fields = [1, 0o100755, 0, 0, 1, 0, data.byteLength, 0, 0, 0, 0, name.length + 1, 0];
  const header = `070701${fields.map((value) => value.toString(16).padStart(8, '0')).join('')}${name}\0`;
  const dataAt = align(header.length, 4);
  const bytes = new Uint8Array(align(dataAt + data.byteLength, 4));
  bytes.set(Buffer.from(header));
  bytes.set(data, dataAt);
  return bytes;
}

/** Four little-endian bytes. */
export function u32(value: number): number[] {
  const unsigned = value >>> 0;
  return [0, 8, 16, 24].map((shift) => (unsigned >>> shift) & 0xff);
}

function align(value: number, to: number): number {
  return Math.ceil(value / to) * to;
}
