// What every loader is given and what it gives back, and the steps that several of them share.
// The seam between load-image.ts, which knows all formats, and the formats, which do not know each other.
import { CMDLINE, CMDLINE_MAX, HIGH_MEMORY, LOW_RAM_END, PAGE_SIZE } from '../memory/layout.js';
import type { BootState } from './boot-state.js';
import type { E820Entry } from './e820.js';
import { type ElfImage, holdsCode } from './elf.js';
import { BootError, hex } from './errors.js';
import type { ImageFile } from './image-file.js';
import type { Bounds, Placement } from './placement.js';
import type { BootRequest } from './request.js';

/** What a loader works with. */
export interface LoadContext {
  readonly request: BootRequest;
  readonly kernel: ImageFile;
  readonly initrd: ImageFile | undefined;
  readonly placement: Placement;
  readonly e820: readonly E820Entry[];
}

/** Plans everything that a format puts into memory, and says how it is entered. @throws BootError */
export type Load = (context: LoadContext) => BootState;

/** Bytes of command line, its NUL not counted, that Linux keeps on x86 (COMMAND_LINE_SIZE). */
export const LINUX_CMDLINE_SIZE = 2047;

/** The command line with its NUL. @param max bytes that the kernel takes, the NUL not counted */
export function cmdlineBytes(text: string, max: number): Uint8Array {
  if (text.includes('\0'))
    throw new BootError(
      'cmdline',
      'cmdline',
      'the command line has a NUL in it, where the guest would stop reading; remove it',
    );
  const bytes = Buffer.from(`${text}\0`);
  const limit = Math.min(max, CMDLINE_MAX - 1);
  if (bytes.byteLength - 1 > limit)
    throw new BootError(
      'cmdline',
      'cmdline_size',
      `the command line is ${bytes.byteLength - 1} bytes long, but this kernel takes ${limit}; shorten it`,
    );
  return new Uint8Array(bytes);
}

/** Puts the command line at its fixed place. Returns its GPA. */
export function placeCmdline({ placement, request }: LoadContext, max: number): number {
  const blame = { file: 'cmdline', field: 'cmdline' };
  placement.add('command line', CMDLINE, cmdlineBytes(request.cmdline, max), blame);
  return CMDLINE;
}

/** Plans every PT_LOAD segment at its physical address, and checks that the entry point is code of the file. */
export function placeSegments({ placement, kernel }: LoadContext, elf: ElfImage, entry: number, field: string): void {
  for (const { index, offset, paddr, filesz, memsz } of elf.segments) {
    const blame = { file: kernel.name, field: 'p_paddr' };
    placement.add(`kernel segment ${index}`, paddr, { file: kernel, offset, size: filesz }, blame, memsz);
  }
  if (!holdsCode(elf, entry))
    throw new BootError(
      kernel.name,
      field,
      `the entry point ${hex(entry)} lies in none of the segments that the file loads; link it with a physical entry address`,
    );
}

/** Where an initrd ended up. */
export interface PlacedInitrd {
  readonly base: number;
  readonly size: number;
}

/** The bounds within which an initrd may lie when the kernel does not say otherwise: low RAM above 1 MiB. */
export const INITRD_BOUNDS: Bounds = { from: HIGH_MEMORY, to: LOW_RAM_END };

/** Plans the initrd as high as `bounds` allow, at a page; tried in their order. Undefined when there is none. */
export function placeInitrd({ placement, initrd }: LoadContext, ...bounds: Bounds[]): PlacedInitrd | undefined {
  if (initrd === undefined) return undefined;
  const { name, size } = initrd;
  for (const bound of bounds) {
    const base = placement.highest(size, bound);
    if (base === undefined) continue;
    const blame = { file: name, field: 'initrd' };
    placement.add('initrd', base, { file: initrd, offset: 0, size }, blame);
    return { base, size };
  }
  throw new BootError(
    name,
    'initrd',
    `the initrd's ${size} bytes (${Math.ceil(size / PAGE_SIZE)} pages) fit nowhere in guest RAM beside the kernel, below ${hex(bounds[0]?.to ?? 0)}; give the guest more memory`,
  );
}
