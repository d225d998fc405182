// A TAP interface's descriptor: frames in and out without waiting, and readiness on this thread's event loop.
// Linux Documentation/networking/tuntap.rst.
import { checked } from './errors.js';
import { loadNative, type Handle, type Native } from './native.js';

/** errno values that are answers here, not failures. */
const EAGAIN = 11;

export interface TapWatcher {
  /** No call until `resume`; the frames wait in the kernel. */
  pause(): void;
  resume(): void;
  close(): void;
}

export class TapFd {
  readonly #native: Native = loadNative();
  readonly #handle: Handle<'tap'>;

  private constructor(handle: Handle<'tap'>) {
    this.#handle = handle;
  }

  /**
   * A duplicate of `fd`, which the caller closes.
   * @throws KvmError when it is not attached to an interface
   */
  static adopt(fd: number): TapFd {
    return new TapFd(checked<Handle<'tap'>>(loadNative().adoptTap(fd), 'adopt', `TAP descriptor ${fd}`));
  }

  /** @returns bytes of the frame; 0 when there is none; -errno when the interface gives no more */
  read(buffer: Uint8Array): number {
    const result = this.#native.readTap(this.#handle, buffer);
    return result === -EAGAIN ? 0 : result;
  }

  /** @returns bytes; -errno when the kernel did not take the frame */
  write(frame: Uint8Array): number {
    return this.#native.writeTap(this.#handle, frame);
  }

  /** Calls back while there are frames. @param callback gets 0, or -errno when it is called for the last time */
  onReadable(callback: (status: number) => void): TapWatcher {
    const native = this.#native;
    const handle = checked<Handle<'watcher'>>(native.watch(this.#handle, callback), 'uv_poll', 'TAP');
    return {
      pause: () => native.watchPause(handle),
      resume: () => native.watchResume(handle),
      close: () => native.watchClose(handle),
    };
  }

  /** @throws Error when it is closed already */
  close(): void {
    this.#native.close(this.#handle);
  }
}
