// Plays the guest's side of a virtio-mmio device: negotiates, lays out queues in guest RAM, publishes chains.
// VIRTIO 1.2 §3.1.1 (initialization), §2.7.13 (supplying buffers), §2.7.14 (receiving used buffers), §4.2.3.
import { GuestMemory } from '../../src/memory/guest-memory.js';
import { NO_WAIT, type OwnerWait } from '../../src/devices/owner-wait.js';
import { RegisterFile } from '../../src/devices/register-file.js';
import { DESC, FEATURE, STATUS } from '../../src/devices/virtio/abi.js';
import type { VirtioDevice } from '../../src/devices/virtio/device.js';
import { MmioBack } from '../../src/devices/virtio/mmio-back.js';
import { MmioFront } from '../../src/devices/virtio/mmio-front.js';
import { allocateMmioState, type MmioState } from '../../src/devices/virtio/mmio-state.js';

/** Registers by name, VIRTIO 1.2 §4.2.2. */
export const REG = {
  MagicValue: 0x000,
  Version: 0x004,
  DeviceID: 0x008,
  VendorID: 0x00c,
  DeviceFeatures: 0x010,
  DeviceFeaturesSel: 0x014,
  DriverFeatures: 0x020,
  DriverFeaturesSel: 0x024,
  QueueSel: 0x030,
  QueueNumMax: 0x034,
  QueueNum: 0x038,
  QueueReady: 0x044,
  QueueNotify: 0x050,
  InterruptStatus: 0x060,
  InterruptACK: 0x064,
  Status: 0x070,
  QueueDescLow: 0x080,
  QueueDescHigh: 0x084,
  QueueDriverLow: 0x090,
  QueueDriverHigh: 0x094,
  QueueDeviceLow: 0x0a0,
  QueueDeviceHigh: 0x0a4,
  ConfigGeneration: 0x0fc,
  Config: 0x100,
} as const;

/** An eventfd without a kernel: its watcher runs when `settle` (or the event loop) comes by. */
export class FakeBell {
  signals = 0;
  #callback: ((count: number) => void) | undefined;
  #pending = 0;

