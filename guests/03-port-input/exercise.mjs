// Exercise 3: serve one KVM_EXIT_IO, whatever its direction, size and count. This form does what lesson 2's loop did.
// KVM API 5, struct kvm_run, member io. No compiler is needed: this is JavaScript as Node runs it.

/**
 * @param {DataView} kvmRun struct kvm_run, with the data behind it; numbers are little-endian
 * @param {{ direction: number, size: number, port: number, count: number, data_offset: number }} io
 *   where in it the members of `io` lie: direction 1 byte (0 in, 1 out), size 1, port 2, count 4, data_offset 8 (4 are
 *   enough)
 * @param {{ read(port: number): number, write(port: number, byte: number): void }} device takes and gives bytes
 */
export function serve(kvmRun, io, device) {
  const port = kvmRun.getUint16(io.port, true);
  const start = kvmRun.getUint32(io.data_offset, true);
  // Your turn: `size` times `count` bytes from `start` on belong to the access. Out of the guest each goes to
  // device.write; into the guest each comes from device.read, and is put there with kvmRun.setUint8.
  device.write(port, kvmRun.getUint8(start));
}
