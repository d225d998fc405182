// The trace: each exit of one vCPU as a record in a ring of shared memory, written by the vCPU's thread, read by anyone.
// KVM API 5 (struct kvm_run): a record keeps the first words of the exit's union as KVM gave them; trace-reader.ts knows them.
import { KVM_EXIT_IO, KVM_EXIT_MMIO } from '../../kvm/abi-exit.js';
import { KVM_RUN_OFFSET as AT } from '../../kvm/kvm-run.js';
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

const { head: HEAD, off: OFF, headerBytes: HEADER, recordBytes: RECORD } = TRACE_LAYOUT;

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
 * Whether exits leave records; in a new ring they do. It is on when it was switched on as often as off. A vCPU that runs
 * sees at once that it is off, and that it is on when it is entered anew: after a kick.
 */
export function switchTrace(ring: SharedArrayBuffer, isOn: boolean): void {
  Atomics.add(new Int32Array(ring), OFF, isOn ? -1 : 1);
}

/** Whether exits leave records now. */
export function isTraceOn(ring: SharedArrayBuffer): boolean {
  return Atomics.load(new Int32Array(ring), OFF) <= 0;
}

/** The vCPU thread's end of a ring. The run loop calls these for each exit that is traced; nothing is allocated. */
export interface TraceRecorder {
  /** Whether the exit that has just come is to be traced. */
  isOn(): boolean;
  /** Before an exit is served, so that one which never ends is seen, too. */
  exited(): void;
  /** A kick ended KVM_RUN: the exit that comes after it was entered to before, as far as anybody is concerned. */
  interrupted(): void;
  /** After it was served: what a read gave is known now. */
  served(): void;
}

/**
 * Functions that close over the ring, and not a class, for the reason that exit-path.ts gives.
 * @param ring of allocateTrace(); one vCPU writes it at a time
 */
export function createTraceRecorder(
  ring: SharedArrayBuffer,
  vcpu: Pick<VcpuFd, 'stamps' | 'getTscKhz'> & { run: Pick<VcpuFd['run'], 'i32'> },
): TraceRecorder {
  const words = new Int32Array(ring);
  const doubles = new Float64Array(ring);
  const mask = (ring.byteLength - HEADER) / RECORD - 1;
  const run = vcpu.run.i32;
  const { stamps } = vcpu;
  // When KVM_RUN was first called since the last exit; 0 where no kick came in between. A variable would be a box.
  const since = new Float64Array(1);
  let head = Atomics.load(words, HEAD);
  /** Word of the record being written at which the value belongs. */
  let value = 0;
  doubles[TRACE_LAYOUT.tscKhz] = vcpu.getTscKhz();

  // What goes over the bus: of a `rep ins` or `rep outs` the first item, of eight bytes the low half.
  const store = (): void => {
    const reason = run[REASON] as number;
    if (reason === IS_IO) words[value] = run[(run[IO_DATA] as number) >> 2] as number;
    else if (reason === IS_MMIO) words[value] = run[MMIO_DATA] as number;
  };

  return {
    isOn() {
      if ((words[OFF] as number) <= 0) return true;
      // What was entered before it was switched off came to an exit that nobody recorded.
      since[0] = 0;
      return false;
    },
    exited() {
      const byte = HEADER + (head & mask) * RECORD;
      const double = byte >> 3;
      const word = byte >> 2;
      doubles[double] = since[0] === 0 ? (stamps[0] as number) : (since[0] as number);
      since[0] = 0;
      doubles[double + 1] = stamps[1] as number;
      words[word + 4] = run[REASON] as number;
      words[word + 6] = run[UNION] as number;
      words[word + 7] = run[UNION + 1] as number;
      words[word + 8] = run[UNION + 2] as number;
      words[word + 9] = run[UNION + 3] as number;
      words[word + 10] = run[UNION + 4] as number;
      words[word + 11] = run[UNION + 5] as number;
      words[word + 12] = run[UNION + 6] as number;
      words[word + 13] = run[UNION + 7] as number;
      value = word + 5;
      store();
      head = (head + 1) | 0;
      // Partner: TraceReader, which believes a record only when it is behind the head, before and after it was copied.
      // A plain store, which x86 puts behind those above as V8 does. Atomics.store would be a full barrier: it waits
      // until each line that this exit wrote has come from memory, and they are seldom in the cache.
      words[HEAD] = head;
    },
    interrupted() {
      if (since[0] === 0) since[0] = stamps[0] as number;
    },
    served() {
      store();
      // No reader believes in the oldest record any more: its line is asked for now, while the guest runs.
      words[((HEADER + (head & mask) * RECORD) >> 2) + 4] = 0;
    },
  };
}

/** Words of struct kvm_run; constants of this file, as in exit-path.ts. */
const REASON = AT.exit_reason >> 2;
const UNION = AT.io.direction >> 2;
const IO_DATA = AT.io.data_offset >> 2;
const MMIO_DATA = AT.mmio.data >> 2;
const IS_IO = KVM_EXIT_IO;
const IS_MMIO = KVM_EXIT_MMIO;