  signal(): void {
    this.signals++;
    if (this.#pending++ === 0) setImmediate(() => this.ring());
  }

  /** Runs the watcher now if it was signalled: for benchmarks, which have no event loop between requests. */
  ring(): void {
    const count = this.#pending;
    this.#pending = 0;
    if (count > 0) this.#callback?.(count);
  }

  onReadable(callback: (count: number) => void): { close(): void } {
    this.#callback = callback;
    return { close: () => (this.#callback = undefined) };
  }
}

/** A buffer of a chain. */
export interface MockBuffer {
  readonly gpa: number | bigint;
  readonly length: number;
  readonly writable?: boolean;
}

export interface UsedElement {
  readonly id: number;
  readonly length: number;
}

/** What a driver has of its device: guest RAM and the window of registers. */
export interface DriverHands {
  readonly memory: GuestMemory;
  read(register: number, size?: number): number;
  write(register: number, value: number, size?: number): void;
}

/** Steps 1 to 6 of §3.1.1, on any thread. @param without feature bits that this driver does not know */
export function negotiate(hands: DriverHands, without: readonly number[] = []): void {
  hands.write(REG.Status, 0);
  hands.write(REG.Status, STATUS.ACKNOWLEDGE);
  hands.write(REG.Status, STATUS.ACKNOWLEDGE | STATUS.DRIVER);
  let features = offeredFeatures(hands);
  for (const bit of without) features &= ~(1n << BigInt(bit));
  for (const half of [0, 1]) {
    hands.write(REG.DriverFeaturesSel, half);
    hands.write(REG.DriverFeatures, Number((features >> BigInt(32 * half)) & 0xffff_ffffn));
  }
  hands.write(REG.Status, STATUS.ACKNOWLEDGE | STATUS.DRIVER | STATUS.FEATURES_OK);
}

/** Offered features as a bit set. */
export function offeredFeatures(hands: DriverHands): bigint {
  let bits = 0n;
  for (const half of [0, 1]) {
    hands.write(REG.DeviceFeaturesSel, half);
    bits |= BigInt(hands.read(REG.DeviceFeatures)) << BigInt(32 * half);
  }
  return bits;
}

/** Where the parts of a queue lie, as a driver says it. */
export interface QueuePlace {
  readonly size: number;
  readonly desc: number | bigint;
  readonly avail: number | bigint;
  readonly used: number | bigint;
}

/** Describes queue `index` and makes it ready, valid or not. */
export function describeQueue(hands: DriverHands, index: number, { size, desc, avail, used }: QueuePlace): void {
  const address = (low: number, gpa: number | bigint): void => {
    hands.write(low, Number(BigInt(gpa) & 0xffff_ffffn));
    hands.write(low + 4, Number((BigInt(gpa) >> 32n) & 0xffff_ffffn));
  };
  hands.write(REG.QueueSel, index);
  hands.write(REG.QueueNum, size);
  address(REG.QueueDescLow, desc);
  address(REG.QueueDriverLow, avail);
  address(REG.QueueDeviceLow, used);
  hands.write(REG.QueueReady, 1);
}

/** All status bits of a driver that has finished. */
export const DRIVING = STATUS.ACKNOWLEDGE | STATUS.DRIVER | STATUS.FEATURES_OK | STATUS.DRIVER_OK;

/** A device on a machine of its own: RAM, both halves of the transport, and the driver's hands on the registers. */
export class MockMachine implements DriverHands {
  readonly memory: GuestMemory;
  readonly registers = RegisterFile.create(1 << 20);
  readonly state: MmioState;
  readonly front: MmioFront;
  readonly back: MmioBack;
  readonly control = new FakeBell();
  readonly doorbells: readonly FakeBell[];
  readonly warnings: string[] = [];
  interrupts = 0;

  constructor(
    device: VirtioDevice,
    options: {
      memory?: GuestMemory;
      wait?: OwnerWait;
      onInterrupt?: () => void;
      onFailure?: (message: string) => void;
    } = {},
  ) {
    this.memory = options.memory ?? GuestMemory.create(16 << 20);
    this.state = allocateMmioState(this.registers, device.offer);
    this.doorbells = device.offer.queueSizes.map(() => new FakeBell());
    const { control, doorbells, memory } = this;
    this.front = new MmioFront(device.offer, this.state, {
      control,
      doorbells,
      memory,
      wait: options.wait ?? NO_WAIT,
    });
    this.back = new MmioBack(device, this.state, {
      memory,
      control,
      doorbells,
      irq: {
        pulse: () => {
          this.interrupts++;
          options.onInterrupt?.();
        },
      },
      warn: (message) => this.warnings.push(message),
      ...(options.onFailure === undefined ? {} : { onFailure: options.onFailure }),
    });
  }

  read(register: number, size = 4): number {
    return this.front.read(register, size);
  }

  write(register: number, value: number, size = 4): void {
    this.front.write(register, size, value >>> 0);
  }

  get status(): number {
    return this.read(REG.Status);
  }

  /** Offered features as a bit set. */
  offered(): bigint {
    return offeredFeatures(this);
  }

  /** Steps 1 to 6 of §3.1.1. @param without feature bits that this driver does not know */
  negotiate(without: readonly number[] = []): void {
    negotiate(this, without);
  }

  /** Lays out queue `index` at `base` (which it fills with zeros) and makes it ready. */
  addQueue(index: number, size: number, base = 0x10_0000 + index * 0x4_0000, eventIdx = true): MockQueue {
    const queue = new MockQueue(this, index, size, base, eventIdx);
    describeQueue(this, index, queue);
    return queue;
  }

  driverOk(): void {
    this.write(REG.Status, DRIVING);
  }

  /** Negotiates, sets all queues up with their largest size, and goes. `without` EVENT_IDX, the queues know it. */
  async start(without: readonly number[] = []): Promise<MockQueue[]> {
    this.negotiate(without);
    const hasEventIdx = !without.includes(FEATURE.RING_EVENT_IDX);
    const queues = this.back.device.offer.queueSizes.map((size, index) =>
      this.addQueue(index, size, undefined, hasEventIdx),
    );
    this.driverOk();
    await this.settle();
    return queues;
  }

  /** Lets the event loop turn until nobody has anything to do at once. */
  async settle(turns = 6): Promise<void> {
    for (let i = 0; i < turns; i++) await new Promise((resolve) => setImmediate(resolve));
  }

  async close(): Promise<void> {
    await this.back.close();
  }
}

/** The driver's side of one split virtqueue. The descriptors are this object's own affair: hostile tests write them raw. */
export class MockQueue {
  readonly desc: number;
  readonly avail: number;
  readonly used: number;
  readonly #free: number[];
  readonly #chains = new Map<number, readonly number[]>();
  #availIndex = 0;
  #usedSeen = 0;

  constructor(
    readonly machine: DriverHands,
    readonly index: number,
    readonly size: number,
    base: number,
    readonly eventIdx = true,
  ) {
    this.desc = base;
    this.avail = this.desc + 16 * size;
    this.used = Math.ceil((this.avail + 6 + 2 * size) / 4) * 4;
    machine.memory.fill(base, this.used + 6 + 8 * size - base);
    this.#free = Array.from({ length: size }, (_, i) => size - 1 - i);
  }

  /** Writes descriptor `at` raw. */
  setDescriptor(at: number, gpa: number | bigint, length: number, flags: number, next = 0): void {
    const { memory } = this.machine;
    writeDescriptor(memory, this.desc + 16 * at, gpa, length, flags, next);
  }

  /** Puts a chain into the descriptor table. @returns its head */
  build(buffers: readonly MockBuffer[]): number {
    const indices = buffers.map(() => {
      const free = this.#free.pop();
      if (free === undefined) throw new Error('the mock driver has no free descriptor');
      return free;
    });
    for (const [i, { gpa, length, writable }] of buffers.entries()) {
      const next = indices[i + 1];
      const flags = (writable === true ? DESC.WRITE : 0) | (next === undefined ? 0 : DESC.NEXT);
      this.setDescriptor(indices[i] as number, gpa, length, flags, next ?? 0);
    }
    const head = indices[0] as number;
    this.#chains.set(head, indices);
    return head;
  }

  /** The same through an indirect table at `table`. @returns the head */
  buildIndirect(table: number, buffers: readonly MockBuffer[]): number {
    for (const [i, { gpa, length, writable }] of buffers.entries()) {
      const isLast = i === buffers.length - 1;
      const flags = (writable === true ? DESC.WRITE : 0) | (isLast ? 0 : DESC.NEXT);
      writeDescriptor(this.machine.memory, table + 16 * i, gpa, length, flags, isLast ? 0 : i + 1);
    }
    const head = this.#free.pop();
    if (head === undefined) throw new Error('the mock driver has no free descriptor');
    this.setDescriptor(head, table, 16 * buffers.length, DESC.INDIRECT);
    this.#chains.set(head, [head]);
    return head;
  }

  /** Makes a head available, without a kick. Any number, for hostile tests. */
  publish(head: number): void {
    const { memory } = this.machine;
    memory.writeU16(this.avail + 4 + 2 * (this.#availIndex % this.size), head);
    this.setAvailIndex(this.#availIndex + 1);
  }

  setAvailIndex(value: number): void {
    this.#availIndex = value & 0xffff;
    this.machine.memory.writeU16(this.avail + 2, this.#availIndex);
  }

  get availIndex(): number {
    return this.#availIndex;
  }

  kick(): void {
    this.machine.write(REG.QueueNotify, this.index);
  }

  /** Builds, publishes and kicks. @returns the head */
  add(buffers: readonly MockBuffer[]): number {
    const head = this.build(buffers);
    this.publish(head);
    this.kick();
    return head;
  }

  /** The next used element, if there is one; its descriptors are free again and the next interrupt is asked for. */
  takeUsed(): UsedElement | undefined {
    const { memory } = this.machine;
    if (memory.readU16(this.used + 2) === this.#usedSeen) return undefined;
    const at = this.used + 4 + 8 * (this.#usedSeen % this.size);
    const element = { id: memory.readU32(at), length: memory.readU32(at + 4) };
    this.#usedSeen = (this.#usedSeen + 1) & 0xffff;
    memory.writeU16(this.avail + 4 + 2 * this.size, this.#usedSeen);
    for (const index of this.#chains.get(element.id) ?? []) this.#free.push(index);
    this.#chains.delete(element.id);
    return element;
  }

  get usedIndex(): number {
    return this.machine.memory.readU16(this.used + 2);
  }

  /** avail_event, or the used ring's flags when EVENT_IDX is not negotiated. */
  get availEvent(): number {
    return this.machine.memory.readU16(this.used + 4 + 8 * this.size);
  }
}

export function writeDescriptor(
  memory: GuestMemory,
  at: number,
  gpa: number | bigint,
  length: number,
  flags: number,
  next: number,
): void {
  memory.writeU64(at, BigInt(gpa));
  memory.writeU32(at + 8, length);
  memory.writeU16(at + 12, flags);
  memory.writeU16(at + 14, next);
}
