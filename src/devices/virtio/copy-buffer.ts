// A private buffer that begins wherever it suits a copy from or to guest memory.
// V8 copies between shared and private memory by words only when both are aligned alike; byte by byte, which takes
// seven times as long, when they are not (bench/virtio-net.ts shows it).
import type { GuestVector } from './guest-vector.js';

/** V8's word. */
const WORD = 8;

export class CopyBuffer {
  /** By alignment. */
  readonly #views: readonly Uint8Array[];

  /** @param bytes that fit, whatever the alignment */
  constructor(bytes: number) {
    const buffer = new ArrayBuffer(WORD + bytes);
    this.#views = Array.from({ length: WORD }, (_, shift) => new Uint8Array(buffer, shift, bytes));
  }

  /** The buffer, aligned so that the longest piece of `vector` can be copied by words from or to the same position. */
  for({ count, offsets, lengths }: GuestVector): Uint8Array {
    let shift = 0;
    let longest = 0;
    let at = 0;
    for (let i = 0; i < count; i++) {
      const length = lengths[i] as number;
      if (length > longest) {
        longest = length;
        shift = ((offsets[i] as number) - at) & (WORD - 1);
      }
      at += length;
    }
    return this.#views[shift] as Uint8Array;
  }
}
