// A virtio disk with a driver that the test plays: requests in, status bytes out; and backends that the test holds.
// VIRTIO 1.2 §5.2.6 (device operation).
import type { BlockBackend, Done } from '../../src/devices/backend/block-backend.js';
import { VirtioBlock, type BlockOptions } from '../../src/devices/virtio/block.js';
import { REQUEST } from '../../src/devices/virtio/block-request.js';
import type { GuestVector } from '../../src/devices/virtio/guest-vector.js';
import type { GuestMemory } from '../../src/memory/guest-memory.js';
import { MockMachine, type MockBuffer, type MockQueue } from './virtqueue-driver.js';

/** A disk in memory, written in plain TypeScript as a person would; answers at once, or when the test says so. */
export class MemoryDisk implements BlockBackend {
  readonly capacityBytes: number;
  readonly bytes: Uint8Array;
  /** Answers wait for `release` while this is true. */
  isHeld = false;
  /** What every request answers. */
  errno = 0;
  flushes = 0;
  batches = 0;
  closed = 0;
  readonly held: (() => void)[] = [];
  #ready: (() => void)[] = [];

  constructor(
    bytes: number | Uint8Array,
    readonly readOnly = false,
  ) {
    this.bytes = typeof bytes === 'number' ? Uint8Array.from({ length: bytes }, (_, i) => i * 7 + (i >> 9)) : bytes;
    this.capacityBytes = this.bytes.length;
  }

  read(position: number, vector: GuestVector, done: Done): void {
    this.#do(done, () => vector.copyFrom(this.bytes.subarray(position, position + vector.bytes)));
  }

  write(position: number, vector: GuestVector, done: Done): void {
    this.#do(done, () => vector.copyTo(this.bytes.subarray(position, position + vector.bytes)));
  }

  flush(done: Done): void {
    this.flushes++;
    this.#do(done, () => undefined);
  }

  discard(position: number, length: number, done: Done): void {
    this.writeZeroes(position, length, done);
  }

  writeZeroes(position: number, length: number, done: Done): void {
    this.#do(done, () => this.bytes.fill(0, position, position + length));
  }

  submit(): void {
    this.batches++;
    const ready = this.#ready;
    this.#ready = [];
    for (const answer of ready) answer();
  }

  /** Answers everything that is held. */
  release(): void {
    for (const answer of this.held.splice(0)) answer();
  }

  close(): Promise<void> {
    this.closed++;
    return Promise.resolve();
  }

  #do(done: Done, work: () => void): void {
    const answer = (): void => {
      if (this.errno === 0) work();
      done(this.errno);
    };
    if (this.isHeld) this.held.push(answer);
    else this.#ready.push(answer);
  }
}

export interface RequestParts {
  readonly type: number;
  readonly sector?: number | bigint;
  /** Bytes that the device reads, after the header. */
  readonly out?: Uint8Array;
  /** Bytes that the device may write, before the status. */
  readonly in?: number;
}

export interface BlockAnswer {
  /** 0xff when the device did not touch it. */
  readonly status: number;
  readonly data: Uint8Array;
  readonly usedLength: number;
}

/** Where requests lie in guest RAM: each has a place of its own. */
const REQUESTS_AT = 0x20_0000;
const UNTOUCHED = 0xff;

export class BlockRig {
  readonly machine: MockMachine;
  readonly device: VirtioBlock;
  readonly queue: MockQueue;
  readonly #answers = new Map<number, (usedLength: number) => void>();
  #next = REQUESTS_AT;

  private constructor(machine: MockMachine, device: VirtioBlock, queue: MockQueue) {
    this.machine = machine;
    this.device = device;
    this.queue = queue;
  }

  static async start(
    options: Partial<BlockOptions> & Pick<BlockOptions, 'backend'>,
    {
      without = [],
      memory,
      onFailure,
    }: {
      readonly without?: readonly number[];
      readonly memory?: GuestMemory;
      readonly onFailure?: (message: string) => void;
    } = {},
  ): Promise<BlockRig> {
    const device = new VirtioBlock({ name: 'disk0', id: 'test disk', ...options });
    const machine = new MockMachine(device, {
      ...(memory === undefined ? {} : { memory }),
      ...(onFailure === undefined ? {} : { onFailure }),
    });
    const [queue] = await machine.start(without);
    if (queue === undefined) throw new Error('a disk has a queue');
    return new BlockRig(machine, device, queue);
  }

  /** Bytes of guest RAM that nobody else uses. */
  room(bytes: number): number {
    const at = this.#next;
    this.#next += Math.ceil(bytes / 64) * 64;
    if (this.#next > this.machine.memory.size) throw new Error('the rig has no guest RAM left; call recycle');
    return at;
  }

  /** Guest RAM of requests may be used again: none is under way. */
  recycle(): void {
    this.#next = REQUESTS_AT;
  }

  /** Header at a place of its own. */
  header({ type, sector = 0 }: RequestParts): number {
    const at = this.room(16);
    const { memory } = this.machine;
    memory.writeU32(at, type);
    memory.writeU32(at + 4, 0);
    memory.writeU64(at + 8, BigInt(sector));
    return at;
  }

  /** The chain of a request as Linux makes it: header, data, status. */
  request(parts: RequestParts): Promise<BlockAnswer> {
    const { memory } = this.machine;
    const header = this.header(parts);
    const out = parts.out ?? new Uint8Array();
    const outAt = this.room(out.length);
    memory.write(outAt, out);
    const inAt = this.room(parts.in ?? 0);
    const status = this.room(1);
    memory.writeU8(status, UNTOUCHED);
    const buffers: MockBuffer[] = [{ gpa: header, length: 16 }];
    if (out.length > 0) buffers.push({ gpa: outAt, length: out.length });
    if (parts.in !== undefined && parts.in > 0) buffers.push({ gpa: inAt, length: parts.in, writable: true });
    buffers.push({ gpa: status, length: 1, writable: true });
    return this.send(buffers).then((usedLength) => ({
      status: memory.readU8(status),
      data: memory.read(inAt, parts.in ?? 0),
      usedLength,
    }));
  }

  /** Any chain. @returns the used length when it has come back: see `collect` */
  send(buffers: readonly MockBuffer[]): Promise<number> {
    const head = this.queue.add(buffers);
    const answer = new Promise<number>((resolve) => this.#answers.set(head, resolve));
    void this.#poll();
    return answer;
  }

  read(sector: number | bigint, bytes: number): Promise<BlockAnswer> {
    return this.request({ type: REQUEST.IN, sector, in: bytes });
  }

  write(sector: number | bigint, out: Uint8Array): Promise<BlockAnswer> {
    return this.request({ type: REQUEST.OUT, sector, out });
  }

  flush(): Promise<BlockAnswer> {
    return this.request({ type: REQUEST.FLUSH });
  }

  /** Requests that have not come back. */
  get waiting(): number {
    return this.#answers.size;
  }

  /** Takes what the device has put into the used ring. */
  collect(): void {
    for (let used = this.queue.takeUsed(); used !== undefined; used = this.queue.takeUsed()) {
      const answer = this.#answers.get(used.id);
      this.#answers.delete(used.id);
      if (answer === undefined) throw new Error(`chain ${used.id} came back without being asked for`);
      answer(used.length);
    }
  }

  async close(): Promise<void> {
    this.#answers.clear();
    await this.machine.close();
  }

  async #poll(): Promise<void> {
    while (this.#answers.size > 0) {
      this.collect();
      await new Promise((resolve) => setImmediate(resolve));
    }
  }
}
