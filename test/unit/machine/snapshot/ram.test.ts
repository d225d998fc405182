// The RAM of a snapshot: runs of pages, the sparse file, its hashes, and the file under a guest's memory.
import {
  closeSync,
  fstatSync,
  ftruncateSync,
  mkdtempSync,
  openSync,
  readFileSync,
  readSync,
  rmSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import * as fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { advise } from '../../../../src/kvm/host-memory.js';
import { MappedRam } from '../../../../src/machine/snapshot/mapped-ram.js';
import { verifyRam, writeRam } from '../../../../src/machine/snapshot/ram-file.js';
import {
  extentsOf,
  markExtents,
  ramProblem,
  stretchesOf,
  type Extent,
} from '../../../../src/machine/snapshot/ram-map.js';
import { GuestMemory } from '../../../../src/memory/guest-memory.js';

const MIB = 2 ** 20;
const PAGE = 4096;

describe('runs of pages', () => {
  test('go to bits and back', () => {
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 1, maxLength: 64 }), fc.nat(1000), (bits, base) => {
        const extents = extentsOf(bits, base);
        const back = new Uint8Array(bits.length);
        markExtents(back, extents, base);
        expect(back).toEqual(bits);
        expect(ramProblem({ bytes: 4096 * 256 * 16, extents, hashes: [] }, 4096 * 256 * 16)).toBeUndefined();
      }),
    );
  });

  test('are mapped by few stretches that cover every page', () => {
    const { regions } = GuestMemory.create(64 * MIB);
    const pages = (64 * MIB) / PAGE;
    // Every other page: more runs than there may be mappings.
    const extents = Array.from({ length: pages / 40 }, (_, i): Extent => [i * 40, 1]);
    const [stretches = []] = stretchesOf(extents, regions);
    expect(stretches.length).toBeLessThanOrEqual(256);
    const isCovered = (page: number): boolean =>
      stretches.some(({ offset, length }) => page * PAGE >= offset && page * PAGE < offset + length);
    expect(extents.filter(([page]) => !isCovered(page))).toEqual([]);
  });

  test.each<[string, Extent[]]>([
    ['an empty run', [[3, 0]]],
    ['runs out of order', [[5, 1], [4, 1]]], // prettier-ignore
    ['runs that overlap', [[5, 2], [6, 1]]], // prettier-ignore
    ['a run beyond the end', [[250, 7]]],
    ['a run that begins beyond the end', [[0xffff_ffff, 1]]],
  ])('%s cannot be', (_, extents) => {
    expect(ramProblem({ bytes: MIB, extents, hashes: [] }, MIB)).toMatch(/cannot be/);
  });
});

