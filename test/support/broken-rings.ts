// What a hostile driver puts into a ring that breaks the device's rules, and buffers that no device can have: rows for tests of
// every device, with the mock driver and as guests. Hostile cases 1 to 3, 5, 6 and 9; VIRTIO 1.2 §2.7.
import { DESC, FEATURE } from '../../src/devices/virtio/abi.js';
import { type MockQueue, writeDescriptor } from './virtqueue-driver.js';

const { NEXT, WRITE, INDIRECT } = DESC;

/** Where the rows' buffers and indirect tables lie in guest RAM: a page for each. */
export interface Ground {
  readonly data: number;
  readonly table: number;
}

export interface BrokenRing {
  readonly name: string;
  /** What the warning says of it. */
  readonly reason: RegExp;
  /** Writes it down. @returns the head that is to be published, undefined when the avail index is written already */
  readonly build: (queue: MockQueue, ground: Ground) => number | undefined;
  /** Feature bits that the driver leaves out. */
  readonly without?: readonly number[];
}

const OUTSIDE_QUEUE = /a descriptor index is not below the queue size/;
const OUTSIDE_ADDRESSES = /a buffer lies beyond the end of the address space/;
const BAD_LENGTH = /the length of an indirect table is no multiple of 16, is 0 or too large/;
const LONGER = /a chain is longer than the queue/;
const JUMP = /the avail index is further ahead than the queue is long/;

const indirectOf =
  (length: number, flags = 0) =>
  (queue: MockQueue, { table }: Ground): number => (queue.setDescriptor(0, table, length, INDIRECT | flags, 1), 0);

/** Each → NR. */
export const BROKEN_RINGS: readonly BrokenRing[] = [
  {
    name: '1. next is the queue size',
    reason: OUTSIDE_QUEUE,
    build: (queue, { data }) => (queue.setDescriptor(0, data, 4, NEXT, queue.size), 0),
  },
  { name: '1. the head is the queue size', reason: OUTSIDE_QUEUE, build: (queue) => queue.size },
  { name: '1. the head is 65535', reason: OUTSIDE_QUEUE, build: () => 0xffff },
  {
    name: '1. a descriptor that points at itself',
    reason: LONGER,
    build: (queue, { data }) => (queue.setDescriptor(3, data, 4, NEXT, 3), 3),
  },
  {
    name: '1. a ring of all descriptors',
    reason: LONGER,
    build: (queue, { data }) => {
      for (let i = 0; i < queue.size; i++) queue.setDescriptor(i, data, 4, NEXT | WRITE, (i + 1) % queue.size);
      return 5;
    },
  },
  {
    name: '3. wraps at 2^64',
    reason: OUTSIDE_ADDRESSES,
    build: (queue) => queue.build([{ gpa: 2n ** 64n - 16n, length: 32, writable: true }]),
  },
  {
    name: '3. RAM plus 2^53',
    reason: OUTSIDE_ADDRESSES,
    build: (queue, { data }) => queue.build([{ gpa: 2n ** 53n + BigInt(data), length: 4, writable: true }]),
  },
  {
    name: '3. RAM plus 2^63',
    reason: OUTSIDE_ADDRESSES,
    build: (queue, { data }) => queue.build([{ gpa: 2n ** 63n + BigInt(data), length: 4 }]),
  },
  { name: '5. backwards', reason: JUMP, build: (queue) => (queue.setAvailIndex(0xfffe), undefined) },
  {
    name: '5. one more than the size',
    reason: JUMP,
    build: (queue) => (queue.setAvailIndex(queue.size + 1), undefined),
  },
  {
    name: '6. indirect not negotiated',
    reason: /an indirect descriptor was not negotiated/,
    build: (queue, { data, table }) => queue.buildIndirect(table, [{ gpa: data, length: 4 }]),
    without: [FEATURE.RING_INDIRECT_DESC],
  },
  {
    name: '6. nested',
    reason: /an indirect table is nested/,
    build: (queue, { table }) => {
      queue.setDescriptor(0, table + 64, 16, INDIRECT);
      writeDescriptor(queue.machine.memory, table + 64, table, 16, INDIRECT, 0);
      return 0;
    },
  },
  { name: '6. with NEXT', reason: /an indirect descriptor has the NEXT flag/, build: indirectOf(16, NEXT) },
  { name: '6. length 0', reason: BAD_LENGTH, build: indirectOf(0) },
  { name: '6. length 17', reason: BAD_LENGTH, build: indirectOf(17) },
  { name: '6. length above 2^20', reason: BAD_LENGTH, build: indirectOf(2 ** 20 + 16) },
  {
    name: '6. table outside RAM',
    reason: /an indirect table lies outside RAM/,
    build: (queue) => (queue.setDescriptor(0, 0xd000_0000, 16, INDIRECT), 0),
  },
  {
    name: '6. an index beyond its table',
    reason: /an indirect descriptor has an index beyond its table/,
    build: (queue, { data, table }) => {
      queue.setDescriptor(0, table + 128, 32, INDIRECT);
      writeDescriptor(queue.machine.memory, table + 128, data, 4, NEXT, 2);
      return 0;
    },
  },
  {
    name: '9. readable after writable',
    reason: /a device-readable buffer follows a device-writable one/,
    build: (queue, { data }) =>
      queue.build([
        { gpa: data, length: 4, writable: true },
        { gpa: data + 64, length: 4 },
      ]),
  },
  {
    name: '9. more than 2^32 bytes in all',
    reason: /a chain has more than 2\^32 bytes/,
    build: (queue, { data }) =>
      queue.build([0x8000_0000, 0x8000_0000, 1].map((length) => ({ gpa: data, length, writable: true }))),
  },
];

/** Publishes what a row says. */
export function publishBroken({ build }: BrokenRing, queue: MockQueue, ground: Ground): void {
  const head = build(queue, ground);
  if (head !== undefined) queue.publish(head);
}

/** Each → DROP: name, address and length of a buffer. @param ramEnd of the only region, at 0 */
export function absentBuffers(ramEnd: number): readonly (readonly [string, number, number])[] {
  return [
    ['beyond RAM', ramEnd, 1],
    ['far beyond', 2 ** 52, 4096],
    ['in the hole', 0xc000_0000, 16],
    ['in MMIO', 0xd000_0000, 4],
    ['the LAPIC', 0xfee0_0000, 4096],
    ['straddling the end', ramEnd - 1, 2],
    ['nearly all of 4 GiB', 0, 0xffff_f000],
    ['below 4 GiB, and beyond', 0xffff_fffc, 8],
  ];
}
