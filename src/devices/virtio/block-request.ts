// What a driver asks of a disk: the header, the ranges, and every reason to refuse. Pure: bytes in, a verdict out.
// VIRTIO 1.2 §5.2.6 (device operation).
import { SECTOR_BYTES } from '../backend/block-backend.js';

/** VIRTIO 1.2 §5.2.3: feature bits. */
export const BLOCK_FEATURE = {
  SEG_MAX: 2,
  RO: 5,
  BLK_SIZE: 6,
  FLUSH: 9,
  TOPOLOGY: 10,
  DISCARD: 13,
  WRITE_ZEROES: 14,
} as const;

/** VIRTIO 1.2 §5.2.6: struct virtio_blk_req, type. */
export const REQUEST = { IN: 0, OUT: 1, FLUSH: 4, GET_ID: 8, DISCARD: 11, WRITE_ZEROES: 13 } as const;
/** VIRTIO 1.2 §5.2.6: struct virtio_blk_req, status. */
export const ANSWER = { OK: 0, IOERR: 1, UNSUPP: 2 } as const;
export type Answer = (typeof ANSWER)[keyof typeof ANSWER];

/** type, reserved, sector. */
export const REQUEST_HEADER_BYTES = 16;
/** VIRTIO 1.2 §5.2.6: "the device ID string … 20 bytes". */
export const ID_BYTES = 20;
/** More is no identification, but something to keep the device busy. */
const ID_ROOM_MAX = 512;
/** struct virtio_blk_discard_write_zeroes: sector, num_sectors, flags. */
export const RANGE_BYTES = 16;
/** Offered as max_discard_seg and max_write_zeroes_seg. */
export const RANGES_MAX = 16;
/** Offered as max_discard_sectors and max_write_zeroes_sectors: 2 GiB. */
export const RANGE_SECTORS_MAX = 1 << 22;
const RANGE_UNMAP = 1;

/** What is true of the disk while a driver uses it. */
export interface BlockLimits {
  readonly capacitySectors: number;
  readonly readOnly: boolean;
  /** Features, as negotiated. */
  readonly hasDiscard: boolean;
  readonly hasWriteZeroes: boolean;
}

/** Filled by `parseHeader` and used again for every request. */
export interface BlockHeader {
  type: number;
  /** Exact up to 2^53; beyond that larger than any disk. */
  sector: number;
}

/** @param view REQUEST_HEADER_BYTES, a copy: the guest may change its own at any time */
export function parseHeader(view: DataView, into: BlockHeader): void {
  into.type = view.getUint32(0, true);
  into.sector = view.getUint32(8, true) + view.getUint32(12, true) * 2 ** 32;
}

/**
 * The answer to a request that is not to be executed, OK for one that is.
 * @param dataIn bytes that the device may write, the status left out
 * @param dataOut bytes that it reads, the header left out
 */
export function checkRequest(header: BlockHeader, dataIn: number, dataOut: number, limits: BlockLimits): Answer {
  switch (header.type) {
    case REQUEST.IN:
      return isInside(header.sector, dataIn, limits) ? ANSWER.OK : ANSWER.IOERR;
    case REQUEST.OUT:
      return !limits.readOnly && isInside(header.sector, dataOut, limits) ? ANSWER.OK : ANSWER.IOERR;
    case REQUEST.FLUSH:
      return ANSWER.OK;
    case REQUEST.GET_ID:
      return dataIn >= ID_BYTES && dataIn <= ID_ROOM_MAX ? ANSWER.OK : ANSWER.IOERR;
    case REQUEST.DISCARD:
    case REQUEST.WRITE_ZEROES: {
      if (!(header.type === REQUEST.DISCARD ? limits.hasDiscard : limits.hasWriteZeroes)) return ANSWER.UNSUPP;
      const isWhole = dataOut > 0 && dataOut % RANGE_BYTES === 0 && dataOut <= RANGES_MAX * RANGE_BYTES;
      return isWhole && !limits.readOnly ? ANSWER.OK : ANSWER.IOERR;
    }
    default:
      return ANSWER.UNSUPP;
  }
}

/** One range of a DISCARD or WRITE_ZEROES, in bytes of the disk. */
export interface ByteRange {
  readonly position: number;
  readonly length: number;
}

/** All ranges of a request that `checkRequest` let through, or why none of them is to be touched. */
export function parseRanges(type: number, bytes: Uint8Array, limits: BlockLimits): ByteRange[] | Answer {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const ranges: ByteRange[] = [];
  for (let at = 0; at < bytes.length; at += RANGE_BYTES) {
    const sector = view.getUint32(at, true) + view.getUint32(at + 4, true) * 2 ** 32;
    const count = view.getUint32(at + 8, true);
    const flags = view.getUint32(at + 12, true);
    // §5.2.6.2: "the device MUST set the status byte to VIRTIO_BLK_S_UNSUPP … if any unknown flag is set", and for
    // DISCARD also when unmap is.
    if ((flags & ~(type === REQUEST.DISCARD ? 0 : RANGE_UNMAP)) !== 0) return ANSWER.UNSUPP;
    if (count > RANGE_SECTORS_MAX || !isInside(sector, count * SECTOR_BYTES, limits)) return ANSWER.IOERR;
    ranges.push({ position: sector * SECTOR_BYTES, length: count * SECTOR_BYTES });
  }
  return ranges;
}

/** At least one sector, whole sectors, none beyond the end. Compared by subtraction, so that nothing overflows. */
function isInside(sector: number, bytes: number, { capacitySectors }: BlockLimits): boolean {
  const count = bytes / SECTOR_BYTES;
  return bytes > 0 && bytes % SECTOR_BYTES === 0 && count <= capacitySectors && sector <= capacitySectors - count;
}
