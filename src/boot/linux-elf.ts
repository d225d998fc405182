// Linux as an uncompressed ELF kernel (vmlinux), entered at startup_64 with boot_params.
// Linux Documentation/arch/x86/boot.rst, "64-bit Boot Protocol".
import { BOOT_FLAG, bootParams, HDRS, linuxEntry, LOADED_HIGH, placeBootParams } from './boot-params.js';
import type { ElfImage } from './elf.js';
import { BootError } from './errors.js';
import { checkInitrd } from './initrd.js';
import { INITRD_BOUNDS, LINUX_CMDLINE_SIZE, type Load, placeCmdline, placeInitrd, placeSegments } from './loader.js';

/** Boot protocol that the header below speaks: the first with `kernel_info`, of Linux 5.5. */
const PROTOCOL = 0x020f;

/** Loader for an ELF64 Linux kernel. */
export function linuxElf(elf: ElfImage): Load {
  return (context) => {
    if (elf.bits !== 64)
      throw new BootError(
        context.kernel.name,
        'e_ident[EI_CLASS]',
        'a 32-bit ELF kernel has no 64-bit entry; it needs a PVH note or a multiboot header',
      );
    // The file has no setup header; these are the fields that a kernel past its decompressor still looks at.
    const page = bootParams.encode({
      boot_flag: BOOT_FLAG,
      header: HDRS,
      version: PROTOCOL,
      loadflags: LOADED_HIGH,
      cmdline_size: LINUX_CMDLINE_SIZE,
    });
    checkInitrd(context.initrd);
    placeBootParams(context, page);
    placeCmdline(context, LINUX_CMDLINE_SIZE);
    placeSegments(context, elf, elf.entry, 'e_entry');
    return linuxEntry(elf.entry, page, placeInitrd(context, INITRD_BOUNDS));
  };
}
