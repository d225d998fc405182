// The device's side of a split virtqueue: chains come out in the driver's order, and go back in any.
// VIRTIO 1.2 §2.7 (split virtqueues), §2.7.7 (used buffer notification suppression), §2.7.10 (available buffer one).
import type { GuestMemory, GuestRegion } from '../../memory/guest-memory.js';
import type { Field } from '../register-file.js';
import { AVAIL_NO_INTERRUPT, RING_PARTS, USED_NO_NOTIFY } from './abi.js';
import { DescriptorChain, walk, type DescriptorTable, type WalkError } from './chain.js';

export type { DescriptorChain } from './chain.js';

/** Where the driver put a queue. GPAs. */
export interface QueueLayout {
  readonly size: number;
  readonly desc: number;
  readonly driver: number;
  readonly device: number;
}

export interface QueueParts {
  readonly memory: GuestMemory;
  readonly layout: QueueLayout;
  readonly indirect: boolean;
  readonly eventIdx: boolean;
  /** Where the cursors are kept for a snapshot: next avail entry, next used entry, modulo 2^16. */
  readonly cursors: { readonly avail: Field; readonly used: Field };
  /** Called after used entries were published that the driver wants to hear of. */
  readonly interrupt: () => void;
  /** The driver broke the rings; the queue stands still from then on. */
  readonly broken: (reason: QueueError) => void;
  /** Work is left, but it is somebody else's turn: call the device's `notify` again soon. */
  readonly again: () => void;
}

export type QueueError =
  | WalkError
  | 'the avail index is further ahead than the queue is long'
  | 'a chain that is still in flight was made available again';

/** Chains that one turn of `each` may take, so that no guest keeps the event loop to itself. */
const TURN = 128;

/**
 * `pop` takes the next chain, `push` gives it back, `flush` shows the driver what was pushed and interrupts it when it
 * wants that. `each` is the loop that a device's `notify` usually is.
 * A chain object belongs to the queue and is used again once it was pushed.
 */
export class Virtqueue {
  /** Chains returned with length 0 because a buffer of theirs is not in RAM. */
  dropped = 0;
  /** Chains taken, and interrupts asked for. */
  taken = 0;
  interrupts = 0;
  readonly #parts: QueueParts;
  readonly #memory: GuestMemory;
  readonly #size: number;
  readonly #mask: number;
  readonly #indirect: boolean;
  readonly #eventIdx: boolean;
  readonly #table: DescriptorTable;
  // Word indices: the avail ring and the used ring's 16-bit words, the used elements' 32-bit words.
  readonly #avail16: Uint16Array<SharedArrayBuffer>;
  readonly #availAt: number;
  readonly #used16: Uint16Array<SharedArrayBuffer>;
  readonly #usedAt: number;
  readonly #used32: Uint32Array<SharedArrayBuffer>;
  readonly #elementsAt: number;
  readonly #chains: (DescriptorChain | undefined)[];
  readonly #inFlight: Uint8Array;
  #inFlightCount = 0;
  #availIndex: number;
  /** Last value of avail.idx that was read. */
  #availSeen: number;
  #usedIndex: number;
  #usedPublished: number;
  /** Whether the driver was told that it need not ring (without EVENT_IDX). */
  #isQuiet = false;
  #isStopped = false;
  #isHeld = false;
  /** Called once each when no chain is in flight. */
  #onIdle: (() => void)[] = [];

  /** @throws RangeError when `layout` is not a valid one: see `layoutProblem` */
  constructor(parts: QueueParts) {
    const { memory, layout, cursors } = parts;
    const problem = layoutProblem(memory, layout);
    if (problem !== undefined) throw new RangeError(problem);
    this.#parts = parts;
    this.#memory = memory;
    this.#size = layout.size;
    this.#mask = layout.size - 1;
    this.#indirect = parts.indirect;
    this.#eventIdx = parts.eventIdx;
    const desc = part(memory, layout, 'desc');
    this.#table = { view: desc.region.view, offset: desc.offset, size: layout.size };
    const driver = part(memory, layout, 'driver');
    this.#avail16 = driver.region.words16;
    this.#availAt = driver.offset / 2;
    const device = part(memory, layout, 'device');
    this.#used16 = device.region.words16;
    this.#usedAt = device.offset / 2;
    this.#used32 = device.region.words32;
    this.#elementsAt = (device.offset + 4) / 4;
    this.#chains = Array.from({ length: layout.size });
    this.#inFlight = new Uint8Array(layout.size);
    this.#availIndex = this.#availSeen = cursors.avail.get() & 0xffff;
    this.#usedIndex = this.#usedPublished = cursors.used.get() & 0xffff;
    // Left by the machine that was saved: who does not know of it never takes it back, and the driver never rings.
    this.#isQuiet = (Atomics.load(this.#used16, this.#usedAt) & USED_NO_NOTIFY) !== 0;
  }

