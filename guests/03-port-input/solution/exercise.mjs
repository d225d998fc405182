// Exercise 3, solved: both directions, and all bytes of a string instruction.
// KVM API 5, struct kvm_run, member io.

/**
 * @param {DataView} kvmRun
 * @param {{ direction: number, size: number, port: number, count: number, data_offset: number }} io
 * @param {{ read(port: number): number, write(port: number, byte: number): void }} device
 */
export function serve(kvmRun, io, device) {
  const port = kvmRun.getUint16(io.port, true);
  const start = kvmRun.getUint32(io.data_offset, true);
  const end = start + kvmRun.getUint8(io.size) * kvmRun.getUint32(io.count, true);
  const isOut = kvmRun.getUint8(io.direction) === 1;
  for (let at = start; at < end; at++) {
    if (isOut) device.write(port, kvmRun.getUint8(at));
    else kvmRun.setUint8(at, device.read(port));
  }
}
