// What the host's kernel says of the calling thread, and may be told of it.
// clock_gettime(2), gettid(2), sched_setattr(2).
import { loadNative } from './native.js';

/** Processor time that the calling thread has used, in nanoseconds. */
export function threadCpuNanoseconds(): bigint {
  return loadNative().threadCpuNanoseconds();
}

/** The calling thread's id in the kernel, as in /proc/self/task. */
export function threadId(): number {
  return loadNative().threadId();
}

/**
 * How long the calling thread may run before others of its priority get their turn: sched_setattr(2), `sched_runtime` of
 * a thread under SCHED_OTHER. A kernel before Linux 6.12 has the same slice for all, and takes no notice.
 * @param milliseconds 0.1 to 100, or 0 for the kernel's own
 * @returns false when this process may not (a seccomp filter)
 */
export function setTimeSlice(milliseconds: number): boolean {
  return loadNative().setTimeSlice(milliseconds * 1e6) === 0;
}
