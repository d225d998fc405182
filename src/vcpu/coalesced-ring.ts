// The ring in which KVM leaves writes to coalesced ports and addresses, instead of an exit each.
// KVM API 4.116 (KVM_REGISTER_COALESCED_MMIO), struct kvm_coalesced_mmio_ring.
import {
  COALESCED_RING_ENTRIES as ENTRIES,
  COALESCED_RING_OFFSET as AT,
  COALESCED_RING_STRIDE as STRIDE,
} from '../kvm/kvm-run.js';
import type { VcpuFd } from '../kvm/vcpu-fd.js';
import type { ExitBus } from './exit-bus.js';

const FIRST = AT.first >> 2;
const LAST = AT.last >> 2;

/**
 * Drains the ring of a VM. The ring is one per VM and shows in every vCPU's mapping, so with several vCPUs one of
 * them drains at a time: `lock` is a shared word, 0 when free. A vCPU that finds it taken goes on: the other drains.
 */
export class CoalescedRing {
  readonly #words: Uint32Array;
  readonly #bytes: Uint8Array;

  constructor(
    vcpu: { readonly run: Pick<VcpuFd['run'], 'u32' | 'u8'> },
    private readonly lock: Int32Array,
    private readonly pio: Pick<ExitBus, 'write'>,
    private readonly mmio: Pick<ExitBus, 'write'>,
  ) {
    this.#words = vcpu.run.u32;
    this.#bytes = vcpu.run.u8;
  }

  /** Hands every waiting write to its bus, oldest first. Called before each exit is dispatched. */
  drain(): void {
    const words = this.#words;
    if (words[FIRST] === words[LAST]) return;
    if (Atomics.compareExchange(this.lock, 0, 0, 1) !== 0) return;
    // The kernel publishes `last` after the entry it covers; this load is the partner of its release store. The bound
    // holds even if the guest refills the ring while it is drained.
    const last = Atomics.load(words, LAST) % ENTRIES;
    let first = (words[FIRST] as number) % ENTRIES;
    while (first !== last) {
      this.#deliver(AT.entries + first * STRIDE);
      first = (first + 1) % ENTRIES;
      Atomics.store(words, FIRST, first);
    }
    Atomics.store(this.lock, 0, 0);
  }

  #deliver(at: number): void {
    const words = this.#words;
    const address = (words[(at + AT.entry.phys_addr) >> 2] as number) + (words[(at + HIGH) >> 2] as number) * 2 ** 32;
    const length = words[(at + AT.entry.len) >> 2] as number;
    const bus = words[(at + AT.entry.pio) >> 2] === 0 ? this.mmio : this.pio;
    const data = words[(at + AT.entry.data) >> 2] as number;
    if (length === 4) bus.write(address, 4, data);
    else if (length === 1) bus.write(address, 1, data & 0xff);
    else if (length === 2) bus.write(address, 2, data & 0xffff);
    else
      for (let i = 0; i < length && i < 8; i++)
        bus.write(address + i, 1, this.#bytes[at + AT.entry.data + i] as number);
  }
}

/** The upper half of an address. */
const HIGH = AT.entry.phys_addr + 4;
