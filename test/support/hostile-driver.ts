// The driver in the duel of queue and reference: chains as a driver makes them, and with a given chance broken ones.
// It writes both memories alike. VIRTIO 1.2 §2.7.13.
import { DESC, RING_PARTS } from '../../src/devices/virtio/abi.js';
import type { QueueLayout } from '../../src/devices/virtio/queue.js';
import type { GuestMemory } from '../../src/memory/guest-memory.js';
import type { ReferenceMemory } from './reference-queue.js';

const { NEXT, WRITE, INDIRECT } = DESC;
export interface DuelOptions {
  readonly seed: number;
  /** Of the queue: 2 to the power of this, up to 64. */
  readonly sizeLog2: number;
  readonly indirect: boolean;
  readonly eventIdx: boolean;
  /** Where the indices start, for the wrap. */
  readonly firstIndex: number;
  /** Chance of each chain, and of each round, that something is wrong with it. */
  readonly hostility: number;
  readonly rounds: number;
}

/** A small guest: one region at 0, one above 4 GiB. */
export const REGION_BYTES = 1 << 16;
export const REGION_BASES = [0, 0x1_0000_0000] as const;

/** Where rings, indirect tables and data lie in the first region; the second has data only. */
const DESC_AT = 0x1000;
const DRIVER_AT = 0x2000;
const DEVICE_AT = 0x3000;
const TABLES = 0x4000;
/** Room for an indirect table; one for each head. */
const TABLE_BYTES = 16 * 24;
const DATA = 0xb000;

/** Addresses and lengths that are wrong, or nearly. */
const ADDRESSES = [
  0n,
  BigInt(DESC_AT),
  BigInt(DEVICE_AT),
  BigInt(TABLES),
  BigInt(REGION_BYTES - 1),
  BigInt(REGION_BYTES),
  BigInt(REGION_BYTES - 8),
  0xd000_0000n,
  BigInt(REGION_BASES[1]) - 1n,
  BigInt(REGION_BASES[1] + REGION_BYTES - 1),
  BigInt(REGION_BASES[1] + REGION_BYTES),
  2n ** 53n - 1n,
  2n ** 53n + BigInt(DATA),
  2n ** 63n + BigInt(DATA),
  2n ** 64n - 1n,
] as const;
const LENGTHS = [
  0,
  1,
  15,
  16,
  17,
  32,
  384,
  4096,
  REGION_BYTES,
  REGION_BYTES + 1,
  2 ** 20 + 16,
  0x8000_0000,
  0xffff_ffff,
];

interface Entry {
  readonly at: number;
  /** Halves of its address. */
  low: number;
  high: number;
  len: number;
  flags: number;
  next: number;
}

export class HostileDriver {
  readonly layout: QueueLayout;
  readonly #options: DuelOptions;
  readonly #memory: GuestMemory;
  readonly #shadow: ReferenceMemory;
  readonly #random: () => number;
  readonly #free: number[];
  /** Descriptors of the direct part of a chain, by head. */
  readonly #chains = new Map<number, readonly number[]>();
  #availIndex: number;
  #usedSeen: number;
  #hasFlags = false;

  /** Lays the rings out and clears them. */
  constructor(options: DuelOptions, memory: GuestMemory, shadow: ReferenceMemory, random: () => number) {
    this.#options = options;
    this.#memory = memory;
    this.#shadow = shadow;
    this.#random = random;
    const size = 1 << options.sizeLog2;
    this.layout = {
      size,
      desc: DESC_AT + 16 * this.#below(8),
      driver: DRIVER_AT + 2 * this.#below(64),
      device: DEVICE_AT + 4 * this.#below(64),
    };
    this.#free = Array.from({ length: size }, (_, i) => i);
    this.#availIndex = this.#usedSeen = options.firstIndex;
    for (const part of ['desc', 'driver', 'device'] as const)
      for (let i = 0; i < RING_PARTS[part].bytes(size); i++) this.#poke8(this.layout[part] + i, 0);
    this.#poke16(this.layout.driver + 2, this.#availIndex);
    this.#poke16(this.layout.device + 2, this.#usedSeen);
  }

