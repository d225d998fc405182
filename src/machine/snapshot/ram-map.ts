// Which pages of guest RAM a file holds: runs of pages, from a bit a page and back, and the file mapped under RAM.
// Our own. A region of RAM follows the other in the file, without the holes between them.
import { mapFile, type FileStretch } from '../../kvm/guest-ram.js';
import type { GuestMemory, GuestRegion } from '../../memory/guest-memory.js';
import { PAGE_SIZE } from '../../memory/layout.js';
import type { RamMap } from './state.js';

/** A run of pages, counted from the start of the file: the first, and how many. */
export type Extent = [first: number, count: number];

/** Bytes that have a hash of their own; RAM is a multiple of it. */
export const CHUNK = 256 << 10;

/** What a file holds of RAM. */
export type RamContent = Omit<RamMap, 'file'>;

/** A mapping costs the kernel a little, and a process may have 65530. */
const MAPPINGS_MAX = 256;
/** Pages between two runs that are mapped along, at first: a page of holes costs nothing until it is touched. */
const GAP_FIRST = 16;

/** @param bits a bit a page, the lowest of a byte first @param base of the first page in the file, in pages */
export function extentsOf(bits: Uint8Array, base = 0): Extent[] {
  const extents: Extent[] = [];
  let first = -1;
  const pages = bits.length * 8;
  for (let page = 0; page < pages; page++) {
    const byte = bits[page >> 3] as number;
    // Eight pages at once where nothing changes.
    if ((page & 7) === 0 && byte === (first < 0 ? 0 : 0xff)) {
      page += 7;
      continue;
    }
    const isSet = (byte & (1 << (page & 7))) !== 0;
    if (isSet && first < 0) first = page;
    else if (!isSet && first >= 0) {
      extents.push([base + first, page - first]);
      first = -1;
    }
  }
  if (first >= 0) extents.push([base + first, pages - first]);
  return extents;
}

/** Sets the bits of the pages that extents name, as far as they lie in the `bits` from page `base` on. */
export function markExtents(bits: Uint8Array, extents: readonly Extent[], base: number): void {
  const end = base + bits.length * 8;
  for (const [first, count] of extents)
    for (let page = Math.max(first, base); page < Math.min(first + count, end); page++)
      bits[(page - base) >> 3] = (bits[(page - base) >> 3] as number) | (1 << ((page - base) & 7));
}

/**
 * Maps the file under the memory; what it holds is read when it is touched, and what is written stays out of it.
 * @throws KvmError
 */
export function mapRam(fd: number, memory: GuestMemory, { extents }: RamContent, name: string): void {
  const stretches = stretchesOf(extents, memory.regions);
  for (const [index, { bytes }] of memory.regions.entries())
    for (const stretch of stretches[index] ?? []) mapFile(bytes, fd, stretch, name);
}

/** What a RAM file's description says that cannot be; undefined when it can. */
export function ramProblem({ bytes, extents, hashes }: RamContent, memoryBytes: number): string | undefined {
  if (bytes !== memoryBytes) return `it describes ${bytes} bytes of RAM, and the guest has ${memoryBytes}`;
  const chunks = bytes / CHUNK;
  if (hashes.some(([chunk], i) => chunk >= chunks || chunk <= (hashes[i - 1]?.[0] ?? -1)))
    return 'its hashes are of no RAM of this size';
  return extentsProblem(extents, bytes / PAGE_SIZE);
}

/** Why these are no extents of a file of so many pages; undefined when they are. */
function extentsProblem(extents: readonly Extent[], pages: number): string | undefined {
  let end = 0;
  for (const [first, count] of extents) {
    if (count === 0 || first < end || first > pages || count > pages - first)
      return `the run of ${count} pages at page ${first} cannot be`;
    end = first + count;
  }
  return undefined;
}

/** What to map of the file under each region: few stretches that cover all extents, and little else. */
export function stretchesOf(extents: readonly Extent[], regions: readonly GuestRegion[]): FileStretch[][] {
  let merged = merge(extents, GAP_FIRST);
  for (let gap = GAP_FIRST * 2; merged.length > MAPPINGS_MAX; gap *= 2) merged = merge(merged, gap);
  let base = 0;
  return regions.map(({ size }) => {
    const pages = size / PAGE_SIZE;
    const stretches = merged.flatMap(([first, count]) => {
      const from = Math.max(first, base);
      const to = Math.min(first + count, base + pages);
      if (to <= from) return [];
      return [{ offset: (from - base) * PAGE_SIZE, length: (to - from) * PAGE_SIZE, position: from * PAGE_SIZE }];
    });
    base += pages;
    return stretches;
  });
}

function merge(extents: readonly Extent[], gap: number): Extent[] {
  const merged: [number, number][] = [];
  for (const [first, count] of extents) {
    const last = merged.at(-1);
    if (last !== undefined && first - (last[0] + last[1]) <= gap) last[1] = first + count - last[0];
    else merged.push([first, count]);
  }
  return merged;
}
