// Multiboot 1: a header in the first 8 KiB of the file, protected mode, EBX at an information structure.
// Multiboot Specification 0.6.96 §3.1 (header), §3.2 (machine state), §3.3 (boot information).
import { BOOT_GDT, CMDLINE_MAX, EBDA, HIGH_MEMORY, MULTIBOOT_INFO, PAGE_SIZE } from '../memory/layout.js';
import { defineStruct, type Fields } from '../memory/struct.js';
import { bootGdt, bootState } from './boot-state.js';
import { E820_TYPE_RAM, type E820Entry } from './e820.js';
import { readElf } from './elf.js';
import { BootError, hex } from './errors.js';
import { placeFirmware } from './firmware.js';
import type { ImageFile } from './image-file.js';
import {
  cmdlineBytes,
  INITRD_BOUNDS,
  type Load,
  type LoadContext,
  type PlacedInitrd,
  placeInitrd,
  placeSegments,
} from './loader.js';

export const MULTIBOOT_HEADER_MAGIC = 0x1bad_b002;
export const MULTIBOOT_BOOTLOADER_MAGIC = 0x2bad_b002;

/** A header and where it lies in the file. */
export interface MultibootHeader {
  readonly offset: number;
  readonly flags: number;
}

/** Header flags. The lower half are demands: a loader that does not know one must refuse the image. */
const PAGE_ALIGN = 1 << 0;
const MEMORY_INFO = 1 << 1;
/** A wish for a video mode; the information structure then says that there is none. */
const VIDEO_MODE = 1 << 2;
const AOUT_KLUDGE = 1 << 16;
const DEMANDS_UNDERSTOOD = PAGE_ALIGN | MEMORY_INFO | VIDEO_MODE;

/** The header must lie within this many bytes. */
export const MULTIBOOT_SEARCH = 8192;

const basic = defineStruct('multiboot header', 12, { magic: [0, 'u32'], flags: [4, 'u32'], checksum: [8, 'u32'] });
const addresses = defineStruct('multiboot header addresses', 20, {
  header_addr: [0, 'u32'],
  load_addr: [4, 'u32'],
  load_end_addr: [8, 'u32'],
  bss_end_addr: [12, 'u32'],
  entry_addr: [16, 'u32'],
});

export const multibootInfo = defineStruct('multiboot_info', 116, {
  flags: [0, 'u32'],
  mem_lower: [4, 'u32'],
  mem_upper: [8, 'u32'],
  cmdline: [16, 'u32'],
  mods_count: [20, 'u32'],
  mods_addr: [24, 'u32'],
  mmap_length: [44, 'u32'],
  mmap_addr: [48, 'u32'],
  boot_loader_name: [64, 'u32'],
});
export const multibootMmap = defineStruct('multiboot mmap entry', 24, {
  size: [0, 'u32'],
  addr: [4, 'u64'],
  len: [12, 'u64'],
  type: [20, 'u32'],
});
export const multibootModule = defineStruct('multiboot module', 16, {
  mod_start: [0, 'u32'],
  mod_end: [4, 'u32'],
  string: [8, 'u32'],
});

/** Bits of multiboot_info.flags: which of its fields are valid. */
export const MULTIBOOT_INFO_FLAGS = {
  MEMORY: 1,
  CMDLINE: 1 << 2,
  MODS: 1 << 3,
  MMAP: 1 << 6,
  LOADER_NAME: 1 << 9,
} as const;

/** The header, or undefined when there is none. @param start the first MULTIBOOT_SEARCH bytes of the file */
export function findMultiboot(start: Uint8Array): MultibootHeader | undefined {
  const view = new DataView(start.buffer, start.byteOffset, start.byteLength);
  for (let offset = 0; offset + basic.size <= Math.min(start.byteLength, MULTIBOOT_SEARCH); offset += 4) {
    // Looked at first: decoding each of some two thousand places takes milliseconds.
    if (view.getUint32(offset, true) !== MULTIBOOT_HEADER_MAGIC) continue;
    const { magic, flags, checksum } = basic.decode(start.subarray(offset));
    if (((magic + flags + checksum) & 0xffff_ffff) === 0) return { offset, flags };
  }
  return undefined;
}

/** Loader for a multiboot image. */
export function multiboot(header: MultibootHeader): Load {
  return (context) => {
    const { kernel, placement } = context;
    const unknown = header.flags & 0xffff & ~DEMANDS_UNDERSTOOD;
    if (unknown !== 0)
      throw new BootError(
        kernel.name,
        'flags',
        `the multiboot header demands features ${hex(unknown)}, which multiboot 1 does not define; build the image for multiboot 1`,
      );
    placeFirmware(context);
    const entry = header.flags & AOUT_KLUDGE ? placeByAddresses(context, header) : placeElf(context);
    // The guest may not rely on a GDT (§3.2), so it gives way to an image that lies there.
    placement.addIfFree('boot GDT', BOOT_GDT, bootGdt('protected'));
    const info = placeInfo(context, placeInitrd(context, INITRD_BOUNDS));
    return bootState({
      mode: 'protected',
      entry,
      regs: { rax: BigInt(MULTIBOOT_BOOTLOADER_MAGIC), rbx: BigInt(info) },
    });
  };
}

