// The vCPU thread of a tier of the exit benchmark: makes the VM, and runs a batch for each message.
// As src/vcpu/worker.ts does it, but for the batches.
import { parentPort, workerData } from 'node:worker_threads';
import { createClosureFront } from '../../src/devices/closure-front.js';
import { allocateMailboxes } from '../../src/devices/closure-mailbox.js';
import type { IoHandler } from '../../src/devices/bus.js';
import { RegisterFile } from '../../src/devices/register-file.js';
import { EventFd } from '../../src/kvm/event-fd.js';
import { Rig } from './rig.js';
import type { FromSubjectWorker, SubjectWorkerData } from './subject.js';

const port = parentPort;
if (port === null) throw new Error('subject-worker.js is the entry of a thread; it does nothing on the main thread');
const data = workerData as SubjectWorkerData;
const rig = new Rig(data, closureFront(data), data.answers);
const tell = (message: FromSubjectWorker): void => port.postMessage(message);
port.on('message', ({ count, stamped }: { count: number; stamped: boolean }) =>
  tell({ batch: rig.batch(count, stamped) }),
);
tell({ ready: { token: rig.fd.becomeRunner(), irq: rig.irq.fd } });

function closureFront({ closure }: SubjectWorkerData): IoHandler | undefined {
  if (closure === undefined) return undefined;
  const [mailbox] = allocateMailboxes(RegisterFile.attach(closure.registers), 1);
  if (mailbox === undefined) return undefined;
  const wait = {
    until(words: Int32Array<SharedArrayBuffer>, index: number, expected: number): boolean {
      while (Atomics.load(words, index) === expected) Atomics.wait(words, index, expected);
      return true;
    },
  };
  return createClosureFront('closure', 0, { mailbox, bell: EventFd.adopt(closure.bell), wait });
}
