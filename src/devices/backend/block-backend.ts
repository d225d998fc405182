// What stands behind a virtio disk: a few asynchronous operations on bytes. A person can write one in TypeScript.
// VIRTIO 1.2 §5.2.6 (block device operation) says what the guest may expect of them.
import type { GuestVector } from '../virtio/guest-vector.js';

/** What positions and lengths are multiples of, VIRTIO 1.2 §5.2.4. */
export const SECTOR_BYTES = 512;

/** Called exactly once for every request. @param errno 0 when it was done whole, else a number of errno(3) */
export type Done = (errno: number) => void;

/**
 * A disk. Positions and lengths are bytes, multiples of 512, and lie below `capacityBytes`; requests may be under way
 * at the same time, and may be answered in any order. `done` is called from `submit` or later, never from the call that
 * took it. A `vector` stays as it is until `done`; `vector.windows()` are its bytes.
 */
export interface BlockBackend {
  /** A multiple of 512. */
  readonly capacityBytes: number;
  readonly readOnly: boolean;
  /** Called before any request. What goes wrong in the backend's own callbacks may go to `fail`: it ends the machine. */
  attach?(fail: (error: unknown) => void): void;
  read(position: number, vector: GuestVector, done: Done): void;
  write(position: number, vector: GuestVector, done: Done): void;
  /** Answered when every write that was answered before this call survives a power loss. */
  flush(done: Done): void;
  /** The bytes are of no use any more: they may read as anything. */
  discard(position: number, length: number, done: Done): void;
  /** The bytes read as zeros from now on. */
  writeZeroes(position: number, length: number, done: Done): void;
  /** The end of a batch: what waited to be sent in company goes now. */
  submit(): void;
  /** Resolves when nothing is under way and what was open is closed. */
  close(): Promise<void>;
}
