// The overlay file: header, map, data. What makes it safe to lose power at any moment is in overlay-disk.ts.
// Our own format, version 1. All numbers are little-endian.
import { crc32 } from 'node:zlib';
import { SECTOR_BYTES } from './block-backend.js';

/*
 *   0         header, one sector:
 *               0  8  magic "MVOVRLAY"          24  8  where the map begins, bytes
 *               8  4  version, 1                32  8  where the live map begins, bytes
 *              12  4  bytes of a sector, 512    40  8  where the data begins, bytes
 *              16  8  bytes of the base        508  4  CRC-32 of bytes 0 to 507
 *   512       boot id: 36 characters of /proc/sys/kernel/random/boot_id, of the host that wrote the live map
 *   4096      map: one bit a sector of the base, least significant first; 1: the overlay has this sector.
 *             Whole blocks of 4096 bytes
 *   live map  the same for writes that no flush has covered yet. It counts as long as the host has not restarted since,
 *             which the boot id tells: a process that was killed leaves it whole, in the page cache
 *   data      sector n of the disk at `data + 512 * n`: as long as the base, and sparse
 *
 * A sector's place is fixed, so there is nothing to allocate and nothing to move; the host's file system gives space to
 * what is written. One bit a sector, so that no write has to copy its surroundings from the base.
 */

const MAGIC = new TextEncoder().encode('MVOVRLAY');
const VERSION = 1;
const FIELD = { version: 8, sector: 12, base: 16, map: 24, live: 32, data: 40, checksum: 508 } as const;

export const MAP_BLOCK_BYTES = 4096;
/** What the header occupies; the map follows. */
export const HEADER_BYTES = 4096;
export const BOOT_ID = { offset: SECTOR_BYTES, bytes: 36 } as const;
/** What a reader of the header needs. */
export const HEADER_SECTOR_BYTES = SECTOR_BYTES;

export interface OverlayLayout {
  readonly baseBytes: number;
  readonly mapOffset: number;
  readonly liveOffset: number;
  /** Of each of the two maps. */
  readonly mapBytes: number;
  readonly dataOffset: number;
  /** Of the whole file. */
  readonly fileBytes: number;
}

/** @param baseBytes a multiple of 512 */
export function overlayLayout(baseBytes: number): OverlayLayout {
  const bits = baseBytes / SECTOR_BYTES;
  const mapBytes = Math.ceil(bits / 8 / MAP_BLOCK_BYTES) * MAP_BLOCK_BYTES;
  const liveOffset = HEADER_BYTES + mapBytes;
  const dataOffset = liveOffset + mapBytes;
  return { baseBytes, mapOffset: HEADER_BYTES, liveOffset, mapBytes, dataOffset, fileBytes: dataOffset + baseBytes };
}

/** HEADER_BYTES, of which all after the header's sector are zeros. */
export function encodeHeader(layout: OverlayLayout): Uint8Array {
  const bytes = new Uint8Array(HEADER_BYTES);
  const view = new DataView(bytes.buffer);
  bytes.set(MAGIC);
  view.setUint32(FIELD.version, VERSION, true);
  view.setUint32(FIELD.sector, SECTOR_BYTES, true);
  view.setBigUint64(FIELD.base, BigInt(layout.baseBytes), true);
  view.setBigUint64(FIELD.map, BigInt(layout.mapOffset), true);
  view.setBigUint64(FIELD.live, BigInt(layout.liveOffset), true);
  view.setBigUint64(FIELD.data, BigInt(layout.dataOffset), true);
  view.setUint32(FIELD.checksum, crc32(bytes.subarray(0, FIELD.checksum)), true);
  return bytes;
}

/** Why this is no header of an overlay over a base of `layout`'s, as the rest of a sentence; undefined when it is one. */
export function headerProblem(bytes: Uint8Array, layout: OverlayLayout): string | undefined {
  const advice = 'give the path of an overlay, or of a file that does not exist yet';
  if (bytes.length < HEADER_SECTOR_BYTES) return `it is too short for an overlay's header; ${advice}`;
  const view = new DataView(bytes.buffer, bytes.byteOffset, HEADER_SECTOR_BYTES);
  if (!MAGIC.every((byte, i) => bytes[i] === byte)) return `it has no overlay's header; ${advice}`;
  const version = view.getUint32(FIELD.version, true);
  if (crc32(bytes.subarray(0, FIELD.checksum)) !== view.getUint32(FIELD.checksum, true))
    return 'the checksum of its header is wrong; the file is damaged, go back to a copy of it';
  if (version !== VERSION) return `it is of version ${version}, not ${VERSION}; use the Microvisor that made it`;
  const base = view.getBigUint64(FIELD.base, true);
  if (base !== BigInt(layout.baseBytes))
    return `it belongs to a base of ${base} bytes, and this one has ${layout.baseBytes}; give the base it was made with`;
  const fits =
    view.getUint32(FIELD.sector, true) === SECTOR_BYTES &&
    view.getBigUint64(FIELD.map, true) === BigInt(layout.mapOffset) &&
    view.getBigUint64(FIELD.live, true) === BigInt(layout.liveOffset) &&
    view.getBigUint64(FIELD.data, true) === BigInt(layout.dataOffset);
  return fits ? undefined : `its header gives places that version ${VERSION} does not have; ${advice}`;
}
