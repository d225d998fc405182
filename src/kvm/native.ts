// The addon's functions, typed, and how it is found. Nothing outside this folder sees it.
// native/binding.cc: wrong use throws; what the kernel refuses comes back as -errno.
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';

declare const handle: unique symbol;
/** An object of the addon; another thread's, a closed one or a forged one throws. */
export interface Handle<Kind extends string> {
  readonly [handle]: Kind;
}
export type AnyHandle = Handle<'system'> | Handle<'vm'> | Handle<'vcpu'> | Handle<'eventfd'> | Handle<'tap'>;

export interface NativeVcpu {
  readonly handle: Handle<'vcpu'>;
  /** What enter() takes. */
  readonly place: number;
  readonly runBuffer: ArrayBuffer;
  /** i32 errno at 0, i32 untimed at 4; two f64 stamps from 8. */
  readonly status: ArrayBuffer;
}

export interface NativeEventFd {
  readonly handle: Handle<'eventfd'>;
  readonly signal: () => void;
}

export interface NativeIo {
  readonly handle: Handle<'io'>;
  /** Takes the requests in the first `used` words; 0 or -errno. */
  readonly submit: (used: number) => number;
}

export interface NativeMsrRange {
  readonly flags: number;
  readonly base: number;
  readonly nmsrs: number;
  readonly bitmap: Uint8Array;
}

/** A `number` instead of an object is -errno. */
export interface Native {
  open(path: string): Handle<'system'> | number;
  ioctl(handle: AnyHandle, number: number, argument?: number | Uint8Array): number;
  fdNumber(handle: AnyHandle): number;
  close(handle: AnyHandle): void;
  createVm(system: Handle<'system'>, type: number): Handle<'vm'> | number;
  adoptVm(fd: number): Handle<'vm'> | number;
  setMemory(vm: Handle<'vm'>, slot: number, flags: number, guestPhysAddr: number, memory: Uint8Array): number;
  dirtyLog(vm: Handle<'vm'>, slot: number, bitmap: Uint8Array): number;
  setMsrFilter(vm: Handle<'vm'>, flags: number, ranges: readonly NativeMsrRange[]): number;
  createVcpu(vm: Handle<'vm'>, id: number): NativeVcpu | number;
  /** KVM_RUN of the vCPU at a place; EBADF when that is closed. Plain calls from optimized code: native/enter.cc. */
  enter(this: void, place: number): void;
  /** The same, and the exit leaves a record in the ring of setTrace. */
  enterTraced(this: void, place: number): void;
  setTrace(vcpu: Handle<'vcpu'>, ring?: Uint8Array): number;
  /** Cycles since the process's first vCPU was created. */
  tsc(vcpu: Handle<'vcpu'>): number;
  becomeRunner(vcpu: Handle<'vcpu'>): number;
  kick(token: number): boolean;
  setSignalMask(vcpu: Handle<'vcpu'>, set?: Uint8Array): number;
  createEventFd(initial: number): NativeEventFd | number;
  adoptEventFd(fd: number): NativeEventFd | number;
  addToEventFd(eventfd: Handle<'eventfd'>, count: bigint): number;
  readEventFd(eventfd: Handle<'eventfd'>): bigint | undefined | number;
  /** `status` is -errno when nothing comes any more. */
  watch(file: Handle<'eventfd'> | Handle<'tap'>, callback: (status: number) => void): Handle<'watcher'> | number;
  watchClose(watcher: Handle<'watcher'>): void;
  watchRef(watcher: Handle<'watcher'>): void;
  watchUnref(watcher: Handle<'watcher'>): void;
  watchPause(watcher: Handle<'watcher'>): void;
  watchResume(watcher: Handle<'watcher'>): void;
  adoptTap(fd: number): Handle<'tap'> | number;
  readTap(tap: Handle<'tap'>, buffer: Uint8Array): number;
  writeTap(tap: Handle<'tap'>, frame: Uint8Array): number;
  ioCreate(
    fd: number,
    eventfd: number,
    regions: readonly Uint8Array[],
    words: Uint8Array,
    uring: boolean,
  ): NativeIo | number;
  ioClose(io: Handle<'io'>): void;
  ioLock(fd: number, exclusive: boolean): number;
  ioSize(fd: number): number;
  /** Unsigned 64 bits. */
  getTscOffset(vcpu: Handle<'vcpu'>): bigint | number;
  setTscOffset(vcpu: Handle<'vcpu'>, offset: bigint): number;
  ramMap(memory: Uint8Array, offset: number, length: number, fd: number, position: number): number;
  ramGuard(memory: Uint8Array, eventfd: number): number;
  ramClear(memory: Uint8Array): number;
  ramUsed(memory: Uint8Array, bitmap: Uint8Array): number;
  ramFile(name: string): number;
  ramSeal(fd: number): number;
  advise(memory: Uint8Array, advice: string): number;
  threadCpuNanoseconds(): bigint;
  threadId(): number;
  setTimeSlice(nanoseconds: number): number;
}

const require = createRequire(import.meta.url);
// From dist/src/kvm/ to the package's root.
const ADDON = fileURLToPath(new URL('../../../native/build/Release/microvisor.node', import.meta.url));

/**
 * The addon of this process.
 * @throws Error with the command that builds it, when it is missing or was built for another Node
 */
export function loadNative(): Native {
  try {
    return require(ADDON) as Native;
  } catch (cause) {
    const found = cause instanceof Error ? cause.message : String(cause);
    throw new Error(
      `the native addon could not be loaded from ${ADDON}: ${found.split('\n')[0]}. Build it with: npm run build ` +
        '(in an installed package: npm rebuild microvisor)',
      { cause },
    );
  }
}
