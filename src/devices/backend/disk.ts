// A disk of a configuration, opened: raw, or with an overlay. The format is what is asked for, never what is found.
import type { FileHandle } from 'node:fs/promises';
import { open, readFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import type { Regions } from '../virtio/guest-vector.js';
import { SECTOR_BYTES, type BlockBackend } from './block-backend.js';
import { RawDisk } from './disk-raw.js';
import { allocateZeros, withBuffers } from './disk-zeros.js';
import { DiskError, openHostFile, type HostFile, type OpenedFile } from './host-file.js';
import { OverlayDisk } from './overlay-disk.js';
import {
  BOOT_ID,
  encodeHeader,
  HEADER_BYTES,
  HEADER_SECTOR_BYTES,
  headerProblem,
  MAP_BLOCK_BYTES,
  overlayLayout,
  type OverlayLayout,
} from './overlay-format.js';

export interface DiskOptions {
  /** A file or block device whose size is a multiple of 512. */
  readonly path: string;
  readonly readOnly?: boolean | undefined;
  /** An overlay over `path`, or where to create one. */
  readonly overlay?: string | undefined;
}

export interface DiskHost {
  /** What identifies the time from one start of the host to the next; 36 characters. */
  readonly bootId: () => Promise<string>;
  /** Where a file's transfers go. */
  readonly start: (file: OpenedFile, memory: Regions, bytes: number) => Promise<HostFile>;
}

const HOST: DiskHost = {
  bootId: async () => (await readFile('/proc/sys/kernel/random/boot_id', 'latin1')).trim(),
  start: (file, memory, bytes) => file.start(memory, bytes),
};

/** Bytes of the map that are read at once. */
const MAP_CHUNK_BYTES = 1 << 20;

/**
 * @param memory what the vectors of later requests lie in: guest RAM
 * @param host other than this host in tests only
 * @throws DiskError, KvmError; nothing stays open then
 */
export async function openDisk(options: DiskOptions, memory: Regions, host: DiskHost = HOST): Promise<BlockBackend> {
  const { path, overlay, readOnly = false } = options;
  const hasOverlay = overlay !== undefined;
  const base = await openHostFile(path, {
    writable: !readOnly && !hasOverlay,
    what: hasOverlay ? 'the base' : 'the disk',
  });
  try {
    if (base.bytes === 0 || base.bytes % SECTOR_BYTES !== 0)
      throw new DiskError(
        `cannot use the disk ${path}: it has ${base.bytes} bytes, and a disk has whole sectors of ${SECTOR_BYTES}, ` +
          `at least one; make it ${Math.max(1, Math.ceil(base.bytes / SECTOR_BYTES)) * SECTOR_BYTES} bytes long (truncate -s)`,
      );
    if (hasOverlay) return await openOverlay(base, overlay, readOnly, memory, host);
    const own = withBuffers(memory, allocateZeros());
    const file = await host.start(base, own, base.bytes);
    return new RawDisk(file, readOnly, { memory: own, zeros: memory.regions.length });
  } catch (error) {
    await closeQuietly(base.handle);
    throw error;
  }
}

async function openOverlay(
  base: OpenedFile,
  path: string,
  readOnly: boolean,
  memory: Regions,
  host: DiskHost,
): Promise<OverlayDisk> {
  const layout = overlayLayout(base.bytes);
  const file = await openHostFile(path, { writable: !readOnly, create: !readOnly, what: 'the overlay' });
  try {
    await prepare(file, layout, readOnly);
    const image = await readMap(file.handle, layout.mapOffset, layout.mapBytes);
    const bits = await liveMap(file.handle, layout, image, readOnly, await host.bootId());
    const own = withBuffers(memory, allocateZeros(), bits, image);
    const zeros = memory.regions.length;
    const overlay = await host.start(file, own, layout.fileBytes);
    try {
      const baseFile = await host.start(base, own, base.bytes);
      return new OverlayDisk({
        base: baseFile,
        overlay,
        memory: own,
        zeros,
        bits: zeros + 1,
        image: zeros + 2,
        readOnly,
      });
    } catch (error) {
      await overlay.close();
      throw error;
    }
  } catch (error) {
    await closeQuietly(file.handle);
    throw error;
  }
}

/** Checks the header, or writes it into an empty file. */
async function prepare({ path, handle, bytes }: OpenedFile, layout: OverlayLayout, readOnly: boolean): Promise<void> {
  const found = new Uint8Array(Math.min(bytes, HEADER_SECTOR_BYTES));
  await handle.read(found, 0, found.length, 0);
  // Zeros alone: the power went before the first header was durable.
  const isNew = bytes <= HEADER_BYTES && found.every((byte) => byte === 0);
  const problem = isNew ? undefined : headerProblem(found, layout);
  if (problem !== undefined) throw new DiskError(`cannot use the overlay ${path}: ${problem}`);
  if (isNew && readOnly)
    throw new DiskError(
      `cannot use the overlay ${path}: it is empty, and the disk is read-only; let it be written first`,
    );
  // A header alone: the power went before the rest was laid out, or before there was anything else.
  if (!isNew && bytes > HEADER_BYTES) {
    if (bytes < layout.fileBytes)
      throw new DiskError(
        `cannot use the overlay ${path}: it has ${bytes} bytes of ${layout.fileBytes}; it was cut, go back to a copy of it`,
      );
    return;
  }
  await inFile(path, async () => {
    if (isNew) {
      await handle.write(encodeHeader(layout), 0, HEADER_BYTES, 0);
      await handle.sync();
    }
    await handle.truncate(layout.fileBytes);
    await handle.sync();
    await syncDirectory(dirname(path));
  });
}

/** A new file is only there after a power loss when its directory is. */
async function syncDirectory(path: string): Promise<void> {
  const directory = await open(path);
  try {
    await directory.sync();
  } finally {
    await directory.close();
  }
}

/** The bits that count; the file's live map is made the same as they are. */
async function liveMap(
  handle: FileHandle,
  { liveOffset, mapBytes }: OverlayLayout,
  map: Uint8Array,
  readOnly: boolean,
  bootId: string,
): Promise<Uint8Array> {
  const mine = Buffer.alloc(BOOT_ID.bytes);
  mine.write(bootId, 'latin1');
  const theirs = Buffer.alloc(BOOT_ID.bytes);
  await handle.read(theirs, 0, BOOT_ID.bytes, BOOT_ID.offset);
  const live = await readMap(handle, liveOffset, mapBytes);
  if (mine.equals(theirs)) return live;
  if (!readOnly) {
    for (let at = 0; at < mapBytes; at += MAP_BLOCK_BYTES) {
      const block = map.subarray(at, at + MAP_BLOCK_BYTES);
      if (Buffer.compare(block, live.subarray(at, at + MAP_BLOCK_BYTES)) !== 0)
        await handle.write(block, 0, block.length, liveOffset + at);
    }
    // After the map: a process that is killed in between leaves a boot id that is not ours.
    await handle.write(mine, 0, mine.length, BOOT_ID.offset);
  }
  for (let at = 0; at < mapBytes; at += MAP_BLOCK_BYTES) {
    const block = map.subarray(at, at + MAP_BLOCK_BYTES);
    if (Buffer.compare(block, live.subarray(at, at + MAP_BLOCK_BYTES)) !== 0) live.set(block, at);
  }
  return live;
}

async function readMap(handle: FileHandle, mapOffset: number, mapBytes: number): Promise<Uint8Array> {
  const bits = new Uint8Array(new SharedArrayBuffer(mapBytes));
  const chunk = Buffer.alloc(Math.min(MAP_CHUNK_BYTES, mapBytes));
  const zeros = Buffer.alloc(chunk.length);
  for (let at = 0; at < mapBytes;) {
    const { bytesRead } = await handle.read(chunk, 0, Math.min(chunk.length, mapBytes - at), mapOffset + at);
    if (bytesRead === 0) throw new DiskError('cannot read the map of the overlay: the file ends before');
    const part = chunk.subarray(0, bytesRead);
    // Memory that is never written is never committed: the map of a large disk is mostly holes.
    if (!part.equals(zeros.subarray(0, bytesRead))) bits.set(part, at);
    at += bytesRead;
  }
  return bits;
}

async function inFile(path: string, work: () => Promise<void>): Promise<void> {
  try {
    await work();
  } catch (cause) {
    const code = (cause as NodeJS.ErrnoException).code ?? 'unknown';
    throw new DiskError(`cannot create the overlay ${path}: ${code}; make room, or choose another place`, { cause });
  }
}

async function closeQuietly(handle: FileHandle): Promise<void> {
  // It may be closed already; what went wrong before is what counts.
  await handle.close().catch(() => undefined);
}