  /** Publishes a batch, and asks for interrupts or not. */
  turn(): void {
    const { driver, size } = this.layout;
    const { eventIdx, hostility } = this.#options;
    for (let n = this.#below(size + 1); n > 0 && this.#free.length > 0; n--) this.#publish(this.#build());
    if (this.#random() < hostility) this.#misbehave();
    this.#poke16(driver + 2, this.#availIndex);
    if (eventIdx) {
      const ahead = [0, this.#below(size), this.#below(0x1_0000)][this.#below(3)] ?? 0;
      this.#poke16(driver + 4 + 2 * size, this.#usedSeen + ahead);
      this.#poke16(driver, this.#below(2));
    } else this.#poke16(driver, this.#random() < hostility ? this.#below(0x1_0000) : this.#below(2));
  }

  /** Takes the used elements; their descriptors are free again. */
  collect(): void {
    const { device, size } = this.layout;
    const used = this.#memory.readU16(device + 2);
    for (let n = 0; this.#usedSeen !== used && n < size; n++) {
      const id = this.#memory.readU32(device + 4 + 8 * (this.#usedSeen % size));
      this.#free.push(...(this.#chains.get(id) ?? []));
      this.#chains.delete(id);
      this.#usedSeen = (this.#usedSeen + 1) & 0xffff;
    }
    this.#usedSeen = used;
  }

  /** The device found nothing: the next chain must be announced, or it is never seen. */
  checkArmed(): void {
    if (!this.#options.eventIdx && !this.#hasFlags && this.#memory.readU16(this.layout.device) !== 0)
      throw new Error('the device waits, and the driver need not ring');
  }

  /** Without EVENT_IDX the device may say at any time that it need not be rung for, or that it must. */
  adoptFlags(): void {
    const { device } = this.layout;
    const flags = this.#memory.readU16(device);
    if (this.#options.eventIdx || flags === this.#shadow.regions[0]?.view.getUint16(device, true)) return;
    if (flags > 1) throw new Error(`the flags of the used ring are ${flags}`);
    this.#poke16(device, flags);
  }

  /** A driver whose buffer lies over the flags of the used ring has its own idea of them. */
  noteStore(gpa: bigint): void {
    const { device } = this.layout;
    if (gpa === BigInt(device) || gpa === BigInt(device + 1)) this.#hasFlags = true;
  }

  #publish(head: number): void {
    this.#poke16(this.layout.driver + 4 + 2 * (this.#availIndex % this.layout.size), head);
    this.#availIndex = (this.#availIndex + 1) & 0xffff;
  }

  /** @returns the head of a new chain */
  #build(): number {
    const { desc, size } = this.layout;
    const { indirect, hostility } = this.#options;
    const isIndirect = indirect && this.#random() < 0.4;
    const direct = 1 + this.#below(Math.min(this.#free.length, isIndirect ? 2 : 6));
    const indices = this.#free.splice(this.#free.length - direct, direct);
    const head = indices[0] as number;
    const entries: Entry[] = [];
    const buffers: Entry[] = [];
    for (let i = 0; i < direct; i++) {
      const next = indices[i + 1];
      const entry = this.#entry(desc + 16 * (indices[i] as number), next);
      entries.push(entry);
      if (next !== undefined || !isIndirect) buffers.push(entry);
    }
    if (isIndirect) {
      const pointer = entries[direct - 1] as Entry;
      // Now and then one more than a chain may have.
      const most = Math.max(1, size - direct + 1) + (this.#random() < hostility ? 1 : 0);
      const count = Math.min(24, 1 + this.#below(most));
      pointer.low = TABLES + TABLE_BYTES * head;
      pointer.high = 0;
      pointer.len = 16 * count;
      pointer.flags = INDIRECT | (this.#below(2) * WRITE);
      for (let i = 0; i < count; i++) {
        const entry = this.#entry(pointer.low + 16 * i, i < count - 1 ? i + 1 : undefined);
        buffers.push(entry);
        entries.push(entry);
      }
    }
    for (let i = this.#below(buffers.length + 1); i < buffers.length; i++) (buffers[i] as Entry).flags |= WRITE;
    while (this.#random() < hostility) this.#spoil(entries[this.#below(entries.length)] as Entry);
    for (const { at, low, high, len, flags, next } of entries) {
      this.#poke32(at, low);
      this.#poke32(at + 4, high);
      this.#poke32(at + 8, len);
      this.#poke32(at + 12, flags | (next << 16));
    }
    this.#chains.set(head, indices);
    return head;
  }

  /** A buffer in RAM. */
  #entry(at: number, next: number | undefined): Entry {
    const isLow = this.#random() < 0.5;
    const [base, room] = isLow ? [DATA, REGION_BYTES - DATA] : [0, REGION_BYTES];
    const len = this.#below([20, 200, 2000][this.#below(3)] as number);
    const high = isLow ? 0 : REGION_BASES[1] / 2 ** 32;
    const flags = next === undefined ? 0 : NEXT;
    return { at, low: base + this.#below(room - len), high, len, flags, next: next ?? 0 };
  }

  #spoil(entry: Entry): void {
    const { size } = this.layout;
    const ways: readonly (() => void)[] = [
      () => {
        const address = ADDRESSES[this.#below(ADDRESSES.length)] ?? 0n;
        entry.low = Number(address & 0xffff_ffffn);
        entry.high = Number(address >> 32n);
      },
      () => (entry.len = LENGTHS[this.#below(LENGTHS.length)] ?? 0),
      () => (entry.flags ^= WRITE),
      () => (entry.flags ^= NEXT),
      () => (entry.flags = this.#below(0x1_0000)),
      () => (entry.flags |= INDIRECT),
      () => (entry.next = this.#below(size + 2)),
      () => (entry.next = this.#below(0x1_0000)),
    ];
    ways[this.#below(ways.length)]?.();
  }

  #misbehave(): void {
    const { desc, driver, device, size } = this.layout;
    const ways: readonly (() => void)[] = [
      () => this.#publish(this.#below(size)),
      () => this.#publish(this.#below(0x1_0000)),
      () => (this.#availIndex = (this.#availIndex + this.#below(2 * size)) & 0xffff),
      () => (this.#availIndex = this.#below(0x1_0000)),
      () => this.#poke16(desc + 2 * this.#below(8 * size), this.#below(0x1_0000)),
      () => this.#poke16(driver + 4 + 2 * this.#below(size), this.#below(size)),
      // What the device writes is never what it goes by.
      () => this.#poke16(device + 2 + 2 * this.#below(4 * size), this.#below(0x1_0000)),
      () => this.#poke16(TABLES + 2 * this.#below((TABLE_BYTES * size) / 2), this.#below(0x1_0000)),
    ];
    ways[this.#below(ways.length)]?.();
  }

  #below(limit: number): number {
    return Math.floor(this.#random() * limit);
  }

  #poke8(gpa: number, value: number): void {
    this.#memory.writeU8(gpa, value);
    this.#shadow.regions[0]?.view.setUint8(gpa, value);
  }

  #poke16(gpa: number, value: number): void {
    this.#memory.writeU16(gpa, value & 0xffff);
    this.#shadow.regions[0]?.view.setUint16(gpa, value & 0xffff, true);
  }

  #poke32(gpa: number, value: number): void {
    this.#memory.writeU32(gpa, value);
    this.#shadow.regions[0]?.view.setUint32(gpa, value, true);
  }
}
