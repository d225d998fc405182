// Gets a vCPU out of KVM_RUN, from any thread of the process.
// KVM API 5 (immediate_exit); native/runners.c.
import { loadNative } from './native.js';

/** Names a vCPU and the thread that runs it, in the whole process; an integer that may be posted to other threads. */
export type KickToken = number;

/**
 * Makes the vCPU's current or next KVM_RUN return with EINTR, and sets its immediate_exit, which the runner clears
 * before it looks at its reasons to stop. A runner may also see one EINTR more than it was kicked.
 * @returns false when that vCPU is closed or its thread is gone
 */
export function kick(token: KickToken): boolean {
  return loadNative().kick(token);
}
