// A thread of the closures' test: plays a vCPU thread that makes the accesses it is given, one after the other.
import { parentPort, workerData } from 'node:worker_threads';
import { createClosureFront } from '../../../src/devices/closure-front.js';
import { allocateMailboxes } from '../../../src/devices/closure-mailbox.js';
import { RegisterFile } from '../../../src/devices/register-file.js';
import { EventFd } from '../../../src/kvm/event-fd.js';

/** A read has no value. */
export interface Access {
  readonly device: number;
  readonly offset: number;
  readonly size: number;
  readonly value?: number;
}

export interface ClosureTask {
  readonly registers: SharedArrayBuffer;
  readonly cpus: number;
  readonly cpu: number;
  readonly bellFd: number;
  /** Not 0 in word 0: told to stop. */
  readonly stop: SharedArrayBuffer;
  readonly accesses: readonly Access[];
}

const task = workerData as ClosureTask;
const mailbox = allocateMailboxes(RegisterFile.attach(task.registers), task.cpus)[task.cpu];
if (mailbox === undefined) throw new Error('no such vCPU');
const stop = new Int32Array(task.stop);
const parts = {
  mailbox,
  bell: EventFd.adopt(task.bellFd),
  wait: {
    until(words: Int32Array<SharedArrayBuffer>, index: number, expected: number): boolean {
      while (Atomics.load(words, index) === expected) {
        if (Atomics.load(stop, 0) !== 0) return false;
        Atomics.wait(words, index, expected, 5);
      }
      return true;
    },
  },
};
const fronts = [0, 1].map((device) => createClosureFront(`device ${device}`, device, parts));
const answers = task.accesses.map(({ device, offset, size, value }) => {
  if (value === undefined) return fronts[device]?.read(offset, size);
  fronts[device]?.write(offset, size, value);
  return undefined;
});
parentPort?.postMessage(answers);
