// The real queue against the reference: a driver that is a little or very hostile, and a device that completes in any
// order. Every answer of the two is compared, and after each round all of the guest's memory.
import { RegisterFile } from '../../src/devices/register-file.js';
import { GuestVector } from '../../src/devices/virtio/guest-vector.js';
import { Virtqueue, type DescriptorChain } from '../../src/devices/virtio/queue.js';
import { GuestMemory } from '../../src/memory/guest-memory.js';
import { HostileDriver, REGION_BASES, REGION_BYTES, type DuelOptions } from './hostile-driver.js';
import { ReferenceMemory, ReferenceQueue, type ReferenceBuffer } from './reference-queue.js';

export interface DuelResult {
  /** Chains that were compared, whatever became of them. */
  chains: number;
  dropped: number;
  broken: number;
  interrupts: number;
}

/** mulberry32: fast, and as good as this needs. @returns numbers from 0, below 1 */
export function randomFrom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b_79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** @throws Error when the two differ: it says in what */
export function duel(options: DuelOptions): DuelResult {
  const random = randomFrom(options.seed);
  const memory = GuestMemory.attach({
    regions: REGION_BASES.map((base) => ({ base, buffer: new SharedArrayBuffer(REGION_BYTES) })),
  });
  // What is not a ring and not a buffer is recognised when it changes.
  for (const { bytes } of memory.regions) for (let i = 0; i < bytes.length; i++) bytes[i] = (i * 197) >>> 3;
  const shadow = new ReferenceMemory(memory.share());
  const result: DuelResult = { chains: 0, dropped: 0, broken: 0, interrupts: 0 };
  for (let round = 0; round < options.rounds;) {
    const session = new Session(options, memory, shadow, random, result);
    while (round++ < options.rounds && session.round());
    session.end(random() < 0.5);
  }
  return result;
}

/** From the activation of a queue to its end. */
class Session {
  readonly #random: () => number;
  readonly #memory: GuestMemory;
  readonly #shadow: ReferenceMemory;
  readonly #result: DuelResult;
  readonly #driver: HostileDriver;
  readonly #real: Virtqueue;
  readonly #reference: ReferenceQueue;
  readonly #inFlight: DescriptorChain[] = [];
  readonly #slice: GuestVector;
  #reason: string | undefined;
  #isAgain = false;
  #interrupts = 0;
  #expectedInterrupts = 0;

