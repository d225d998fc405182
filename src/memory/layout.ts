// Where everything lies: the one file with absolute guest-physical addresses, ports and GSIs, in ascending order.
// Intel SDM vol. 3A §10.4 (APIC), Linux Documentation/arch/x86/boot.rst (zero page, bzImage), MP specification 1.4 §4.
//
//   0x0_0000_0000 ┌──────────────────────────────┐
//                 │ real-mode IVT, boot GDT      │ GDT, PVH start info, zero page, page tables, command line
//   0x0_0009_fc00 ├──────────────────────────────┤
//                 │ EBDA: MP table               │ reserved in e820
//   0x0_000a_0000 ├──────────────────────────────┤
//                 │ (legacy video hole)          │
//   0x0_000e_0000 ├──────────────────────────────┤
//                 │ ACPI: RSDP and tables        │ reserved in e820
//   0x0_0010_0000 ├──────────────────────────────┤
//                 │ RAM: kernel image … initrd   │ initrd at the top of low RAM
//   0x0_c000_0000 ├──────────────────────────────┤ LOW_RAM_END
//                 │ 32-bit hole: virtio-mmio     │
//   0x0_fec0_0000 │   IOAPIC, LAPIC, KVM's TSS   │
//   0x1_0000_0000 ├──────────────────────────────┤ HIGH_RAM_START
//                 │ RAM above 4 GiB              │
//                 └──────────────────────────────┘

/** Size of a page in bytes. */
export const PAGE_SIZE = 4096;

/** BIOS data area: guests read the EBDA's place and the size of conventional memory here. */
export const BIOS_DATA_AREA = 0x400;
/** Boot GDT, for guests entered in protected or long mode. */
export const BOOT_GDT = 0x500;
/** Empty IDT that goes with the boot GDT. */
export const BOOT_IDT = 0x520;
/** `hvm_start_info` of the PVH boot protocol, with its module list and memory map behind it (up to ZERO_PAGE). */
export const PVH_START_INFO = 0x6000;
/** Linux `boot_params`, one page. */
export const ZERO_PAGE = 0x7000;
/** Initial stack top of a Linux or PVH entry; grows down, below the page tables. */
export const BOOT_STACK = 0x8ff0;
/** PML4, then PDPT, then four page directories: identity map of the first 4 GiB with 2 MiB pages. */
export const BOOT_PML4 = 0x9000;
/** `setup_data` chain (RNG seed). */
export const SETUP_DATA = 0x1f000;
/** Kernel command line, NUL-terminated. */
export const CMDLINE = 0x20000;
/** Room for the command line in bytes, its NUL included. */
export const CMDLINE_MAX = 0x10000;
/** Multiboot information, memory map and module list. */
export const MULTIBOOT_INFO = 0x30000;
/** End of conventional memory that is offered to the guest; the EBDA with the MP table begins. */
export const EBDA = 0x9fc00;
/** The MP floating pointer structure, then the MP configuration table. */
export const MP_TABLE = EBDA;
/** End of conventional memory, start of the video hole. */
export const VIDEO_HOLE = 0xa0000;
/** RSDP (found by the scan of 0xe0000–0xfffff, and passed in boot_params), then the ACPI tables. */
export const ACPI_RSDP = 0xe0000;
/** VM generation ID: 16 bytes on a page of their own, of which the DSDT tells ("Virtual Machine Generation ID", §2). */
export const VM_GENERATION_ID = 0xff000;
/** First byte after the area for ACPI tables, which is reserved as a whole. */
export const ACPI_END = 0x100000;
/** Start of RAM above the first megabyte; kernels are loaded from here on. */
export const HIGH_MEMORY = 0x100000;

/** End of RAM below 4 GiB. */
export const LOW_RAM_END = 0xc000_0000;
/** virtio-mmio windows, one page each, upwards from here. */
export const VIRTIO_MMIO_BASE = 0xd000_0000;
export const VIRTIO_MMIO_STRIDE = 0x1000;
/** The IOAPIC, which is the kernel's own. */
export const IOAPIC_BASE = 0xfec0_0000;
/** Each vCPU sees its own local APIC here; the kernel's, too. */
export const LAPIC_BASE = 0xfee0_0000;
/** One page for KVM_SET_IDENTITY_MAP_ADDR (VMX without unrestricted guest). */
export const KVM_IDENTITY_MAP = 0xfffb_c000;
/** Three pages for KVM_SET_TSS_ADDR (VMX). */
export const KVM_TSS = 0xfffb_d000;
/** Start of RAM above the 32-bit hole. */
export const HIGH_RAM_START = 0x1_0000_0000;

/** I/O ports. */
export const PORT = {
  PIC_MASTER: 0x20,
  PIT: 0x40,
  I8042_DATA: 0x60,
  SYSTEM_CONTROL_B: 0x61,
  I8042_COMMAND: 0x64,
  CMOS_INDEX: 0x70,
  CMOS_DATA: 0x71,
  POST_CODE: 0x80,
  DEBUG_EXIT: 0xf4,
  COM2: 0x2f8,
  COM1: 0x3f8,
  /** PM1a event block: status and enable, 4 bytes (ACPI 6.5 §4.8.3.1). */
  PM1A_EVENT: 0x600,
  /** PM1a control register: SLP_TYP and SLP_EN, 2 bytes (ACPI 6.5 §4.8.3.2). */
  PM1A_CONTROL: 0x604,
  /** ACPI reset register (ACPI 6.5 §4.8.3.6). */
  ACPI_RESET: 0x608,
} as const;

/** SLP_TYP that means S5 (soft off) on PM1A_CONTROL; the DSDT's \_S5 package names the same value. */
export const SLP_TYP_S5 = 5;
/** A write of this value to ACPI_RESET resets the machine. */
export const ACPI_RESET_VALUE = 0x0f;

/** Global system interrupts: the pins of the IOAPIC, one a device. */
export const GSI = {
  PIT: 0,
  COM2: 3,
  COM1: 4,
  RTC: 8,
  /** ACPI system control interrupt. */
  SCI: 9,
  /** ACPI's generic event device: the VM generation ID has changed. */
  GENERIC_EVENT: 23,
  /** Pins of KVM's in-kernel IOAPIC. */
  COUNT: 24,
} as const;

/**
 * GSIs of the virtio-mmio devices, in the order in which they are given away: ISA interrupts that nobody here has.
 * A device on the kernel command line names a Linux interrupt number, which is the GSI for the first sixteen only.
 */
export const VIRTIO_GSIS = [10, 11, 5, 6, 7, 14, 15, 12, 13] as const;
/** More of them, for guests that find their devices through ACPI alone. */
export const VIRTIO_ACPI_GSIS = [...VIRTIO_GSIS, 16, 17, 18, 19, 20, 21, 22] as const;

/** A stretch of guest-physical address space. */
export interface AddressRange {
  /** First GPA. */
  readonly base: number;
  /** Length in bytes. */
  readonly size: number;
}

/** Splits RAM around the 32-bit hole and into regions that one shared memory can hold. */
export function ramRanges(bytes: number, regionMax = LOW_RAM_END): AddressRange[] {
  const ranges: AddressRange[] = [{ base: 0, size: Math.min(bytes, LOW_RAM_END) }];
  let base = HIGH_RAM_START;
  for (let left = bytes - LOW_RAM_END; left > 0; left -= regionMax) {
    const size = Math.min(left, regionMax);
    ranges.push({ base, size });
    base += size;
  }
  return ranges;
}
