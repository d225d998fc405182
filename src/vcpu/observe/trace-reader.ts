// Reads a vCPU's trace while it is written: every exit since the last look, in order, and how many were overwritten before.
// KVM API 5 (struct kvm_run) for what the words of an exit mean.
import { KVM_EXIT_IO, KVM_EXIT_MMIO, KVM_EXIT_X86_RDMSR, KVM_EXIT_X86_WRMSR } from '../../kvm/abi-exit.js';
import { TRACE_LAYOUT } from './trace.js';

const { head: HEAD, headerBytes: HEADER, recordBytes: RECORD, record: AT, unionWords: UNION_WORDS } = TRACE_LAYOUT;

/** An exit as it was. Stamps are TSC cycles since the first vCPU of the process was created: one time for all vCPUs. */
export interface TracedExit {
  /** KVM_RUN called, and returned. Between an exit's `exited` and the next one's `entered` it was handled. */
  readonly entered: number;
  readonly exited: number;
  /** KVM_EXIT_*. */
  readonly reason: number;
  /** Of a port, MMIO or MSR exit; undefined for others. */
  readonly access: TracedAccess | undefined;
  /** The first 32 bytes of the exit's union in struct kvm_run, for the reasons that `access` leaves out. */
  readonly words: readonly number[];
}

export interface TracedAccess {
  readonly space: 'port' | 'mmio' | 'msr';
  /** Port, GPA, or index of the MSR. */
  readonly address: number;
  readonly isWrite: boolean;
  /** Bytes of one item. */
  readonly size: number;
  /** Items: more than 1 for `rep ins` and `rep outs`. */
  readonly count: number;
  /**
   * Unsigned: of several items the first, of more than four bytes the low ones. What a read gives is 0 or stale until
   * the guest has been entered again, and is not kept for an MSR.
   */
  readonly value: number;
}

export class TraceReader {
  readonly #words: Int32Array;
  readonly #doubles: Float64Array;
  readonly #records: number;
  #next: number;
  #lost = 0;

  /** @param ring of allocateTrace(). Reading begins with the oldest exit that it remembers. */
  constructor(readonly ring: SharedArrayBuffer) {
    this.#words = new Int32Array(ring);
    this.#doubles = new Float64Array(ring);
    this.#records = (ring.byteLength - HEADER) / RECORD;
    const head = Atomics.load(this.#words, HEAD);
    this.#next = (head - this.#records + 1) | 0;
    // In a ring that was never full the first of these were never written: no exit ends at stamp 0.
    while (this.#next !== head && this.#decode(this.#next).exited === 0) this.#next = (this.#next + 1) | 0;
  }

  /** TSC cycles a millisecond; 0 until the vCPU exists. */
  get tscKhz(): number {
    return this.#doubles[TRACE_LAYOUT.tscKhz] as number;
  }

  /** Exits that were overwritten before they were read. */
  get lost(): number {
    return this.#lost;
  }

  /** The exits since the last call, oldest first; at most as many as the ring remembers. */
  read(): readonly TracedExit[] {
    const words = this.#words;
    const head = Atomics.load(words, HEAD);
    this.#skipOverwritten(head);
    const first = this.#next;
    const exits: TracedExit[] = [];
    for (let at = first; at !== head; at = (at + 1) | 0) exits.push(this.#decode(at));
    // Partner: mv_trace_exit in native/trace.h. Whatever the writer reached meanwhile may have been torn while it was copied.
    const gone = this.#skipOverwritten(Atomics.load(words, HEAD));
    this.#next = head;
    return exits.slice(gone);
  }

  // The record after the newest is being written: one less than the ring has is whole.
  #skipOverwritten(head: number): number {
    const behind = (head - this.#next) | 0;
    const gone = Math.max(0, behind - (this.#records - 1));
    this.#next = (this.#next + gone) | 0;
    this.#lost += gone;
    return gone;
  }

  #decode(at: number): TracedExit {
    const byte = HEADER + (at & (this.#records - 1)) * RECORD;
    const word = (offset: number): number => (this.#words[(byte + offset) >> 2] as number) >>> 0;
    const reason = word(AT.reason);
    const words = Array.from({ length: UNION_WORDS }, (_, i) => word(AT.union + 4 * i));
    return {
      entered: this.#doubles[(byte + AT.entered) >> 3] as number,
      exited: this.#doubles[(byte + AT.exited) >> 3] as number,
      reason,
      access: ACCESSES[reason]?.(words, word(AT.value)),
      words,
    };
  }
}

type Words = readonly number[];
const at = (words: Words, index: number): number => words[index] ?? 0;
const masked = (value: number, size: number): number => (size >= 4 ? value : value & (2 ** (8 * size) - 1));

function msr(words: Words, isWrite: boolean): TracedAccess {
  // error and padding, reason, index, data.
  return { space: 'msr', address: at(words, 3), isWrite, size: 8, count: 1, value: isWrite ? at(words, 4) : 0 };
}

/** By exit reason: what the words of its union say. */
const ACCESSES: Readonly<Record<number, (words: Words, value: number) => TracedAccess>> = {
  [KVM_EXIT_IO]: (words, value) => {
    const first = at(words, 0);
    const size = (first >>> 8) & 0xff;
    const isWrite = (first & 0xff) === 1;
    return { space: 'port', address: first >>> 16, isWrite, size, count: at(words, 1), value: masked(value, size) };
  },
  [KVM_EXIT_MMIO]: (words, value) => {
    const address = at(words, 0) + at(words, 1) * 2 ** 32;
    const size = at(words, 4);
    return { space: 'mmio', address, isWrite: (at(words, 5) & 0xff) !== 0, size, count: 1, value: masked(value, size) };
  },
  [KVM_EXIT_X86_RDMSR]: (words) => msr(words, false),
  [KVM_EXIT_X86_WRMSR]: (words) => msr(words, true),
};
