// A thread of the byte ring's test: produces a counted sequence, or consumes until all producers have finished.
import { parentPort, workerData } from 'node:worker_threads';
import { ByteRing, RING_EMPTY } from '../../../src/devices/byte-ring.js';
import { RegisterFile } from '../../../src/devices/register-file.js';

export interface RingTask {
  readonly buffer: SharedArrayBuffer;
  readonly capacity: number;
  readonly role: 'produce' | 'consume';
  /** 0 or 1. */
  readonly id: number;
  /** Bytes a producer. */
  readonly count: number;
}

const { buffer, capacity, role, id, count } = workerData as RingTask;
const file = RegisterFile.attach(buffer);
const ring = ByteRing.allocate(file, 'd', 'ring', capacity);
const { done, ready } = file.allocate('control', {
  done: { doc: 'producers that have finished' },
  ready: { doc: 'threads that are waiting to start' },
});

function produce(): Uint8Array {
  const pair = new Uint8Array(2);
  for (let i = 0; i < count;) {
    // Both ways in, by turns.
    pair[0] = (id << 7) | (i % 127);
    pair[1] = (id << 7) | ((i + 1) % 127);
    i += i % 3 === 0 && i + 1 < count ? ring.pushMany(pair) : Number(ring.push(pair[0]));
  }
  done.add(1);
  return new Uint8Array();
}

function consume(): Uint8Array {
  const taken = new Uint8Array(2 * count);
  let length = 0;
  for (let turn = 0; ; turn++) {
    const isLast = done.get() === 2;
    if (turn % 3 === 0) {
      length += ring.takeMany(taken.subarray(length, Math.min(length + 5, taken.length)));
    } else {
      const byte = ring.take();
      if (byte !== RING_EMPTY) taken[length++] = byte;
    }
    if (isLast && ring.length === 0) return taken.slice(0, length);
  }
}

// All start at once, or the first would be through before the last has come up.
if (capacity > 16) {
  ready.add(1);
  while (ready.get() < 2);
}
parentPort?.postMessage(role === 'produce' ? produce() : consume());
