// A split virtqueue's device side, slow and written straight from the specification: what the real one is compared with.
// VIRTIO 1.2 §2.7; each rule stands by its sentence. Addresses are BigInts, memory is read and written byte by byte.
import type { SharedGuestMemory } from '../../src/memory/guest-memory.js';

export interface ReferenceBuffer {
  readonly gpa: bigint;
  readonly length: number;
}

export type ReferencePop =
  | { readonly kind: 'none' }
  /** The driver broke the rings. */
  | { readonly kind: 'broken' }
  /** The rings are sound, but a buffer is not in RAM. */
  | { readonly kind: 'outside'; readonly head: number }
  | {
      readonly kind: 'chain';
      readonly head: number;
      readonly readable: readonly ReferenceBuffer[];
      readonly writable: readonly ReferenceBuffer[];
    };

/** A copy of a guest's RAM, a byte at a time. */
export class ReferenceMemory {
  readonly regions: readonly {
    readonly base: bigint;
    readonly end: bigint;
    readonly bytes: Uint8Array;
    readonly view: DataView;
  }[];

  constructor({ regions }: SharedGuestMemory) {
    this.regions = regions.map(({ base, buffer }) => {
      const bytes = new Uint8Array(buffer).slice();
      return { base: BigInt(base), end: BigInt(base + bytes.length), bytes, view: new DataView(bytes.buffer) };
    });
  }

  contains(gpa: bigint, length: bigint): boolean {
    return this.regions.some(({ base, end }) => gpa >= base && gpa + length <= end);
  }

  readByte(gpa: bigint): number {
    for (const { base, end, bytes } of this.regions)
      if (gpa >= base && gpa < end) return bytes[Number(gpa - base)] ?? 0;
    throw new RangeError(`no reference memory at ${gpa}`);
  }

  writeByte(gpa: bigint, value: number): void {
    for (const { base, end, bytes } of this.regions)
      if (gpa >= base && gpa < end) {
        bytes[Number(gpa - base)] = value;
        return;
      }
    throw new RangeError(`no reference memory at ${gpa}`);
  }

  /** Little-endian. @param length up to 4 */
  readNumber(gpa: bigint, length: number): number {
    let value = 0;
    for (let i = length - 1; i >= 0; i--) value = value * 256 + this.readByte(gpa + BigInt(i));
    return value;
  }

  write(gpa: bigint, length: number, value: bigint): void {
    for (let i = 0; i < length; i++) this.writeByte(gpa + BigInt(i), Number((value >> BigInt(8 * i)) & 0xffn));
  }
}

export interface ReferenceLayout {
  readonly size: number;
  readonly desc: bigint;
  readonly driver: bigint;
  readonly device: bigint;
  readonly indirect: boolean;
  readonly eventIdx: boolean;
}

interface Descriptor {
  readonly addr: bigint;
  readonly len: bigint;
  readonly flags: number;
  readonly next: number;
}

export class ReferenceQueue {
  readonly inFlight = new Set<number>();
  availIndex: number;
  usedIndex: number;
  /** Stands still: it takes nothing and writes nothing. */
  isBroken = false;
  /** "idx … always increments": the device looks at it again when it has come to where it was. */
  #availSeen: number;
  #published: number;

  /** @param start both indices, of a device that goes on where it was */
  constructor(
    readonly memory: ReferenceMemory,
    readonly layout: ReferenceLayout,
    start = 0,
  ) {
    this.availIndex = this.usedIndex = this.#availSeen = this.#published = start;
  }