  /** Chains popped and not pushed yet. */
  get inFlight(): number {
    return this.#inFlightCount;
  }

  get size(): number {
    return this.#size;
  }

  /**
   * The next chain that the driver made available, or undefined; after undefined the driver rings for the next one.
   * Chains with buffers outside RAM are returned to the driver in here, with length 0.
   */
  pop(): DescriptorChain | undefined {
    for (let drops = 0; drops <= this.#size; drops++) {
      const chain = this.#take();
      if (chain === undefined) return undefined;
      const result = walk(this.#memory, this.#table, chain, this.#indirect);
      if (result === 'ok') return chain;
      if (result !== 'outside') {
        // The device does not get it: nobody else would give it back, and a stop would wait for ever.
        this.#release(chain);
        this.#break(result);
        return undefined;
      }
      this.dropped++;
      this.push(chain, 0);
      this.flush();
    }
    // A driver that publishes such chains without end waits like everybody for its next turn.
    this.#parts.again();
    return undefined;
  }

  /** Puts the chain that was popped last back: it will be popped again. Chains go back in reverse order. */
  unpop(chain: DescriptorChain): void {
    this.#release(chain);
    this.#availIndex = (this.#availIndex - 1) & 0xffff;
    this.taken--;
  }

  /**
   * Gives a chain back. Each popped chain is pushed exactly once, even when its queue was stopped meanwhile.
   * @param bytesWritten bytes of the device-writable part, from its start (VIRTIO 1.2 §2.7.8.2)
   */
  push(chain: DescriptorChain, bytesWritten: number): void {
    this.#release(chain);
    if (this.#isStopped) return;
    const at = this.#elementsAt + (this.#usedIndex & this.#mask) * 2;
    this.#used32[at] = chain.head;
    this.#used32[at + 1] = bytesWritten;
    this.#usedIndex = (this.#usedIndex + 1) & 0xffff;
  }

  /** Publishes what was pushed; the driver is interrupted when it asked for that. */
  flush(): void {
    const from = this.#usedPublished;
    if (this.#usedIndex === from || this.#isStopped) return;
    // Partner: the driver's load of used.idx; the elements were stored before.
    Atomics.store(this.#used16, this.#usedAt + 1, this.#usedIndex);
    this.#usedPublished = this.#usedIndex;
    this.#parts.cursors.used.set(this.#usedIndex);
    this.#parts.cursors.avail.set(this.#availIndex);
    // After the store: a driver that stored used_event (or cleared the flag) and then looked at used.idx in vain is seen here.
    if (this.#isInterruptWanted(from)) {
      this.interrupts++;
      this.#parts.interrupt();
    }
  }

  /**
   * Handles chains until none is left or the turn is over, then flushes.
   * @param handle gets each chain; whatever it does not push it keeps and pushes later. False ends the loop; that
   *   chain counts as handled.
   */
  each(handle: (chain: DescriptorChain) => boolean | void): void {
    for (let n = 0; n < TURN; n++) {
      const chain = this.pop();
      if (chain === undefined || handle(chain) === false) {
        this.flush();
        return;
      }
    }
    this.flush();
    this.#parts.again();
  }

  /** Nothing is popped and nothing is written from now on. @returns when every chain has been pushed */
  stop(): Promise<void> {
    this.#isStopped = true;
    return this.#idle();
  }

  /**
   * Nothing is popped until `release`; chains in flight come back as ever.
   * @returns when every chain has been pushed, or put back: then the cursors say all that a snapshot needs
   */
  async hold(): Promise<void> {
    this.#isHeld = true;
    await this.#idle();
    this.flush();
    this.#parts.cursors.used.set(this.#usedIndex);
    this.#parts.cursors.avail.set(this.#availIndex);
  }

  /** Ends `hold`. The device is to be notified, for the driver may have rung meanwhile. */
  release(): void {
    this.#isHeld = false;
  }

  #idle(): Promise<void> {
    if (this.#inFlightCount === 0) return Promise.resolve();
    return new Promise((resolve) => this.#onIdle.push(resolve));
  }

  #take(): DescriptorChain | undefined {
    if (this.#isStopped || this.#isHeld) return undefined;
    if (this.#availIndex === this.#availSeen && !this.#look()) return undefined;
    const head = this.#avail16[this.#availAt + 2 + (this.#availIndex & this.#mask)] as number;
    if (head >= this.#size) {
      this.#break('a descriptor index is not below the queue size');
      return undefined;
    }
    if (this.#inFlight[head] !== 0) {
      this.#break('a chain that is still in flight was made available again');
      return undefined;
    }
    this.#inFlight[head] = 1;
    this.#inFlightCount++;
    this.#availIndex = (this.#availIndex + 1) & 0xffff;
    this.taken++;
    return (this.#chains[head] ??= new DescriptorChain(head, this.#memory));
  }

  /** Looks for chains; when there are none it arms the doorbell and looks again. */
  #look(): boolean {
    if (this.#refresh()) {
      if (!this.#isQuiet && !this.#eventIdx && !this.#isStopped) this.#setQuiet(true);
      return !this.#isStopped;
    }
    if (this.#isStopped) return false;
    if (this.#eventIdx) Atomics.store(this.#used16, this.#usedAt + 2 + this.#size * 4, this.#availIndex);
    else if (this.#isQuiet) this.#setQuiet(false);
    this.#parts.cursors.avail.set(this.#availIndex);
    // Partner: the driver stores avail.idx and then loads avail_event (or the flag). One of the two sees the other.
    return this.#refresh() && !this.#isStopped;
  }

  /** @returns whether avail.idx says that there are chains; a nonsensical one breaks the queue */
  #refresh(): boolean {
    this.#availSeen = Atomics.load(this.#avail16, this.#availAt + 1);
    const pending = (this.#availSeen - this.#availIndex) & 0xffff;
    if (pending > this.#size) this.#break('the avail index is further ahead than the queue is long');
    return pending > 0;
  }

  #setQuiet(isQuiet: boolean): void {
    this.#isQuiet = isQuiet;
    Atomics.store(this.#used16, this.#usedAt, isQuiet ? USED_NO_NOTIFY : 0);
  }

  #isInterruptWanted(from: number): boolean {
    if (!this.#eventIdx) return (Atomics.load(this.#avail16, this.#availAt) & AVAIL_NO_INTERRUPT) === 0;
    const usedEvent = Atomics.load(this.#avail16, this.#availAt + 2 + this.#size);
    // §2.7.7.2: the entry at used_event is among those just published.
    return ((this.#usedIndex - usedEvent - 1) & 0xffff) < ((this.#usedIndex - from) & 0xffff);
  }

  #release(chain: DescriptorChain): void {
    // A device that pushes twice has a bug that would give one buffer to two owners.
    if (this.#inFlight[chain.head] === 0) throw new Error(`chain ${chain.head} was given back twice`);
    this.#inFlight[chain.head] = 0;
    if (--this.#inFlightCount === 0) for (const resolve of this.#onIdle.splice(0)) resolve();
  }

  #break(reason: QueueError): void {
    this.#isStopped = true;
    this.#parts.broken(reason);
  }
}

/** Why the driver cannot have a queue like this, or undefined. VIRTIO 1.2 §2.7, §2.7.4.1. */
export function layoutProblem(memory: Pick<GuestMemory, 'contains'>, layout: QueueLayout): string | undefined {
  const { size } = layout;
  if (size === 0 || (size & (size - 1)) !== 0) return `the queue size ${size} is not a power of two`;
  const parts = Object.entries(RING_PARTS).map(([name, { alignment, bytes }]) => {
    const base = layout[name as keyof typeof RING_PARTS];
    return { name, alignment, base, length: bytes(size) };
  });
  for (const { name, alignment, base, length } of parts) {
    if (base % alignment !== 0) return `the ${name} area is not aligned to ${alignment} bytes`;
    if (!memory.contains(base, length)) return `the ${name} area is not in guest RAM`;
  }
  const [a, b] =
    parts
      .flatMap((x, i) => parts.slice(i + 1).map((y) => [x, y] as const))
      .find(([x, y]) => x.base < y.base + y.length && y.base < x.base + x.length) ?? [];
  return a === undefined || b === undefined ? undefined : `the ${a.name} area overlaps the ${b.name} area`;
}

function part(
  memory: GuestMemory,
  layout: QueueLayout,
  name: keyof typeof RING_PARTS,
): { readonly region: GuestRegion; readonly offset: number } {
  const gpa = layout[name];
  const region = memory.regionOf(gpa, RING_PARTS[name].bytes(layout.size));
  if (region === undefined) throw new RangeError(`the ${name} area is not in guest RAM`);
  return { region, offset: gpa - region.base };
}
