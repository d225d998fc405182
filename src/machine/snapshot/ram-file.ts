// The RAM file of a snapshot: guest RAM byte by byte, sparse; written and verified. A restore does without: see ram-map.ts.
// Our own. The hashes are SHA-256 (FIPS 180-4), one for each chunk that is not all zeros.
import { createHash } from 'node:crypto';
import { ftruncateSync, readSync, writeSync } from 'node:fs';
import { findUsedPages } from '../../kvm/guest-ram.js';
import type { GuestMemory } from '../../memory/guest-memory.js';
import { PAGE_SIZE } from '../../memory/layout.js';
import { CHUNK, extentsOf, markExtents, type Extent, type RamContent } from './ram-map.js';

const CHUNK_PAGES = CHUNK / PAGE_SIZE;

/**
 * Writes all RAM. Nothing may change it meanwhile, so this does not return before it is done.
 * @param options.hashes false: without them, for a file that nobody verifies
 * @param mapped what lies in a file that is mapped under the memory: pages that the kernel need not know as present
 */
export function writeRam(
  fd: number,
  memory: GuestMemory,
  mapped: readonly Extent[],
  options = { hashes: true },
): RamContent {
  ftruncateSync(fd, memory.size);
  const extents: Extent[] = [];
  const hashes: [number, string][] = [];
  let base = 0;
  for (const { bytes, size } of memory.regions) {
    const bits = new Uint8Array(size / PAGE_SIZE / 8);
    markExtents(bits, mapped, base);
    findUsedPages(bytes, bits);
    for (let chunk = 0; chunk < size / CHUNK; chunk++) {
      const ofChunk = bits.subarray((chunk * CHUNK_PAGES) / 8, ((chunk + 1) * CHUNK_PAGES) / 8);
      if (ofChunk.every((byte) => byte === 0)) continue;
      const data = bytes.subarray(chunk * CHUNK, (chunk + 1) * CHUNK);
      if (options.hashes) hashes.push([base / CHUNK_PAGES + chunk, hashOf(data)]);
      for (const [first, count] of extentsOf(ofChunk))
        writeWhole(
          fd,
          data.subarray(first * PAGE_SIZE, (first + count) * PAGE_SIZE),
          base * PAGE_SIZE + chunk * CHUNK + first * PAGE_SIZE,
        );
    }
    extents.push(...extentsOf(bits, base));
    base += size / PAGE_SIZE;
  }
  return { bytes: memory.size, extents, hashes };
}

/** Reads all of the file. @returns the first difference from what was written, as the rest of a sentence */
export function verifyRam(fd: number, { bytes, hashes }: RamContent): string | undefined {
  const expected = new Map(hashes);
  const data = new Uint8Array(CHUNK);
  const zeros = new Uint8Array(CHUNK);
  for (let chunk = 0; chunk < bytes / CHUNK; chunk++) {
    const place = `at byte ${chunk * CHUNK}`;
    if (readWhole(fd, data, chunk * CHUNK) < CHUNK) return `it ends ${place}`;
    const hash = expected.get(chunk);
    if (hash === undefined ? Buffer.compare(data, zeros) !== 0 : hashOf(data) !== hash)
      return `the ${CHUNK >> 10} KiB ${place} are not what was written`;
  }
  return undefined;
}

function hashOf(data: Uint8Array): string {
  return createHash('sha256').update(data).digest('hex');
}

function writeWhole(fd: number, data: Uint8Array, position: number): void {
  for (let done = 0; done < data.length;) done += writeSync(fd, data, done, data.length - done, position + done);
}

function readWhole(fd: number, into: Uint8Array, position: number): number {
  let done = 0;
  while (done < into.length) {
    const count = readSync(fd, into, done, into.length - done, position + done);
    if (count === 0) break;
    done += count;
  }
  return done;
}
