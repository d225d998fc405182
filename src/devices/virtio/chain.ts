// One descriptor chain, and the walk that collects it: every field of a descriptor is read once, every loop is bounded.
// VIRTIO 1.2 §2.7.5 (descriptor table), §2.7.5.3 (indirect descriptors).
import type { GuestMemory } from '../../memory/guest-memory.js';
import { DESC, DESC_BYTES } from './abi.js';
import { GuestVector } from './guest-vector.js';

/** What a walk found. `outside`: a buffer is not in guest RAM, but the rings are sound. */
export type WalkResult = 'ok' | 'outside' | WalkError;
export type WalkError = (typeof WALK_ERRORS)[number];

const WALK_ERRORS = [
  'a descriptor index is not below the queue size',
  'a chain is longer than the queue',
  'a chain has more than 2^32 bytes',
  'a device-readable buffer follows a device-writable one',
  'a buffer lies beyond the end of the address space',
  'an indirect descriptor was not negotiated',
  'an indirect table is nested',
  'an indirect descriptor has the NEXT flag',
  'the length of an indirect table is no multiple of 16, is 0 or too large',
  'an indirect table lies outside RAM',
  'an indirect descriptor has an index beyond its table',
] as const;

/** VIRTIO 1.2 §2.7.4.1: "the driver MUST NOT add a descriptor chain longer than 2^32 bytes in total". */
const CHAIN_BYTES_MAX = 2 ** 32;
/** Largest high half of a GPA that a number holds exactly. */
const HIGH_MAX = 0x1f_ffff;

/** The descriptor table of a queue, or an indirect one. */
export interface DescriptorTable {
  readonly view: DataView;
  /** Of its first byte in `view`. */
  offset: number;
  /** Entries. */
  size: number;
}

/** One request of the driver: buffers that the device reads, then buffers that it writes. */
export class DescriptorChain {
  readonly readable: GuestVector;
  readonly writable: GuestVector;

  constructor(
    /** Index of the first descriptor; the used ring's `id`. */
    readonly head: number,
    memory: GuestMemory,
  ) {
    this.readable = new GuestVector(memory);
    this.writable = new GuestVector(memory);
  }
}

/**
 * Fills `chain` with what its descriptors say.
 * @param indirect whether VIRTIO_F_INDIRECT_DESC was negotiated
 */
export function walk(
  memory: GuestMemory,
  table: DescriptorTable,
  chain: DescriptorChain,
  indirect: boolean,
): WalkResult {
  const { regions } = memory;
  chain.readable.clear();
  chain.writable.clear();
  const limit = table.size;
  let { view, offset: base, size } = table;
  let isIndirect = false;
  let isOutside = false;
  let isWriting = false;
  let total = 0;
  let index = chain.head;
  for (let steps = 0; ; steps++) {
    if (index >= size)
      return isIndirect
        ? 'an indirect descriptor has an index beyond its table'
        : 'a descriptor index is not below the queue size';
    // The queue's own table bounds an indirect chain, too: §2.7.5.3.1.
    if (steps >= limit) return 'a chain is longer than the queue';
    const at = base + index * DESC_BYTES;
    const low = view.getUint32(at, true);
    const high = view.getUint32(at + 4, true);
    const length = view.getUint32(at + 8, true);
    const flagsAndNext = view.getUint32(at + 12, true);
    const flags = flagsAndNext & 0xffff;
    if (high > HIGH_MAX) return 'a buffer lies beyond the end of the address space';
    const gpa = high * 2 ** 32 + low;

    if ((flags & DESC.INDIRECT) !== 0) {
      if (!indirect) return 'an indirect descriptor was not negotiated';
      if (isIndirect) return 'an indirect table is nested';
      if ((flags & DESC.NEXT) !== 0) return 'an indirect descriptor has the NEXT flag';
      const entries = length / DESC_BYTES;
      // No more descriptors than a chain may have can ever be reached; Linux writes exact tables.
      if (length === 0 || length % DESC_BYTES !== 0 || length > 2 ** 20)
        return 'the length of an indirect table is no multiple of 16, is 0 or too large';
      const region = memory.regionOf(gpa, length);
      if (region === undefined) return 'an indirect table lies outside RAM';
      view = region.view;
      base = gpa - region.base;
      size = entries;
      index = 0;
      isIndirect = true;
      // The descriptor that points to the table is not itself part of the chain's length.
      steps--;
      continue;
    }

    total += length;
    if (total > CHAIN_BYTES_MAX) return 'a chain has more than 2^32 bytes';
    const isWritable = (flags & DESC.WRITE) !== 0;
    if (isWritable) isWriting = true;
    else if (isWriting) return 'a device-readable buffer follows a device-writable one';
    if (length > 0) {
      let found = false;
      for (let i = 0; i < regions.length; i++) {
        const region = regions[i] as (typeof regions)[number];
        const offset = gpa - region.base;
        if (offset >= 0 && offset < region.size && length <= region.size - offset) {
          (isWritable ? chain.writable : chain.readable).add(i, offset, length);
          found = true;
          break;
        }
      }
      if (!found) isOutside = true;
    }
    if ((flags & DESC.NEXT) === 0) return isOutside ? 'outside' : 'ok';
    index = flagsAndNext >>> 16;
  }
}
