// Linux as a bzImage, entered through its 64-bit entry point: its own decompressor finds the place to run.
// Linux Documentation/arch/x86/boot.rst, "The Real-Mode Kernel Header" and "64-bit Boot Protocol".
import { HIGH_MEMORY, HIGH_RAM_START } from '../memory/layout.js';
import type { Fields } from '../memory/struct.js';
import {
  BOOT_FLAG,
  bootParams,
  HDRS,
  linuxEntry,
  placeBootParams,
  SETUP_HEADER,
  SETUP_HEADER_END,
} from './boot-params.js';
import { BootError, hex } from './errors.js';
import type { ImageFile } from './image-file.js';
import { checkInitrd } from './initrd.js';
import { INITRD_BOUNDS, type Load, placeCmdline, placeInitrd } from './loader.js';
import type { Bounds } from './placement.js';

/** A bzImage's setup header, and where the part that runs lies in the file. */
export interface BzImage {
  readonly header: Fields<typeof bootParams.rows>;
  /** The header alone, at its offset in an otherwise empty page. */
  readonly page: Uint8Array;
  readonly payloadOffset: number;
  readonly payloadSize: number;
}

/** True when the file says that it has a Linux setup header. @param start the first bytes of the file */
export function looksLikeBzImage(start: Uint8Array): boolean {
  if (start.byteLength < HEADER_MAGIC_END) return false;
  return new DataView(start.buffer, start.byteOffset).getUint32(HEADER_MAGIC_END - 4, true) === HDRS;
}

/** @throws BootError for a header that is damaged, truncated, or of a kernel without 64-bit entry */
export function readBzImage(file: ImageFile): BzImage {
  const page = new Uint8Array(bootParams.size);
  const lastField = SETUP_HEADER + FIXED_HEADER;
  page.set(file.read(SETUP_HEADER, lastField - SETUP_HEADER, 'the setup header'), SETUP_HEADER);
  // The byte after the jump's opcode is its distance, which is also where the header ends.
  const end = HEADER_MAGIC_END - 4 + (page[JUMP_DISTANCE] ?? 0);
  if (end < lastField || end > SETUP_HEADER_END)
    throw new BootError(
      file.name,
      'jump',
      `the setup header should end at ${hex(end)}, which is not where any header of protocol 2.12 ends; the file is damaged, get it anew`,
    );
  page.set(file.read(SETUP_HEADER, end - SETUP_HEADER, 'the setup header'), SETUP_HEADER);
  const header = bootParams.decode(page);
  check(file, header);
  const payloadOffset = ((header.setup_sects || SETUP_SECTS_DEFAULT) + 1) * SECTOR;
  const payloadSize = header.syssize * SYSSIZE_UNIT;
  file.require(payloadOffset, payloadSize, 'the kernel proper (setup_sects, syssize)');
  return { header, page, payloadOffset, payloadSize };
}

/** Loader for a bzImage. */
export function bzImage({ header, page, payloadOffset, payloadSize }: BzImage): Load {
  return (context) => {
    const { kernel, placement } = context;
    checkInitrd(context.initrd);
    placeBootParams(context, page);
    placeCmdline(context, header.cmdline_size);
    // A relocatable kernel loaded below its preferred address would move itself there anyway.
    const alignment = header.relocatable_kernel ? header.kernel_alignment : 1;
    const base = alignUp(Math.max(Number(header.pref_address), HIGH_MEMORY), alignment);
    const content = { file: kernel, offset: payloadOffset, size: payloadSize };
    const blame = { file: kernel.name, field: 'init_size' };
    placement.add('kernel', base, content, blame, Math.max(header.init_size, payloadSize));
    const initrd = placeInitrd(context, ...initrdBounds(header));
    bootParams.encode({ code32_start: base }, page);
    return linuxEntry(base + ENTRY_64, page, initrd);
  };
}

const HEADER_MAGIC_END = 0x206;
const JUMP_DISTANCE = 0x201;
/** Bytes of the header up to the end of init_size, which protocol 2.12 has. */
const FIXED_HEADER = 0x264 - SETUP_HEADER;
const SECTOR = 512;
const SYSSIZE_UNIT = 16;
/** What a setup_sects of 0 means. */
const SETUP_SECTS_DEFAULT = 4;
/** The 64-bit entry point, from the start of the loaded part. */
const ENTRY_64 = 0x200;
const XLF_KERNEL_64 = 1 << 0;
const XLF_CAN_BE_LOADED_ABOVE_4G = 1 << 1;
const PROTOCOL_MIN = 0x020c;

function check(file: ImageFile, header: BzImage['header']): void {
  const refuse = (field: string, problem: string) => new BootError(file.name, field, problem);
  if (header.boot_flag !== BOOT_FLAG)
    throw refuse(
      'boot_flag',
      `boot_flag is ${hex(header.boot_flag)}, but must be ${hex(BOOT_FLAG)}; the file is damaged, get it anew`,
    );
  if (header.version < PROTOCOL_MIN)
    throw refuse(
      'version',
      `boot protocol ${hex(header.version)} has no 64-bit entry, which came with ${hex(PROTOCOL_MIN)}; use Linux 3.8 or later`,
    );
  if (!(header.xloadflags & XLF_KERNEL_64))
    throw refuse('xloadflags', 'the kernel has no 64-bit entry (XLF_KERNEL_64); use an x86-64 kernel');
  if (!(header.loadflags & 1)) throw refuse('loadflags', 'the kernel wants to be loaded low (zImage); use a bzImage');
  const alignment = header.kernel_alignment;
  if (header.relocatable_kernel && (alignment === 0 || (alignment & (alignment - 1)) !== 0))
    throw refuse(
      'kernel_alignment',
      `kernel_alignment is ${hex(alignment)}, which is not a power of two; the file is damaged, get it anew`,
    );
  if (header.syssize * SYSSIZE_UNIT <= ENTRY_64)
    throw refuse(
      'syssize',
      `syssize is ${header.syssize}, too small to reach the entry point; the file is damaged, get it anew`,
    );
}

function initrdBounds(header: BzImage['header']): Bounds[] {
  const low = { from: INITRD_BOUNDS.from, to: Math.min(INITRD_BOUNDS.to, header.initrd_addr_max + 1) };
  const high = { from: HIGH_RAM_START, to: Infinity };
  return header.xloadflags & XLF_CAN_BE_LOADED_ABOVE_4G ? [low, high] : [low];
}

function alignUp(value: number, to: number): number {
  return Math.ceil(value / to) * to;
}
