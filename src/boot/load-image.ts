// Turns a boot request into guest memory and the registers to start with: finds the format, plans, then writes.
// Nothing here touches KVM, so every bad file and option is refused before a VM exists.
import type { GuestMemory } from '../memory/guest-memory.js';
import { type AddressRange, ramRanges } from '../memory/layout.js';
import { bzImage, looksLikeBzImage, readBzImage } from './bzimage.js';
import { e820Map } from './e820.js';
import { ELF_MAGIC, isLinux, pvhEntry, readElf } from './elf.js';
import { BootError } from './errors.js';
import { flat, FLAT_MODES } from './flat.js';
import { type FileSource, ImageFile } from './image-file.js';
import { linuxElf } from './linux-elf.js';
import type { Load } from './loader.js';
import { findMultiboot, multiboot, MULTIBOOT_SEARCH } from './multiboot.js';
import { Placement } from './placement.js';
import { pvh } from './pvh.js';
import type { BootPlan, BootRequest, EntryChoice, FlatMode, ImageFormat } from './request.js';

/**
 * Loads the kernel and everything it is handed into guest memory.
 * @param memory fresh RAM: what the image wants zeroed is not cleared again
 * @returns the registers to start the boot processor with, and where everything was put
 * @throws BootError for a file, option or size with which no guest can start; memory may be partly written only when
 * a file failed while it was read
 */
export function loadImage(memory: GuestMemory, request: BootRequest): BootPlan {
  return withPlan(memory.regions, request, (placement) => placement.writeTo(memory));
}

/**
 * Makes all of `loadImage`'s checks with no guest memory at hand; reads only the files' headers.
 * @param bytes size of RAM
 * @throws BootError as loadImage
 */
export function checkBoot(bytes: number, request: BootRequest): BootPlan {
  return withPlan(ramRanges(bytes), request, () => undefined);
}

/** What a kernel file is, and how `auto` (or `entry`) would enter it. @throws BootError when it is no kernel */
export function inspectImage(source: FileSource, entry: EntryChoice = 'auto'): ImageFormat {
  using kernel = ImageFile.open(source, 'kernel');
  return identify(kernel, entry, undefined).format;
}

interface Identified {
  readonly format: ImageFormat;
  readonly load: Load;
}

function withPlan(ram: readonly AddressRange[], request: BootRequest, use: (placement: Placement) => void): BootPlan {
  checkRequest(request);
  using kernel = ImageFile.open(request.kernel, 'kernel');
  const { format, load } = identify(kernel, request.entry ?? 'auto', request.load);
  using initrd = request.initrd && ImageFile.open(request.initrd, 'initrd');
  const placement = new Placement(ram);
  const e820 = e820Map(ram);
  const entryState = load({ request, kernel, initrd, placement, e820 });
  use(placement);
  return { format, entryState, e820, placed: placement.list() };
}

/** What every format takes for granted, whoever calls. */
function checkRequest({ cpus, cmdline, load, entry = 'auto' }: BootRequest): void {
  if (!Number.isSafeInteger(cpus) || cpus < 1 || cpus > APIC_IDS)
    throw new BootError(
      'cpus',
      'cpus',
      `${cpus} is no number of processors; give a whole number from 1 to ${APIC_IDS}`,
    );
  if (cmdline.includes('\0'))
    throw new BootError(
      'cmdline',
      'cmdline',
      'the command line has a NUL in it, where the guest would stop reading; remove it',
    );
  if (load !== undefined && !isFlat(entry))
    throw new BootError(
      'load',
      'load',
      'a load address is for flat binaries only; add --entry real, protected or long',
    );
}

/** 8-bit APIC ids; 0xff is the broadcast. */
const APIC_IDS = 254;

/** One protocol that a file may offer; `find` gives its loader, or undefined when the file does not offer it. */
interface Protocol {
  readonly format: ImageFormat;
  /** The choice that insists on it; a bzImage is entered at its 64-bit entry. */
  readonly entry: EntryChoice;
  /** False for what `auto` would not take from this file though it could be had. */
  readonly find: (kernel: ImageFile, start: Uint8Array, insisted: boolean) => Load | undefined;
}

// In the order in which `auto` tries them.
const PROTOCOLS: readonly Protocol[] = [
  {
    format: 'bzimage',
    entry: 'linux64',
    find: (kernel, start) => (looksLikeBzImage(start) ? bzImage(readBzImage(kernel)) : undefined),
  },
  {
    format: 'multiboot',
    entry: 'multiboot',
    find: (_kernel, start) => {
      const header = findMultiboot(start);
      return header && multiboot(header);
    },
  },
  {
    // Linux is better off with boot_params, which carry the random seed; other kernels with a PVH note want PVH.
    format: 'elf-pvh',
    entry: 'pvh',
    find: (kernel, start, insisted) => {
      if (!isElf(start)) return undefined;
      const elf = readElf(kernel);
      const entry = pvhEntry(elf);
      return entry !== undefined && (insisted || !isLinux(elf) || elf.bits === 32) ? pvh(elf, entry) : undefined;
    },
  },
  {
    format: 'elf-linux',
    entry: 'linux64',
    find: (kernel, start) => (isElf(start) ? linuxElf(readElf(kernel)) : undefined),
  },
];

function identify(kernel: ImageFile, entry: EntryChoice, load: number | undefined): Identified {
  if (isFlat(entry)) return { format: 'flat', load: flat(entry, load) };
  const start = kernel.readStart(MULTIBOOT_SEARCH);
  for (const protocol of PROTOCOLS) {
    if (entry !== 'auto' && entry !== protocol.entry) continue;
    const found = protocol.find(kernel, start, entry === protocol.entry);
    if (found) return { format: protocol.format, load: found };
  }
  throw entry === 'auto'
    ? new BootError(
        kernel.name,
        'magic',
        'the file is neither an ELF kernel nor a bzImage nor a multiboot image, or it is cut off before its header; for a flat binary add --entry real, protected or long',
      )
    : new BootError(
        kernel.name,
        'entry',
        `the file does not offer the entry "${entry}" that was asked for; leave --entry out to take what it has`,
      );
}

function isElf(start: Uint8Array): boolean {
  return ELF_MAGIC.every((byte, i) => start[i] === byte);
}

function isFlat(entry: EntryChoice): entry is FlatMode {
  return FLAT_MODES.some((mode) => mode === entry);
}