function placeElf(context: LoadContext): number {
  const elf = readElf(context.kernel);
  placeSegments(context, elf, elf.entry, 'e_entry');
  return elf.entry;
}

/** Loads by the header's own addresses ("a.out kludge"). Returns the entry point. */
function placeByAddresses({ kernel, placement }: LoadContext, { offset }: MultibootHeader): number {
  const fields = addresses.decode(kernel.read(offset + basic.size, addresses.size, 'the multiboot header addresses'));
  const { header_addr, load_addr, load_end_addr, bss_end_addr, entry_addr } = fields;
  const start = offset - (header_addr - load_addr);
  if (load_addr > header_addr || start < 0) throw disorder(kernel, 'load_addr', fields);
  const size = load_end_addr === 0 ? kernel.size - start : load_end_addr - load_addr;
  if (size <= 0) throw disorder(kernel, 'load_end_addr', fields);
  kernel.require(start, size, 'the loaded part (load_addr, load_end_addr)');
  const total = bss_end_addr === 0 ? size : bss_end_addr - load_addr;
  if (total < size) throw disorder(kernel, 'bss_end_addr', fields);
  if (entry_addr < load_addr || entry_addr >= load_addr + size) throw disorder(kernel, 'entry_addr', fields);
  const blame = { file: kernel.name, field: 'load_addr' };
  placement.add('kernel', load_addr, { file: kernel, offset: start, size }, blame, total);
  return entry_addr;
}

function disorder(kernel: ImageFile, field: string, fields: Fields<typeof addresses.rows>): BootError {
  const all = Object.entries(fields).map(([name, value]) => `${name} ${hex(value)}`);
  return new BootError(
    kernel.name,
    field,
    `${field} contradicts the other multiboot addresses (${all.join(', ')}); relink the image`,
  );
}

/** Plans the information structure and what it points to, as one block. Returns its GPA. */
function placeInfo(context: LoadContext, initrd: PlacedInitrd | undefined): number {
  const { placement, kernel, e820, request } = context;
  const text = `${fileWord(kernel.name)} ${request.cmdline}`.trimEnd();
  const parts = {
    info: new Uint8Array(align4(multibootInfo.size)),
    mmap: mmapBytes(e820),
    mods: new Uint8Array(initrd ? multibootModule.size : 0),
    cmdline: cmdlineBytes(text, CMDLINE_MAX - 1),
    string: cmdlineBytes(context.initrd?.name ?? '', CMDLINE_MAX - 1),
    name: cmdlineBytes('Microvisor', CMDLINE_MAX - 1),
  };
  const size = Object.values(parts).reduce((sum, { byteLength }) => sum + align4(byteLength), 0);
  const base = placement.isFree(MULTIBOOT_INFO, size)
    ? MULTIBOOT_INFO
    : (placement.highest(size, { from: PAGE_SIZE, to: EBDA }) ?? placement.highest(size, INITRD_BOUNDS));
  if (base === undefined)
    throw new BootError(
      kernel.name,
      'multiboot_info',
      `there is no room for ${size} bytes of multiboot information beside the image; give the guest more memory`,
    );

  const block = new Uint8Array(size);
  const at = { info: 0, mmap: 0, mods: 0, cmdline: 0, string: 0, name: 0 };
  let offset = 0;
  for (const key of Object.keys(parts) as (keyof typeof parts)[]) {
    at[key] = base + offset;
    block.set(parts[key], offset);
    offset += align4(parts[key].byteLength);
  }
  const { MEMORY, CMDLINE, MODS, MMAP, LOADER_NAME } = MULTIBOOT_INFO_FLAGS;
  multibootInfo.encode(
    {
      flags: MEMORY | CMDLINE | MODS | MMAP | LOADER_NAME,
      mem_lower: EBDA / 1024,
      mem_upper: upperKiB(e820),
      cmdline: at.cmdline,
      mods_count: initrd ? 1 : 0,
      mods_addr: at.mods,
      mmap_length: parts.mmap.byteLength,
      mmap_addr: at.mmap,
      boot_loader_name: at.name,
    },
    block,
  );
  if (initrd)
    multibootModule.encode(
      { mod_start: initrd.base, mod_end: initrd.base + initrd.size, string: at.string },
      block.subarray(at.mods - base),
    );
  placement.add('multiboot information', base, block, { file: kernel.name, field: 'multiboot_info' });
  return base;
}

function mmapBytes(e820: readonly E820Entry[]): Uint8Array {
  const bytes = new Uint8Array(e820.length * multibootMmap.size);
  for (const [i, { base, size, type }] of e820.entries())
    multibootMmap.encode(
      // The size field does not count itself.
      { size: multibootMmap.size - 4, addr: BigInt(base), len: BigInt(size), type },
      bytes.subarray(i * multibootMmap.size),
    );
  return bytes;
}

/** KiB from 1 MiB to the first hole. */
function upperKiB(e820: readonly E820Entry[]): number {
  const first = e820.find(({ base, type }) => base === HIGH_MEMORY && type === E820_TYPE_RAM);
  return Math.floor((first?.size ?? 0) / 1024);
}

/** The kernel's name as one word: guests skip the first word of the command line. */
function fileWord(name: string): string {
  return name.replaceAll(/[\s\0]/g, '_');
}

function align4(value: number): number {
  return Math.ceil(value / 4) * 4;
}
