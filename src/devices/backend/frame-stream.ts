// Frames on a byte stream, each behind its length: how passt and QEMU's socket networks carry them.
// QEMU documentation, -netdev stream: 32-bit length in network byte order, then the frame.

export const LENGTH_BYTES = 4;

/** Puts frames together from whatever pieces the stream comes in. */
export class FrameReader {
  readonly #lengthMax: number;
  /** Bytes that are no whole frame yet. */
  #rest: Buffer = Buffer.alloc(0);

  /** @param lengthMax of a frame; a longer one is no frame of ours */
  constructor(lengthMax: number) {
    this.#lengthMax = lengthMax;
  }

  /**
   * Takes the next piece, and hands over the frames that are whole now; they are good until `frame` returns.
   * @param frame false stops: the frame and what follows it stay, for the next `push` (of nothing, perhaps)
   * @returns `all`; `stopped` by `frame`; `broken` when a length cannot be one, and the stream is worth nothing any more
   */
  push(piece: Buffer, frame: (bytes: Buffer) => boolean): 'all' | 'stopped' | 'broken' {
    const bytes = this.#rest.length === 0 ? piece : Buffer.concat([this.#rest, piece]);
    let at = 0;
    let result: 'all' | 'stopped' | 'broken' = 'all';
    while (bytes.length - at >= LENGTH_BYTES) {
      const length = bytes.readUInt32BE(at);
      if (length > this.#lengthMax) {
        result = 'broken';
        break;
      }
      const end = at + LENGTH_BYTES + length;
      if (end > bytes.length) break;
      if (!frame(bytes.subarray(at + LENGTH_BYTES, end))) {
        result = 'stopped';
        break;
      }
      at = end;
    }
    // The piece belongs to the stream, which may fill it again.
    this.#rest = at === bytes.length ? Buffer.alloc(0) : Buffer.from(bytes.subarray(at));
    return result;
  }
}

/** A frame with its length in front; a copy. */
export function packFrame(frame: Uint8Array): Buffer {
  const packed = Buffer.allocUnsafe(LENGTH_BYTES + frame.length);
  packed.writeUInt32BE(frame.length, 0);
  packed.set(frame, LENGTH_BYTES);
  return packed;
}
