// A thread of the transport's tests: plays the driver on a vCPU thread, which waits in the front where the real one does.
// Each mode is one thing that a driver does over and over.
import { parentPort, workerData } from 'node:worker_threads';
import type { OwnerWait } from '../../../../src/devices/owner-wait.js';
import { RegisterFile } from '../../../../src/devices/register-file.js';
import type { VirtioOffer } from '../../../../src/devices/virtio/device.js';
import { MmioFront } from '../../../../src/devices/virtio/mmio-front.js';
import { allocateMmioState } from '../../../../src/devices/virtio/mmio-state.js';
import { EventFd } from '../../../../src/kvm/event-fd.js';
import { GuestMemory, type SharedGuestMemory } from '../../../../src/memory/guest-memory.js';
import {
  DRIVING,
  MockQueue,
  negotiate,
  describeQueue,
  REG,
  type DriverHands,
} from '../../../support/virtqueue-driver.js';

export interface DriverTask {
  readonly registers: SharedArrayBuffer;
  readonly memory: SharedGuestMemory;
  readonly offer: VirtioOffer;
  readonly controlFd: number;
  readonly doorbellFds: readonly number[];
  /** Not 0 in word 0: told to stop. */
  readonly stop: SharedArrayBuffer;
  readonly mode: 'Status' | 'QueueReady' | 'storm';
  /** False: the front does not wait in the writes that the mode is about, as it would be wrong. */
  readonly waits: boolean;
  /** At least so many rounds, and at least so long. */
  readonly rounds: number;
  readonly milliseconds: number;
}

export interface DriverResult {
  readonly rounds: number;
  /** Rounds after which something was written that should not have been. */
  readonly violations: number;
  /** Status after the last round. */
  readonly status: number;
}

/** Everything that the driver gives to the device lies here; the rings of both queues first. */
export const ARENA = { base: 0x10_0000, bytes: 0x2_0000, data: 0x1_0000 } as const;
const POISON = 0xa5;

const task = workerData as DriverTask;
const stop = new Int32Array(task.stop);
const memory = GuestMemory.attach(task.memory);
let isCareless = false;
const wait: OwnerWait = {
  until(words, index, expected) {
    if (isCareless) return false;
    while (Atomics.load(words, index) === expected) {
      if (Atomics.load(stop, 0) !== 0) return false;
      Atomics.wait(words, index, expected, 2);
    }
    return true;
  },
};
const front = new MmioFront(task.offer, allocateMmioState(RegisterFile.attach(task.registers), task.offer), {
  control: EventFd.adopt(task.controlFd),
  doorbells: task.doorbellFds.map((fd) => EventFd.adopt(fd)),
  memory,
  wait,
});
const hands: DriverHands = {
  memory,
  read: (register, size = 4) => front.read(register, size),
  write: (register, value, size = 4) => front.write(register, size, value >>> 0),
};

/** Busy, as a vCPU is. */
function spin(microseconds: number): void {
  const end = performance.now() + microseconds / 1000;
  while (performance.now() < end);
}

/** Any moment from before the activation to between the completions. */
function idle(queues: readonly MockQueue[]): void {
  spin(Math.random() * 200);
  if (Math.random() < 0.3) return;
  const end = performance.now() + 20;
  while (queues.every(({ usedIndex }) => usedIndex === 0) && performance.now() < end);
}

function begin(): MockQueue[] {
  negotiate(hands);
  const queues = task.offer.queueSizes.map((size, index) => {
    const queue = new MockQueue(hands, index, size, ARENA.base + index * 0x1000);
    describeQueue(hands, index, queue);
    return queue;
  });
  hands.write(REG.Status, DRIVING);
  return queues;
}

function publish(queues: readonly MockQueue[]): void {
  for (const queue of queues)
    for (let i = Math.floor((Math.random() * queue.size) / 2); i >= 0; i--) {
      const gpa = ARENA.base + ARENA.data + (queue.index * queue.size + i) * 0x800;
      queue.add([
        { gpa, length: 0x400 },
        { gpa: gpa + 0x400, length: 0x400, writable: true },
      ]);
    }
}

/** What Linux does with its rings right after: somebody else has the memory now. @returns whether it stayed so */
function reuse(...ranges: readonly (readonly [base: number, bytes: number])[]): boolean {
  for (const [base, bytes] of ranges) memory.fill(base, bytes, POISON);
  const isIntact = (): boolean =>
    ranges.every(([base, bytes]) => memory.window(base, bytes).every((byte) => byte === POISON));
  spin(Math.random() * 300);
  // The careless one is given the time to be found out.
  const end = performance.now() + 20;
  while (!task.waits && isIntact() && performance.now() < end);
  return isIntact();
}

/** The write that the mode is about. */
function give(register: number): void {
  isCareless = !task.waits;
  hands.write(register, 0);
  isCareless = false;
}

function resetRound(): boolean {
  const queues = begin();
  publish(queues);
  idle(queues);
  give(REG.Status);
  const isReset = hands.read(REG.Status) === 0;
  return reuse([ARENA.base, ARENA.bytes]) && (isReset || !task.waits);
}

function withdrawRound(): boolean {
  const queues = begin();
  publish(queues);
  idle(queues);
  hands.write(REG.QueueSel, 0);
  give(REG.QueueReady);
  const [first] = queues as [MockQueue];
  const isUntouched =
    reuse([ARENA.base, 0x1000], [ARENA.base + ARENA.data, first.size * 0x800]) && hands.read(REG.QueueReady) === 0;
  hands.write(REG.Status, 0);
  return isUntouched;
}

function stormRound(): boolean {
  for (let i = 0; i < 1000; i++) for (const queue of [0, 1, 0xffff_ffff]) hands.write(REG.QueueNotify, queue);
  return true;
}

const ROUNDS = { Status: resetRound, QueueReady: withdrawRound, storm: stormRound } as const;
if (task.mode === 'storm') begin();
const end = performance.now() + task.milliseconds;
let rounds = 0;
let violations = 0;
while (Atomics.load(stop, 0) === 0 && (rounds < task.rounds || performance.now() < end)) {
  if (!ROUNDS[task.mode]()) violations++;
  rounds++;
  if (violations > 0) break;
}
parentPort?.postMessage({ rounds, violations, status: hands.read(REG.Status) } satisfies DriverResult);
