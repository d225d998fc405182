// The trace: each exit of one vCPU as a record in a ring of shared memory, written by the vCPU's thread, read by anyone.
// KVM API 5 (struct kvm_run): a record keeps the first words of the exit's union as KVM gave them; trace-reader.ts knows them.
import { KVM_EXIT_IO, KVM_EXIT_MMIO } from '../../kvm/abi-exit.js';
import { KVM_RUN_OFFSET as AT } from '../../kvm/kvm-run.js';
import type { VcpuFd } from '../../kvm/vcpu-fd.js';

/** Where the words of the ring lie. The head is a line of its own, so that a reader's polls leave the records alone. */
export const TRACE_LAYOUT = {
  /** i32: records written so far, modulo 2^32. */
  head: 0,
  /** f64: TSC cycles a second, in thousands. */
  tscKhz: 1,
  headerBytes: 64,
  /** A cache line. f64 entered and exited, then u32 exit_reason, the value, and words of the union. */
  recordBytes: 64,
  record: { entered: 0, exited: 8, reason: 16, value: 20, union: 24 },
  unionWords: 8,
} as const;

const { head: HEAD, headerBytes: HEADER, recordBytes: RECORD } = TRACE_LAYOUT;

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

/** The vCPU thread's end of a ring. The run loop calls it twice an exit; nothing is allocated. */
export class TraceRecorder {
  readonly #words: Int32Array;
  readonly #doubles: Float64Array;
  readonly #mask: number;
  readonly #run: Int32Array;
  readonly #stamps: Float64Array;
  #head: number;
  /** Word of the record being written at which the value belongs. */
  #value = 0;

  /** @param ring of allocateTrace(); one vCPU writes it at a time */
  constructor(
    ring: SharedArrayBuffer,
    vcpu: Pick<VcpuFd, 'stamps' | 'getTscKhz'> & { run: Pick<VcpuFd['run'], 'i32'> },
  ) {
    this.#words = new Int32Array(ring);
    this.#doubles = new Float64Array(ring);
    this.#mask = (ring.byteLength - HEADER) / RECORD - 1;
    this.#run = vcpu.run.i32;
    this.#stamps = vcpu.stamps;
    this.#head = Atomics.load(this.#words, HEAD);
    this.#doubles[TRACE_LAYOUT.tscKhz] = vcpu.getTscKhz();
  }

  /** Before an exit is served, so that one which never ends is seen, too. */
  exited(): void {
    const words = this.#words;
    const run = this.#run;
    const byte = HEADER + (this.#head & this.#mask) * RECORD;
    const double = byte >> 3;
    const word = byte >> 2;
    this.#doubles[double] = this.#stamps[0] as number;
    this.#doubles[double + 1] = this.#stamps[1] as number;
    words[word + 4] = run[AT.exit_reason >> 2] as number;
    words[word + 6] = run[UNION] as number;
    words[word + 7] = run[UNION + 1] as number;
    words[word + 8] = run[UNION + 2] as number;
    words[word + 9] = run[UNION + 3] as number;
    words[word + 10] = run[UNION + 4] as number;
    words[word + 11] = run[UNION + 5] as number;
    words[word + 12] = run[UNION + 6] as number;
    words[word + 13] = run[UNION + 7] as number;
    this.#value = word + 5;
    this.#store(run[AT.exit_reason >> 2] as number);
    this.#head = (this.#head + 1) | 0;
    // Partner: TraceReader, which believes a record only when it is behind the head, before and after it was copied.
    Atomics.store(words, HEAD, this.#head);
  }

  /** After it was served: what a read gave is known now. */
  served(): void {
    this.#store(this.#run[AT.exit_reason >> 2] as number);
  }

  // What goes over the bus: of a `rep ins` or `rep outs` the first item, of eight bytes the low half.
  #store(reason: number): void {
    const run = this.#run;
    if (reason === KVM_EXIT_IO) this.#words[this.#value] = run[(run[AT.io.data_offset >> 2] as number) >> 2] as number;
    else if (reason === KVM_EXIT_MMIO) this.#words[this.#value] = run[AT.mmio.data >> 2] as number;
  }
}

/** Word of struct kvm_run at which the union of the exits begins. */
const UNION = AT.io.direction >> 2;
