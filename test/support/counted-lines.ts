// Bytes that a guest and a test make each for itself, different at every place: a guest's file is checked without the guest.
// Made in user space: where kernel code is emulated /dev/urandom gives some 20 KB a second.

/** More than a line takes. */
const LINE_BYTES = 32;

export interface CountedLines {
  /** For the guest's shell: writes the bytes to its standard output. */
  readonly command: string;
  readonly bytes: Uint8Array;
}

/** Numbers from `from` on, one a line, until there are at least `bytes`. */
export function countedLines(bytes: number, from = 1): CountedLines {
  const room = Buffer.allocUnsafe(bytes + LINE_BYTES);
  let next = from;
  let length = 0;
  while (length < bytes) length += room.write(`${next++}\n`, length, 'latin1');
  return { command: `seq ${from} ${next - 1}`, bytes: room.subarray(0, length) };
}
