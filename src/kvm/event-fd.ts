// eventfds: how the kernel rings for a queue (ioeventfd), how a device interrupts (irqfd), how threads wake each other.
// eventfd(2); KVM API 4.59 (KVM_IOEVENTFD), 4.75 (KVM_IRQFD).
import { checked } from './errors.js';
import { Ioctls } from './ioctls.js';
import { loadNative, type Handle, type Native, type NativeEventFd } from './native.js';

/** A callback on this thread's event loop; it keeps the loop alive until it is closed or unref'd. */
export interface EventFdWatcher {
  /** Idempotent. */
  close(): void;
  ref(): void;
  unref(): void;
}

export class EventFd {
  readonly #native: Native = loadNative();
  readonly #file: Ioctls<'eventfd'>;
  readonly #signalOnce: () => void;
  readonly #watchers = new Set<EventFdWatcher>();

  private constructor({ handle, signal }: NativeEventFd) {
    this.#file = new Ioctls(handle, 'eventfd');
    this.#signalOnce = signal;
  }

  /** @param initial the counter's first value, an unsigned 32-bit integer @throws KvmError */
  static create(initial = 0): EventFd {
    return new EventFd(checked<NativeEventFd>(loadNative().createEventFd(initial), 'eventfd', `${initial}`));
  }

  /**
   * The same eventfd on another thread (a duplicate of the descriptor).
   * @param fd `fd` of an EventFd that is still open
   * @throws KvmError when that is no eventfd
   */
  static adopt(fd: number): EventFd {
    return new EventFd(checked<NativeEventFd>(loadNative().adoptEventFd(fd), 'adopt', `eventfd ${fd}`));
  }

  /** @throws Error when it is closed */
  get fd(): number {
    return this.#file.fd;
  }

  /** Adds to the counter; a counter that is full stays as it is. Without an argument nothing is allocated. */
  signal(count?: bigint): void {
    if (count === undefined) this.#signalOnce();
    else checked(this.#native.addToEventFd(this.#file.handle, count), 'write', this.#file.name);
  }

  /** Takes the counter and leaves 0; undefined when it is 0. */
  read(): bigint | undefined {
    return checked<bigint | undefined>(this.#native.readEventFd(this.#file.handle), 'read', this.#file.name);
  }

  /**
   * Calls back on this thread's event loop when the counter is not 0, with what it was (2^31 - 1 at most); it is taken
   * before. What the callback throws is an uncaughtException.
   */
  onReadable(callback: (count: number) => void): EventFdWatcher {
    const native = this.#native;
    const handle = checked<Handle<'watcher'>>(native.watch(this.#file.handle, callback), 'uv_poll', this.#file.name);
    const watcher: EventFdWatcher = {
      close: () => {
        native.watchClose(handle);
        this.#watchers.delete(watcher);
      },
      ref: () => native.watchRef(handle),
      unref: () => native.watchUnref(handle),
    };
    this.#watchers.add(watcher);
    return watcher;
  }

  /** Closes it and its watchers. @throws Error when it is closed already */
  close(): void {
    this.#file.close();
    for (const watcher of this.#watchers) watcher.close();
  }

  [Symbol.dispose](): void {
    this.#file.dispose();
    for (const watcher of this.#watchers) watcher.close();
  }
}