  /** §2.7.14 from the device's side: the next descriptor chain of the avail ring. */
  pop(): ReferencePop {
    const { memory, layout } = this;
    if (this.isBroken) return { kind: 'none' };
    if (this.availIndex === this.#availSeen) {
      this.#availSeen = memory.readNumber(layout.driver + 2n, 2);
      const ahead = (this.#availSeen - this.availIndex + 0x1_0000) % 0x1_0000;
      if (ahead > layout.size) return this.#break();
      if (ahead === 0) {
        // §2.7.10.2: avail_event is "the index … for which the device wants a notification"; without it the flag is 0.
        if (layout.eventIdx) memory.write(layout.device + 4n + 8n * BigInt(layout.size), 2, BigInt(this.availIndex));
        else memory.write(layout.device, 2, 0n);
        return { kind: 'none' };
      }
    }
    const entry = this.availIndex % layout.size;
    const head = memory.readNumber(layout.driver + 4n + 2n * BigInt(entry), 2);
    if (head >= layout.size || this.inFlight.has(head)) return this.#break();
    this.availIndex = (this.availIndex + 1) % 0x1_0000;
    const buffers = this.#collect(head);
    if (buffers === undefined) return this.#break();
    // "The driver MUST place any device-writable descriptor elements after any device-readable descriptor elements."
    const firstWritable = buffers.findIndex(isWritable);
    if (firstWritable !== -1 && !buffers.slice(firstWritable).every(isWritable)) return this.#break();
    this.inFlight.add(head);
    const filled = buffers.filter(({ len }) => len > 0n);
    if (!filled.every(({ addr, len }) => memory.contains(addr, len))) return { kind: 'outside', head };
    const part = (writable: boolean): ReferenceBuffer[] =>
      filled.filter((it) => isWritable(it) === writable).map(({ addr, len }) => ({ gpa: addr, length: Number(len) }));
    return { kind: 'chain', head, readable: part(false), writable: part(true) };
  }

  /** §2.7.8: an element of the used ring. */
  push(head: number, length: number): void {
    if (!this.inFlight.delete(head)) throw new Error(`head ${head} is not in flight`);
    if (this.isBroken) return;
    const { memory, layout } = this;
    const at = layout.device + 4n + 8n * BigInt(this.usedIndex % layout.size);
    memory.write(at, 4, BigInt(head));
    memory.write(at + 4n, 4, BigInt(length));
    this.usedIndex = (this.usedIndex + 1) % 0x1_0000;
  }

  /** §2.7.8 and §2.7.7. @returns whether the driver must hear of it */
  flush(): boolean {
    const { memory, layout } = this;
    if (this.isBroken || this.#published === this.usedIndex) return false;
    memory.write(layout.device + 2n, 2, BigInt(this.usedIndex));
    let isWanted = false;
    if (layout.eventIdx) {
      // "If the idx field in the used ring (which determined where that descriptor index was placed) was equal to
      // used_event, the device MUST send a notification."
      const usedEvent = memory.readNumber(layout.driver + 4n + 2n * BigInt(layout.size), 2);
      for (let idx = this.#published; idx !== this.usedIndex; idx = (idx + 1) % 0x1_0000)
        if (idx === usedEvent) isWanted = true;
    } else {
      // "If flags is 1, the device SHOULD NOT send a notification. If flags is 0, the device MUST send a notification."
      isWanted = (memory.readNumber(layout.driver, 2) & 1) === 0;
    }
    this.#published = this.usedIndex;
    return isWanted;
  }

  /** The chain that was popped last is to be popped again. */
  unpop(head: number): void {
    this.inFlight.delete(head);
    this.availIndex = (this.availIndex + 0xffff) % 0x1_0000;
  }

  #break(): ReferencePop {
    this.isBroken = true;
    return { kind: 'broken' };
  }

  /** The buffers of a chain, indirect ones included. @returns undefined when a rule is broken */
  #collect(head: number): readonly Descriptor[] | undefined {
    const { memory, layout } = this;
    const buffers: Descriptor[] = [];
    let table = { base: layout.desc, entries: layout.size, isIndirect: false };
    let total = 0n;
    for (let index = head; ;) {
      if (index >= table.entries) return undefined;
      // "A driver MUST NOT create a descriptor chain longer than the Queue Size of the device."
      if (buffers.length === layout.size) return undefined;
      const it = this.#descriptor(table.base + 16n * BigInt(index));
      // The host keeps GPAs as numbers; no guest has RAM beyond what they hold exactly.
      if (it.addr >= 2n ** 53n) return undefined;
      if ((it.flags & 4) !== 0) {
        // "The driver MUST NOT set the VIRTQ_DESC_F_INDIRECT flag unless the VIRTIO_F_INDIRECT_DESC feature was
        // negotiated. The driver MUST NOT set the VIRTQ_DESC_F_INDIRECT flag within an indirect descriptor … A driver
        // MUST NOT set both VIRTQ_DESC_F_INDIRECT and VIRTQ_DESC_F_NEXT in flags."
        if (!layout.indirect || table.isIndirect || (it.flags & 1) !== 0) return undefined;
        if (it.len === 0n || it.len % 16n !== 0n || it.len > 2n ** 20n) return undefined;
        if (!memory.contains(it.addr, it.len)) return undefined;
        table = { base: it.addr, entries: Number(it.len / 16n), isIndirect: true };
        index = 0;
        continue;
      }
      // "This implies that loops in the descriptor chain are forbidden", and "more than 2^32 bytes in total" are, too.
      total += it.len;
      if (total > 2n ** 32n) return undefined;
      buffers.push(it);
      if ((it.flags & 1) === 0) return buffers;
      index = it.next;
    }
  }

  #descriptor(at: bigint): Descriptor {
    const { memory } = this;
    return {
      addr: BigInt(memory.readNumber(at, 4)) + BigInt(memory.readNumber(at + 4n, 4)) * 2n ** 32n,
      len: BigInt(memory.readNumber(at + 8n, 4)),
      flags: memory.readNumber(at + 12n, 2),
      next: memory.readNumber(at + 14n, 2),
    };
  }
}

function isWritable({ flags }: Descriptor): boolean {
  return (flags & 2) !== 0;
}
