// Linux' boot_params, the "zero page": setup header, memory map, command line, initrd, random seed.
// Linux Documentation/arch/x86/boot.rst and zero-page.rst; arch/x86/include/uapi/asm/bootparam.h.
import { PAGE_SIZE, SETUP_DATA, ZERO_PAGE, CMDLINE } from '../memory/layout.js';
import { defineStruct, type Fields } from '../memory/struct.js';
import { bootState, type BootState, placeBootTables } from './boot-state.js';
import { BootError } from './errors.js';
import { placeFirmware } from './firmware.js';
import type { LoadContext, PlacedInitrd } from './loader.js';

/** `struct boot_params`, the fields that a loader reads or writes; 0x1f1 on is `struct setup_header`. */
export const bootParams = defineStruct('boot_params', PAGE_SIZE, {
  acpi_rsdp_addr: [0x070, 'u64'],
  ext_ramdisk_image: [0x0c0, 'u32'],
  ext_ramdisk_size: [0x0c4, 'u32'],
  ext_cmd_line_ptr: [0x0c8, 'u32'],
  e820_entries: [0x1e8, 'u8'],
  setup_sects: [0x1f1, 'u8'],
  syssize: [0x1f4, 'u32'],
  boot_flag: [0x1fe, 'u16'],
  jump: [0x200, 'u16'],
  header: [0x202, 'u32'],
  version: [0x206, 'u16'],
  type_of_loader: [0x210, 'u8'],
  loadflags: [0x211, 'u8'],
  code32_start: [0x214, 'u32'],
  ramdisk_image: [0x218, 'u32'],
  ramdisk_size: [0x21c, 'u32'],
  cmd_line_ptr: [0x228, 'u32'],
  initrd_addr_max: [0x22c, 'u32'],
  kernel_alignment: [0x230, 'u32'],
  relocatable_kernel: [0x234, 'u8'],
  xloadflags: [0x236, 'u16'],
  cmdline_size: [0x238, 'u32'],
  setup_data: [0x250, 'u64'],
  pref_address: [0x258, 'u64'],
  init_size: [0x260, 'u32'],
});

export type BootParams = Partial<Fields<typeof bootParams.rows>>;

/** Offset of `struct setup_header`, in a bzImage and in boot_params alike. */
export const SETUP_HEADER = 0x1f1;
/** First byte after the room for the setup header in boot_params. */
export const SETUP_HEADER_END = 0x290;
export const BOOT_FLAG = 0xaa55;
/** "HdrS". */
export const HDRS = 0x5372_6448;
export const LOADED_HIGH = 1 << 0;
/** "Undefined" boot loader, for loaders without a number of their own. */
const TYPE_OF_LOADER_UNDEFINED = 0xff;

const E820_TABLE = 0x2d0;
const E820_MAX_ENTRIES_ZEROPAGE = 128;
const e820Entry = defineStruct('boot_e820_entry', 20, { addr: [0, 'u64'], size: [8, 'u64'], type: [16, 'u32'] });

const SETUP_RNG_SEED = 9;
const setupData = defineStruct('setup_data', 16, { next: [0, 'u64'], type: [8, 'u32'], len: [12, 'u32'] });

/**
 * Claims the fixed places of all that the 64-bit entry needs: GDT, page tables, zero page, random seed, firmware tables.
 * Called before the kernel's own segments are placed, so that a segment that lies there is the one to be refused.
 * @param page the setup header to start from, at its offset in a boot_params page; it is filled in place
 */
export function placeBootParams(context: LoadContext, page: Uint8Array): void {
  const { placement, e820, kernel } = context;
  placeBootTables(placement, 'long', { file: kernel.name, field: 'boot tables' });
  bootParams.encode(
    {
      acpi_rsdp_addr: BigInt(placeFirmware(context)),
      e820_entries: Math.min(e820.length, E820_MAX_ENTRIES_ZEROPAGE),
      type_of_loader: TYPE_OF_LOADER_UNDEFINED,
      cmd_line_ptr: CMDLINE,
      setup_data: BigInt(placeSeed(context)),
    },
    page,
  );
  for (const [i, { base, size, type }] of e820.slice(0, E820_MAX_ENTRIES_ZEROPAGE).entries())
    e820Entry.encode({ addr: BigInt(base), size: BigInt(size), type }, page.subarray(E820_TABLE + i * e820Entry.size));
  placement.add('boot_params', ZERO_PAGE, page, { file: kernel.name, field: 'boot tables' });
}

/** Notes the initrd in the zero page, and gives the state of the 64-bit entry: long mode, RSI at the zero page. */
export function linuxEntry(entry: number, page: Uint8Array, initrd: PlacedInitrd | undefined): BootState {
  if (initrd)
    bootParams.encode(
      {
        ramdisk_image: initrd.base % 2 ** 32,
        ext_ramdisk_image: Math.floor(initrd.base / 2 ** 32),
        ramdisk_size: initrd.size % 2 ** 32,
        ext_ramdisk_size: Math.floor(initrd.size / 2 ** 32),
      },
      page,
    );
  return bootState({ mode: 'long', entry, regs: { rsi: BigInt(ZERO_PAGE) } });
}

/** Plans the setup_data node with the random seed; Linux erases it when it has read it. Returns its GPA, or 0. */
function placeSeed({ placement, request: { rngSeed } }: LoadContext): number {
  if (rngSeed === undefined || rngSeed.byteLength === 0) return 0;
  const room = CMDLINE - SETUP_DATA - setupData.size;
  if (rngSeed.byteLength > room)
    throw new BootError(
      'rngSeed',
      'rngSeed',
      `the seed has ${rngSeed.byteLength} bytes, but there is room for ${room}; 32 are enough`,
    );
  const node = new Uint8Array(setupData.size + rngSeed.byteLength);
  setupData.encode({ next: 0n, type: SETUP_RNG_SEED, len: rngSeed.byteLength }, node);
  node.set(rngSeed, setupData.size);
  placement.add('setup_data: random seed', SETUP_DATA, node, { file: 'rngSeed', field: 'rngSeed' });
  return SETUP_DATA;
}