describe('a RAM file', () => {
  let folder: string;
  let fd: number;
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'microvisor-ram-'));
    fd = openSync(join(folder, 'ram'), 'w+');
  });
  afterEach(() => {
    closeSync(fd);
    rmSync(folder, { recursive: true });
  });

  /** RAM around the 32-bit hole would take too long: one region, with something here and there. */
  function filled(): GuestMemory {
    const memory = GuestMemory.create(8 * MIB);
    memory.writeU32(0x600, 0x1234_5678);
    memory.fill(3 * MIB - 10, 20, 0xab);
    memory.writeU8(8 * MIB - 1, 1);
    // A page that was used and holds nothing is not written.
    memory.writeU8(5 * MIB, 1);
    memory.writeU8(5 * MIB, 0);
    return memory;
  }

  test('"sparse": holds the pages that hold something, and has the size of RAM', () => {
    const memory = filled();
    const content = writeRam(fd, memory, []);
    expect(content.extents).toEqual([
      [0, 1],
      [767, 2],
      [2047, 1],
    ]);
    const { size, blocks } = fstatSync(fd);
    expect(size).toBe(8 * MIB);
    expect(blocks * 512).toBeLessThan(MIB);
    expect(Buffer.compare(readFileSync(join(folder, 'ram')), memory.window(0, 8 * MIB))).toBe(0);
    expect(verifyRam(fd, content)).toBeUndefined();
  });

  test('"flips in the RAM file are found by verify every time"', () => {
    const content = writeRam(fd, filled(), []);
    const byte = new Uint8Array(1);
    // In what was written, in the holes of a chunk that was, and in chunks that are all holes.
    for (const at of [
      0x600,
      0x601,
      200_000,
      3 * MIB,
      4 * MIB,
      8 * MIB - 1,
      ...Array.from({ length: 20 }, (_, i) => i * 400_009),
    ]) {
      readSync(fd, byte, 0, 1, at);
      const old = byte[0] as number;
      writeSync(fd, Uint8Array.of(old ^ (1 << (at & 7))), 0, 1, at);
      expect(verifyRam(fd, content), `byte ${at}`).toMatch(/are not what was written/);
      writeSync(fd, Uint8Array.of(old), 0, 1, at);
    }
    ftruncateSync(fd, 8 * MIB - 1);
    expect(verifyRam(fd, content)).toMatch(/it ends/);
  });

  test('is mapped under another guest, "and the file is never changed while it is mapped"', () => {
    const content = writeRam(fd, filled(), []);
    const memory = GuestMemory.create(8 * MIB);
    const mapped = new MappedRam(memory, { fd, content, name: 'ram' });
    expect(memory.readU32(0x600)).toBe(0x1234_5678);
    expect(memory.readU8(8 * MIB - 1)).toBe(1);
    memory.writeU32(0x600, 1);
    memory.writeU32(4 * MIB, 2);
    expect(verifyRam(fd, content)).toBeUndefined();
    // And saved again, with the pages that nobody has touched here.
    const again = openSync(join(folder, 'again'), 'w+');
    const second = writeRam(again, memory, mapped.extents);
    expect(second.extents).toEqual([
      [0, 1],
      [767, 2],
      [1024, 1],
      [2047, 1],
    ]);
    expect(Buffer.compare(readFileSync(join(folder, 'again')), memory.window(0, 8 * MIB))).toBe(0);
    closeSync(again);
    mapped.release();
    expect(memory.readU32(0x600)).toBe(0);
  });

  test('"truncating it under us ends in an error, not in SIGBUS"', async () => {
    const content = writeRam(fd, filled(), []);
    const memory = GuestMemory.create(8 * MIB);
    const mapped = new MappedRam(memory, { fd, content, name: '/tmp/ram' });
    const said: string[] = [];
    mapped.onLost((message) => said.push(message));
    expect(mapped.problem()).toBeUndefined();
    ftruncateSync(fd, MIB);
    // What was not cut off is there, the rest reads as zeros.
    expect(memory.readU32(0x600)).toBe(0x1234_5678);
    expect(memory.readU8(3 * MIB)).toBe(0);
    for (let tries = 0; said.length === 0 && tries < 100; tries++) await sleep(10);
    expect(said[0]).toBe("the snapshot's RAM file /tmp/ram was cut off while the guest ran from it");
    expect(mapped.problem()).toBe(said[0]);
    mapped.release();
  });

  test('of another size than it says is refused', () => {
    const content = writeRam(fd, filled(), []);
    ftruncateSync(fd, 4 * MIB);
    const memory = GuestMemory.create(8 * MIB);
    expect(() => new MappedRam(memory, { fd, content, name: 'ram' })).toThrow(
      'the file has 4194304 bytes, not 8388608',
    );
    expect(() => new MappedRam(GuestMemory.create(MIB), { fd, content, name: 'ram' })).toThrow(/the guest has 1048576/);
  });

  test('holds what was swapped out or given back as it is: zeros', () => {
    const memory = filled();
    advise(memory.window(0, 4 * MIB), 'DONTNEED');
    expect(writeRam(fd, memory, []).extents).toEqual([[2047, 1]]);
  });
});
