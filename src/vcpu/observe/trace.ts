// The trace: each exit of one vCPU as a record in a ring of shared memory, written by the vCPU's thread, read by anyone.
// The addon writes it: native/trace.h has this layout, and says why. KVM API 5 (struct kvm_run): a record keeps the first
// words of the exit's union as KVM gave them; trace-reader.ts knows them.
import type { VcpuFd } from '../../kvm/vcpu-fd.js';

/** Where the words of the ring lie. The head is a line of its own, so that a reader's polls leave the records alone. */
export const TRACE_LAYOUT = {
  /** i32: records written so far, modulo 2^32. */
  head: 0,
  /** i32, written by the owner: above 0 while nobody wants records. */
  off: 1,
  /** f64: TSC cycles a second, in thousands. */
  tscKhz: 1,
  headerBytes: 64,
  /** A cache line. f64 entered and exited, then u32 exit_reason, the value, and words of the union. */
  recordBytes: 64,
  record: { entered: 0, exited: 8, reason: 16, value: 20, union: 24 },
  unionWords: 8,
} as const;

const { off: OFF, headerBytes: HEADER, recordBytes: RECORD } = TRACE_LAYOUT;

/** Records that a ring has when nothing else is said: 256 KiB. */
const DEFAULT_RECORDS = 4096;

/**
 * A zeroed ring for one vCPU.
 * @param records how many exits it remembers, a power of two from 2 to 2^20
 */
export function allocateTrace(records = DEFAULT_RECORDS): SharedArrayBuffer {
  if (!Number.isInteger(Math.log2(records)) || records < 2 || records > 2 ** 20)
    throw new RangeError(`a trace has a power of two of records, 2 to ${2 ** 20}, not ${records}`);
  return new SharedArrayBuffer(HEADER + records * RECORD);
}

/**
 * Whether exits leave records; in a new ring they do. It is on when it was switched on as often as off. It is looked at
 * when the guest is entered.
 */
export function switchTrace(ring: SharedArrayBuffer, isOn: boolean): void {
  Atomics.add(new Int32Array(ring), OFF, isOn ? -1 : 1);
}

/** Whether exits leave records now. */
export function isTraceOn(ring: SharedArrayBuffer): boolean {
  return Atomics.load(new Int32Array(ring), OFF) <= 0;
}

/**
 * What enters the guest such that the exit leaves a record in the ring. Nothing is done for it in JavaScript.
 * @param ring of allocateTrace(); one vCPU writes it at a time
 */
export function traceExits(ring: SharedArrayBuffer, vcpu: VcpuFd): () => void {
  new Float64Array(ring)[TRACE_LAYOUT.tscKhz] = vcpu.getTscKhz();
  return vcpu.traced(ring);
}
