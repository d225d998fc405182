// A disk that is a file, byte by byte.
import { constants } from 'node:os';
import type { GuestVector, Regions } from '../virtio/guest-vector.js';
import type { BlockBackend, Done } from './block-backend.js';
import { zeroBytes } from './disk-zeros.js';
import type { HostFile } from './host-file.js';

export class RawDisk implements BlockBackend {
  readonly capacityBytes: number;
  readonly #file: HostFile;
  readonly #buffers: { readonly memory: Regions; readonly zeros: number };

  /** @param buffers the file's memory, and which region of it holds zeros: see `zeroBytes` */
  constructor(
    file: HostFile,
    readonly readOnly: boolean,
    buffers: { readonly memory: Regions; readonly zeros: number },
  ) {
    this.capacityBytes = file.bytes;
    this.#file = file;
    this.#buffers = buffers;
  }

  attach(fail: (error: unknown) => void): void {
    this.#file.attach?.(fail);
  }

  read(position: number, vector: GuestVector, done: Done): void {
    this.#file.read(position, vector, done);
  }

  write(position: number, vector: GuestVector, done: Done): void {
    this.#file.write(position, vector, done);
  }

  flush(done: Done): void {
    this.#file.sync(done);
  }

  discard(position: number, length: number, done: Done): void {
    // Only a hint: where there are no holes, nothing happens.
    this.#file.punch(position, length, (errno) => done(errno === constants.errno.EOPNOTSUPP ? 0 : errno));
  }

  writeZeroes(position: number, length: number, done: Done): void {
    zeroBytes(this.#file, this.#buffers, position, length, done);
  }

  submit(): void {
    this.#file.submit();
  }

  async close(): Promise<void> {
    await this.#file.close();
  }
}