  constructor(
    options: DuelOptions,
    memory: GuestMemory,
    shadow: ReferenceMemory,
    random: () => number,
    result: DuelResult,
  ) {
    this.#random = random;
    this.#memory = memory;
    this.#shadow = shadow;
    this.#result = result;
    this.#slice = new GuestVector(memory);
    this.#driver = new HostileDriver(options, memory, shadow, random);
    const { layout } = this.#driver;
    const { firstIndex, indirect, eventIdx } = options;
    const cursors = RegisterFile.create(64).allocate('queue', { avail: { doc: '' }, used: { doc: '' } });
    cursors.avail.set(firstIndex);
    cursors.used.set(firstIndex);
    this.#real = new Virtqueue({
      memory,
      layout,
      indirect,
      eventIdx,
      cursors,
      interrupt: () => void this.#interrupts++,
      broken: (reason) => {
        if (this.#reason !== undefined) throw new Error(`the queue broke twice: ${reason}`);
        this.#reason = reason;
      },
      again: () => void (this.#isAgain = true),
    });
    const { size, desc, driver, device } = layout;
    this.#reference = new ReferenceQueue(
      shadow,
      { size, desc: BigInt(desc), driver: BigInt(driver), device: BigInt(device), indirect, eventIdx },
      firstIndex,
    );
  }

  /** @returns whether the queue still works */
  round(): boolean {
    this.#driver.turn();
    for (let steps = this.#below(3 * this.#real.size) + 1; steps > 0 && !this.#isBroken; steps--) {
      const dice = this.#random();
      if (dice < 0.6) this.#pop();
      else if (dice < 0.9) this.#push();
      else this.#flush();
    }
    if (this.#random() < 0.7) {
      while (this.#inFlight.length > 0) this.#push();
      this.#flush();
    }
    this.#compare();
    this.#driver.collect();
    return !this.#isBroken;
  }

  /** What is in flight comes back, before or after the stop; after it nothing of it is written. */
  end(stopFirst: boolean): void {
    if (stopFirst) {
      void this.#real.stop();
      this.#reference.isBroken = true;
    }
    while (this.#inFlight.length > 0) this.#push();
    this.#flush();
    this.#compare();
    this.#result.interrupts += this.#interrupts;
    this.#result.dropped += this.#real.dropped;
    if (this.#isBroken) this.#result.broken++;
  }

  #pop(): void {
    const { dropped } = this.#real;
    this.#isAgain = false;
    const chain = this.#real.pop();
    const drops = this.#real.dropped - dropped;
    this.#driver.adoptFlags();
    for (let n = 0; ; n++) {
      // The real one returns chains outside RAM in passing, and gives way to others after a queue full of them.
      if (this.#isAgain && n > this.#real.size) {
        this.#check(chain === undefined && n === drops, 'a turn ends early');
        return;
      }
      const answer = this.#reference.pop();
      if (answer.kind !== 'none') this.#result.chains++;
      if (answer.kind === 'outside') {
        this.#check(n < drops, `chain ${answer.head} is outside RAM, and was not dropped`);
        this.#reference.push(answer.head, 0);
        if (this.#reference.flush()) this.#expectedInterrupts++;
        continue;
      }
      this.#check(n === drops, `${drops} chains dropped, not ${n}`);
      const { kind } = answer;
      this.#check(this.#isBroken === (kind === 'broken'), `${kind}, where the queue says: ${this.#reason ?? 'sound'}`);
      if (answer.kind !== 'chain') {
        this.#check(chain === undefined, `chain ${chain?.head}, where ${answer.kind}`);
        if (answer.kind === 'none') this.#driver.checkArmed();
        return;
      }
      if (chain === undefined) throw new Error(`no chain, where there is ${answer.head}`);
      this.#check(chain.head === answer.head, `chain ${chain.head}, where there is ${answer.head}`);
      this.#checkVector(chain.readable, answer.readable);
      this.#checkVector(chain.writable, answer.writable);
      if (this.#random() < 0.1) {
        this.#real.unpop(chain);
        this.#reference.unpop(chain.head);
        return;
      }
      this.#useReadable(chain.readable, answer.readable);
      this.#useWritable(chain.writable, answer.writable);
      this.#inFlight.push(chain);
      return;
    }
  }

  #push(): void {
    const [chain] = this.#inFlight.splice(this.#below(this.#inFlight.length), 1);
    if (chain === undefined) return;
    const length = this.#below(2 ** 32);
    this.#real.push(chain, length);
    this.#reference.push(chain.head, length);
  }

  #flush(): void {
    this.#real.flush();
    if (this.#reference.flush()) this.#expectedInterrupts++;
  }

  #compare(): void {
    this.#check(this.#real.inFlight === this.#reference.inFlight.size, `${this.#real.inFlight} in flight`);
    this.#check(this.#interrupts === this.#expectedInterrupts, `${this.#interrupts} interrupts`);
    this.#driver.adoptFlags();
    for (const [i, { bytes, base }] of this.#memory.regions.entries()) {
      const expected = this.#shadow.regions[i]?.bytes ?? new Uint8Array();
      if (Buffer.compare(bytes, expected) === 0) continue;
      const at = bytes.findIndex((byte, offset) => byte !== expected[offset]);
      throw new Error(`the byte at 0x${(base + at).toString(16)} is ${bytes[at]}, not ${expected[at]}`);
    }
  }

  #checkVector(vector: GuestVector, buffers: readonly ReferenceBuffer[]): void {
    let sum = 0;
    for (const [i, { gpa, length }] of buffers.entries()) {
      const region = this.#memory.regions[vector.regions[i] ?? -1];
      const found = BigInt((region?.base ?? 0) + (vector.offsets[i] ?? 0));
      this.#check(found === gpa && vector.lengths[i] === length, `buffer ${i} at ${found}, not ${gpa}`);
      sum += length;
    }
    this.#check(vector.count === buffers.length && vector.bytes === sum, `${vector.count} buffers`);
  }

  /** A few bytes from anywhere in it. */
  #useReadable(vector: GuestVector, buffers: readonly ReferenceBuffer[]): void {
    const from = this.#below(vector.bytes);
    const target = new Uint8Array(this.#below(100));
    const count = vector.copyTo(target, from);
    this.#check(count === Math.min(target.length, vector.bytes - from), `${count} bytes were copied out`);
    const cursor = bytesFrom(buffers, from);
    for (let i = 0; i < count; i++)
      this.#check(target[i] === this.#shadow.readByte(cursor()), `byte ${from + i} of the chain is ${target[i]}`);
  }

  /** In one of the ways that devices have. */
  #useWritable(vector: GuestVector, buffers: readonly ReferenceBuffer[]): void {
    const from = this.#below(vector.bytes);
    const way = this.#below(5);
    const cursor = bytesFrom(buffers, from);
    if (way === 0) {
      const source = Uint8Array.from({ length: this.#below(100) }, () => this.#below(256));
      const count = vector.copyFrom(source, from);
      this.#check(count === Math.min(source.length, vector.bytes - from), `${count} bytes were copied in`);
      for (let i = 0; i < count; i++) this.#store(cursor(), source[i] ?? 0);
    } else if (way === 1) {
      vector.setU8(from, 0x5a);
      if (vector.bytes > 0) this.#store(cursor(), 0x5a);
    } else if (way === 2) {
      const total = vector.bytes;
      const place = vector.takeLastByte();
      this.#check((place === -1) === (total === 0) && vector.bytes === Math.max(total - 1, 0), 'the last byte');
      vector.storeAt(place, 0x3c);
      if (total > 0) this.#store(bytesFrom(buffers, total - 1)(), 0x3c);
    } else if (way === 3) {
      const total = vector.bytes;
      this.#check(!vector.dropFirst(total + 1) && vector.bytes === total, 'more was dropped than there is');
      this.#check(vector.dropFirst(from) && vector.bytes === total - from, 'the first bytes');
      vector.setU8(0, 0xb4);
      if (total > from) this.#store(cursor(), 0xb4);
    } else {
      const length = Math.min(this.#below(100), vector.bytes - from);
      this.#check(vector.slice(from, length, this.#slice) && this.#slice.bytes === length, 'no slice');
      this.#check(!vector.slice(from, vector.bytes - from + 1, this.#slice), 'a slice beyond the end');
      vector.slice(from, length, this.#slice);
      this.#slice.fill(0xc3);
      for (let i = 0; i < length; i++) this.#store(cursor(), 0xc3);
    }
  }

  /** What the real device has written into a buffer. */
  #store(gpa: bigint, value: number): void {
    this.#shadow.writeByte(gpa, value);
    this.#driver.noteStore(gpa);
  }

  get #isBroken(): boolean {
    return this.#reason !== undefined;
  }

  #below(limit: number): number {
    return Math.floor(this.#random() * limit);
  }

  #check(isRight: boolean, what: string): void {
    if (!isRight) throw new Error(`the queue differs from the reference: ${what}`);
  }
}

/** The addresses of a chain's bytes, one after the other, from byte `from` on. */
function bytesFrom(buffers: readonly ReferenceBuffer[], from: number): () => bigint {
  let buffer = 0;
  let offset = from;
  return () => {
    for (let it = buffers[buffer]; it !== undefined; it = buffers[++buffer]) {
      if (offset < it.length) return it.gpa + BigInt(offset++);
      offset -= it.length;
    }
    throw new RangeError('beyond the end of the chain');
  };
}
