// A disk of your own in a few lines: in memory, gone with the machine.
// createVm({ …, virtio: [() => new VirtioBlock({ name: 'disk0', id: 'ram', backend: ramDisk(64) })] }); /dev/vda in Linux.
import type { BlockBackend } from '../src/index.js';

/** @param mib its size in MiB */
export function ramDisk(mib: number): BlockBackend {
  const bytes = new Uint8Array(mib * 2 ** 20);
  const due: (() => void)[] = [];
  // An answer comes from `submit` or later, never from the call itself.
  const answer = (done: (errno: number) => void, work: () => unknown): void => {
    work();
    due.push(() => done(0));
  };
  return {
    capacityBytes: bytes.length,
    readOnly: false,
    read: (at, vector, done) => answer(done, () => vector.copyFrom(bytes.subarray(at, at + vector.bytes))),
    write: (at, vector, done) => answer(done, () => vector.copyTo(bytes.subarray(at, at + vector.bytes))),
    writeZeroes: (at, length, done) => answer(done, () => bytes.fill(0, at, at + length)),
    discard: (_at, _length, done) => answer(done, () => undefined),
    flush: (done) => answer(done, () => undefined),
    submit: () => due.splice(0).forEach((tell) => tell()),
    close: () => Promise.resolve(),
  };
}
