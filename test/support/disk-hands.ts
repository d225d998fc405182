// A disk in a test's hands: promises instead of callbacks, bytes instead of vectors.
import type { BlockBackend } from '../../src/devices/backend/block-backend.js';
import { GuestVector, type Regions } from '../../src/devices/virtio/guest-vector.js';

/** Memory for transfers: as guest RAM, shared and in one region. */
export function transferMemory(bytes: number): Regions {
  return { regions: [{ bytes: new Uint8Array(new SharedArrayBuffer(bytes)) }] };
}

export class DiskHands {
  readonly #memory: Regions;
  readonly #free: number[];
  readonly #slotBytes: number;

  /** @param memory is cut into `slots`, one for each transfer under way */
  constructor(
    readonly disk: BlockBackend,
    memory: Regions,
    slots = 16,
  ) {
    this.#memory = memory;
    this.#slotBytes = Math.floor((memory.regions[0]?.bytes.length ?? 0) / slots);
    this.#free = Array.from({ length: slots }, (_, i) => i);
  }

  /** @returns the bytes, or the errno */
  async read(position: number, length: number): Promise<Uint8Array | number> {
    const { slot, vector, bytes } = this.#take(length);
    const errno = await this.#wait((done) => this.disk.read(position, vector, done));
    const copy = bytes.slice();
    this.#free.push(slot);
    return errno === 0 ? copy : errno;
  }

  async write(position: number, content: Uint8Array): Promise<number> {
    const { slot, vector, bytes } = this.#take(content.length);
    bytes.set(content);
    const errno = await this.#wait((done) => this.disk.write(position, vector, done));
    this.#free.push(slot);
    return errno;
  }

  flush(): Promise<number> {
    return this.#wait((done) => this.disk.flush(done));
  }

  discard(position: number, length: number): Promise<number> {
    return this.#wait((done) => this.disk.discard(position, length, done));
  }

  writeZeroes(position: number, length: number): Promise<number> {
    return this.#wait((done) => this.disk.writeZeroes(position, length, done));
  }

  /** The whole disk. */
  async content(): Promise<Uint8Array> {
    const all = new Uint8Array(this.disk.capacityBytes);
    for (let at = 0; at < all.length; at += this.#slotBytes) {
      const part = await this.read(at, Math.min(this.#slotBytes, all.length - at));
      if (typeof part === 'number') throw new Error(`reading at ${at}: errno ${part}`);
      all.set(part, at);
    }
    return all;
  }

  #take(length: number): { slot: number; vector: GuestVector; bytes: Uint8Array } {
    const slot = this.#free.pop();
    const [region] = this.#memory.regions;
    if (slot === undefined || region === undefined || length > this.#slotBytes)
      throw new Error('no room for a transfer');
    const start = slot * this.#slotBytes;
    const vector = new GuestVector(this.#memory);
    // In two pieces: a transfer is rarely one.
    const half = Math.floor(length / 3);
    if (half > 0) vector.add(0, start, half);
    vector.add(0, start + half, length - half);
    return { slot, vector, bytes: region.bytes.subarray(start, start + length) };
  }

  #wait(begin: (done: (errno: number) => void) => void): Promise<number> {
    return new Promise((resolve) => {
      begin(resolve);
      this.disk.submit();
    });
  }
}
