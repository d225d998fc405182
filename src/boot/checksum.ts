// The checksum that the MP table and ACPI share: all bytes of a structure sum to zero modulo 256.
// MP specification 1.4 §4.1; ACPI 6.5 §5.2.6.

/** Sum of the bytes modulo 256: 0 for a valid structure. */
export function byteSum(bytes: Uint8Array): number {
  return bytes.reduce((sum, byte) => (sum + byte) & 0xff, 0);
}

/** Sets the byte at `at` so that the sum becomes 0. Returns `bytes`. */
export function sealed(bytes: Uint8Array, at: number): Uint8Array {
  bytes[at] = 0;
  bytes[at] = -byteSum(bytes) & 0xff;
  return bytes;
}
