// The vCPU thread of the kick tests: runs one or more spinning guests until it is told to stop.
// KVM API 5 (immediate_exit).
import { parentPort, workerData } from 'node:worker_threads';
import { KVM_RUN_OFFSET } from '../../src/kvm/kvm-run.js';
import { VmFd } from '../../src/kvm/vm-fd.js';
import { ENTRY, startAt } from './micro-guest.js';

/** What the test shares with this thread. */
export interface KickWorkerData {
  readonly vmFd: number;
  readonly ids: readonly number[];
  /** [0] stop request; [1 + i] returns of vCPU i from KVM_RUN; [9] the vCPU that runs now, + 1. */
  readonly words: Int32Array<SharedArrayBuffer>;
  /** Throws at the end instead of closing. */
  readonly leak?: boolean;
}

const { vmFd, ids, words, leak } = workerData as KickWorkerData;
const vm = VmFd.adopt(vmFd);
const vcpus = ids.map((id) => vm.createVcpu(id));
for (const vcpu of vcpus) startAt(vcpu, ENTRY);
parentPort?.postMessage(vcpus.map((vcpu) => vcpu.becomeRunner()));

let turn = 0;
for (;;) {
  const index = turn++ % vcpus.length;
  const vcpu = vcpus[index];
  if (vcpu === undefined) throw new Error('no vCPU');
  // Cleared first, then the flag is read: a kick that comes between sets it again.
  vcpu.run.u8[KVM_RUN_OFFSET.immediate_exit] = 0;
  if (Atomics.load(words, 0) !== 0) break;
  Atomics.store(words, 9, index + 1);
  vcpu.enter();
  Atomics.store(words, 9, 0);
  Atomics.add(words, 1 + index, 1);
  Atomics.notify(words, 1 + index);
}
if (leak !== true) {
  for (const vcpu of vcpus) vcpu.close();
  vm.close();
}
parentPort?.postMessage('done');
