// A thread of the test of hostile case 8: another vCPU that rewrites descriptors while the device reads them.
import { workerData } from 'node:worker_threads';
import { GuestMemory, type SharedGuestMemory } from '../../../../src/memory/guest-memory.js';

/** A 32-bit word of a descriptor, and the values that it is given by turns. */
export interface FlipWord {
  readonly gpa: number;
  readonly values: readonly number[];
}

export interface FlipTask {
  readonly memory: SharedGuestMemory;
  readonly words: readonly FlipWord[];
  readonly flips: number;
  /** Word 0: 1 when the device has begun. Word 1: 1 when so many flips are done. Word 2: 1 when no more are wanted. */
  readonly progress: SharedArrayBuffer;
}

const task = workerData as FlipTask;
const memory = GuestMemory.attach(task.memory);
const progress = new Int32Array(task.progress);
const words = task.words.map(({ gpa, values }) => {
  const region = memory.regionOf(gpa, 4);
  if (region === undefined) throw new Error('not in RAM');
  return { view: region.words32, index: (gpa - region.base) / 4, values: Uint32Array.from(values) };
});
Atomics.wait(progress, 0, 0);
// xorshift32: each word changes at moments that have nothing to do with those of its neighbours.
let random = 0x9e37_79b9;
for (let flip = 0; flip < task.flips || Atomics.load(progress, 2) === 0; flip++) {
  if (flip === task.flips) Atomics.store(progress, 1, 1);
  random ^= random << 13;
  random ^= random >>> 17;
  random ^= random << 5;
  const { view, index, values } = words[(random >>> 8) % words.length] as (typeof words)[number];
  view[index] = values[(random >>> 20) % values.length] as number;
}
