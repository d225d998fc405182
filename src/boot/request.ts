// What a caller asks of the loaders, and what it gets back: the types at this folder's door.
// Linux Documentation/arch/x86/boot.rst; KVM API 4.12 and 4.13 for the registers.
import type { AddressRange } from '../memory/layout.js';
import type { BootState, FlatMode } from './boot-registers.js';
import type { E820Entry } from './e820.js';
import type { FileSource } from './image-file.js';

/**
 * How the image is entered. `auto` finds out from the file. `linux64`, `pvh` and `multiboot` insist on one of the
 * protocols that the file offers; `real`, `protected` and `long` take the file as a flat binary, whatever is in it.
 */
export type EntryChoice = 'auto' | 'linux64' | 'pvh' | 'multiboot' | FlatMode;

export type { FlatMode } from './boot-registers.js';

export type ImageFormat = 'elf-linux' | 'elf-pvh' | 'bzimage' | 'multiboot' | 'flat';

/** Which tables tell the guest about processors and interrupts. */
export type Firmware = 'mptable' | 'acpi' | 'both';

/** A virtio-mmio device for the DSDT: its window and its edge-triggered, active-high GSI. */
export interface MmioDevice extends AddressRange {
  readonly gsi: number;
}

export interface BootRequest {
  readonly kernel: FileSource;
  /** Default `auto`. */
  readonly entry?: EntryChoice | undefined;
  /** GPA where a flat binary is put and entered; default 0x7c00 for `real`, 0x100000 for the others. Flat only. */
  readonly load?: number | undefined;
  /** For multiboot: the one module. Flat binaries take none. */
  readonly initrd?: FileSource | undefined;
  /** Without the kernel's name, which multiboot puts in front by itself. */
  readonly cmdline: string;
  /** Processors, from 1; processor n has APIC id n. */
  readonly cpus: number;
  readonly firmware: Firmware;
  /** 16 random bytes, of which ACPI tells the guest; default zeros. */
  readonly vmGenerationId?: Uint8Array | undefined;
  /** Random bytes for the kernel's generator (Linux 6.0 and later, not through PVH). */
  readonly rngSeed?: Uint8Array | undefined;
  readonly devices?: readonly MmioDevice[] | undefined;
}

/** A named range of guest memory that the loaders filled or keep free for the kernel. */
export interface Placed extends AddressRange {
  readonly name: string;
}

export interface BootPlan {
  readonly format: ImageFormat;
  /** Registers of the boot processor; the others wait for INIT and SIPI. */
  readonly entryState: BootState;
  /** The memory map that the guest is told, in ascending order. */
  readonly e820: readonly E820Entry[];
  /** In ascending order, not overlapping. */
  readonly placed: readonly Placed[];
}
