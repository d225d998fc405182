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
  /** Hands every waiting write to its bus, oldest first. Called before each exit is dispatched. */
  readonly drain: (this: void) => void;

  constructor(
    vcpu: { readonly run: Pick<VcpuFd['run'], 'i32' | 'u8'> },
    lock: Int32Array,
    pio: Pick<ExitBus, 'write' | 'writeLow'>,
    mmio: Pick<ExitBus, 'write' | 'writeLow'>,
  ) {
    // Constants that the functions close over, for the reason that exit-path.ts gives.
    const { i32: words, u8: bytes } = vcpu.run;
    const { writeLow: writePort } = pio;
    const { writeLow: writeMmio } = mmio;

    const deliver = (at: number): void => {
      const word = at >> 2;
      const low = words[word + LOW_WORD] as number;
      const length = words[word + LENGTH_WORD] as number;
      const isPort = words[word + PIO_WORD] !== 0;
      if (words[word + LOW_WORD + 1] !== 0 || (length !== 4 && length !== 1 && length !== 2))
        deliverBytes(at, isPort ? pio : mmio);
      else if (isPort) writePort(low, length, words[word + DATA_WORD] as number);
      else writeMmio(low, length, words[word + DATA_WORD] as number);
    };

    // Beyond 4 GiB, or of another length: eight bytes, or what KVM cut at a page's end.
    const deliverBytes = (at: number, bus: Pick<ExitBus, 'write'>): void => {
      const [low, high, length] = [LOW_WORD, LOW_WORD + 1, LENGTH_WORD].map(
        (i) => (words[(at >> 2) + i] as number) >>> 0,
      );
      const address = (high as number) * 2 ** 32 + (low as number);
      const data = (words[(at >> 2) + DATA_WORD] as number) >>> 0;
      if (length === 4) bus.write(address, 4, data);
      else if (length === 2) bus.write(address, 2, data & 0xffff);
      else
        for (let i = 0; i < (length as number) && i < 8; i++)
          bus.write(address + i, 1, bytes[at + AT.entry.data + i] as number);
    };

    this.drain = () => {
      if (words[FIRST] === words[LAST]) return;
      if (Atomics.compareExchange(lock, 0, 0, 1) !== 0) return;
      // The kernel publishes `last` after the entry it covers; this load is the partner of its release store. The bound
      // holds even if the guest refills the ring while it is drained.
      const last = (Atomics.load(words, LAST) >>> 0) % ENTRIES;
      let first = ((words[FIRST] as number) >>> 0) % ENTRIES;
      while (first !== last) {
        deliver(AT.entries + first * STRIDE);
        first = first + 1 === ENTRIES ? 0 : first + 1;
        // Gives the place back. A plain store: x86 keeps it behind what was read above, and a full barrier a write, as
        // Atomics.store would be, costs more than to deliver it.
        words[FIRST] = first;
      }
      Atomics.store(lock, 0, 0);
    };
  }
}

/** Words of an entry. */
const LOW_WORD = AT.entry.phys_addr >> 2;
const LENGTH_WORD = AT.entry.len >> 2;
const PIO_WORD = AT.entry.pio >> 2;
const DATA_WORD = AT.entry.data >> 2;
