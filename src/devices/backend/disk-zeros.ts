// Bytes of a file made zeros: by a hole, or by writing them where the file system cannot make holes.
// fallocate(2) FALLOC_FL_PUNCH_HOLE.
import { constants } from 'node:os';
import { GuestVector, type Regions } from '../virtio/guest-vector.js';
import type { Done } from './block-backend.js';
import type { HostFile } from './host-file.js';

const CHUNK_BYTES = 64 << 10;

/** The regions of `memory`, and behind them some of a disk's own. */
export function withBuffers(memory: Regions, ...buffers: readonly Uint8Array[]): Regions {
  return { regions: [...memory.regions, ...buffers.map((bytes) => ({ bytes }))] };
}

/** A buffer of zeros in which nobody writes, for `zeroBytes`. */
export function allocateZeros(): Uint8Array {
  return new Uint8Array(new SharedArrayBuffer(CHUNK_BYTES));
}

/**
 * @param memory of the file
 * @param zeros the index in it of the region that `allocateZeros` gave
 */
export function zeroBytes(
  file: HostFile,
  { memory, zeros }: { readonly memory: Regions; readonly zeros: number },
  position: number,
  length: number,
  done: Done,
): void {
  file.punch(position, length, (errno) => {
    if (errno !== constants.errno.EOPNOTSUPP) done(errno);
    else writeChunk(0);
  });
  const vector = new GuestVector(memory);
  function writeChunk(from: number): void {
    const count = Math.min(CHUNK_BYTES, length - from);
    vector.clear();
    vector.add(zeros, 0, count);
    file.write(position + from, vector, (errno) => {
      if (errno !== 0 || from + count === length) done(errno);
      else writeChunk(from + count);
    });
    file.submit();
  }
}
