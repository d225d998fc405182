// The PVH boot protocol: a 32-bit entry named by an ELF note, EBX at hvm_start_info.
// Xen docs/misc/pvh.pandoc; xen/include/public/arch-x86/hvm/start_info.h.
import { PVH_START_INFO, ZERO_PAGE } from '../memory/layout.js';
import { defineStruct } from '../memory/struct.js';
import { bootState, placeBootTables } from './boot-state.js';
import { type ElfImage, isLinux } from './elf.js';
import { BootError } from './errors.js';
import { placeFirmware } from './firmware.js';
import { checkInitrd } from './initrd.js';
import { INITRD_BOUNDS, LINUX_CMDLINE_SIZE, type Load, placeCmdline, placeInitrd, placeSegments } from './loader.js';

/** "xEn3" with the 0x80 bit of the "E" set. */
export const XEN_HVM_START_MAGIC_VALUE = 0x336e_c578;
/** The version with a memory map. */
const VERSION = 1;

export const hvmStartInfo = defineStruct('hvm_start_info', 56, {
  magic: [0, 'u32'],
  version: [4, 'u32'],
  flags: [8, 'u32'],
  nr_modules: [12, 'u32'],
  modlist_paddr: [16, 'u64'],
  cmdline_paddr: [24, 'u64'],
  rsdp_paddr: [32, 'u64'],
  memmap_paddr: [40, 'u64'],
  memmap_entries: [48, 'u32'],
});
export const hvmModlistEntry = defineStruct('hvm_modlist_entry', 32, {
  paddr: [0, 'u64'],
  size: [8, 'u64'],
  cmdline_paddr: [16, 'u64'],
});
export const hvmMemmapEntry = defineStruct('hvm_memmap_table_entry', 24, {
  addr: [0, 'u64'],
  size: [8, 'u64'],
  type: [16, 'u32'],
});

/** Loader for an ELF kernel with a PVH note. @param entry the note's 32-bit physical address */
export function pvh(elf: ElfImage, entry: number): Load {
  return (context) => {
    const { kernel, placement, e820 } = context;
    // Other kernels may take any file as their module.
    if (isLinux(elf)) checkInitrd(context.initrd);
    const blame = { file: kernel.name, field: 'p_paddr' };
    placeBootTables(placement, 'protected', blame);
    const rsdp = placeFirmware(context);
    const cmdline = placeCmdline(context, isLinux(elf) ? LINUX_CMDLINE_SIZE : Infinity);
    const modules = hvmStartInfo.size;
    const memmap = modules + (context.initrd ? hvmModlistEntry.size : 0);
    const info = new Uint8Array(memmap + e820.length * hvmMemmapEntry.size);
    if (info.byteLength > ZERO_PAGE - PVH_START_INFO)
      throw new BootError(
        'memory',
        'memmap_entries',
        `the memory map's ${e820.length} entries do not fit into the start info; give the guest less memory`,
      );
    // Claimed before the segments, so that a segment that lies there is the one to be refused; filled below.
    placement.add('hvm_start_info', PVH_START_INFO, info, blame);
    placeSegments(context, elf, entry, 'XEN_ELFNOTE_PHYS32_ENTRY');
    const initrd = placeInitrd(context, INITRD_BOUNDS);
    hvmStartInfo.encode(
      {
        magic: XEN_HVM_START_MAGIC_VALUE,
        version: VERSION,
        nr_modules: initrd ? 1 : 0,
        modlist_paddr: BigInt(initrd ? PVH_START_INFO + modules : 0),
        cmdline_paddr: BigInt(cmdline),
        rsdp_paddr: BigInt(rsdp),
        memmap_paddr: BigInt(PVH_START_INFO + memmap),
        memmap_entries: e820.length,
      },
      info,
    );
    if (initrd)
      hvmModlistEntry.encode({ paddr: BigInt(initrd.base), size: BigInt(initrd.size) }, info.subarray(modules));
    for (const [i, { base, size, type }] of e820.entries())
      hvmMemmapEntry.encode(
        { addr: BigInt(base), size: BigInt(size), type },
        info.subarray(memmap + i * hvmMemmapEntry.size),
      );
    return bootState({ mode: 'protected', entry, regs: { rbx: BigInt(PVH_START_INFO) } });
  };
}
