// The ioctls of one open file: by number, with an integer or a structure's bytes; errors become KvmError.
// KVM API chapter 4.
import { checked } from './errors.js';
import { loadNative, type AnyHandle, type Handle, type Native } from './native.js';

type HandleOf<Kind extends string> = AnyHandle & Handle<Kind>;

export class Ioctls<Kind extends 'system' | 'vm' | 'vcpu' | 'eventfd'> {
  readonly #native: Native = loadNative();
  #closed = false;

  constructor(
    readonly handle: HandleOf<Kind>,
    /** How errors name it, such as `vCPU 1`. */
    readonly name: string,
  ) {}

  /** The file descriptor's number. @throws Error when it is closed */
  get fd(): number {
    return this.#native.fdNumber(this.handle);
  }

  /** An ioctl that takes an integer or nothing; returns what the kernel returned. @throws KvmError */
  integer(call: string, number: number, argument = 0): number {
    return checked(this.#native.ioctl(this.handle, number, argument), call, this.name);
  }

  /** An ioctl that reads or writes the given bytes; returns what the kernel returned. @throws KvmError */
  buffer(call: string, number: number, bytes: Uint8Array): number {
    return checked(this.#native.ioctl(this.handle, number, bytes), call, this.name);
  }

  /** As `buffer`, for calls that only fill one structure: returns the bytes. @throws KvmError */
  filled(call: string, number: number, size: number): Uint8Array {
    const bytes = new Uint8Array(size);
    this.buffer(call, number, bytes);
    return bytes;
  }

  /** @throws Error when it is closed already */
  close(): void {
    this.#native.close(this.handle);
    this.#closed = true;
  }

  /** Closes it when that was not done. */
  dispose(): void {
    if (!this.#closed) this.close();
  }
}
