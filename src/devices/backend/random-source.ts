// Random bytes of the host's kernel: for the entropy device, a guest's seed, a network card's address.
// random(4): /dev/urandom never blocks once the pool is initialised. Not node:crypto: loading it takes longer than a boot's devices.
import { closeSync, openSync, readSync } from 'node:fs';

const FILE = '/dev/urandom';

export interface RandomSource {
  /** Fills all of `bytes`. */
  fill(bytes: Uint8Array): void;
  close(): void;
}

/** @throws the file system's error when there is no /dev/urandom */
export function openRandomSource(): RandomSource {
  const fd = openSync(FILE, 'r');
  return { fill: (bytes) => readWhole(fd, bytes), close: () => closeSync(fd) };
}

/** A few of them, at once. @throws as openRandomSource */
export function randomBytes(count: number): Uint8Array {
  const fd = openSync(FILE, 'r');
  try {
    const bytes = new Uint8Array(count);
    readWhole(fd, bytes);
    return bytes;
  } finally {
    closeSync(fd);
  }
}

function readWhole(fd: number, bytes: Uint8Array): void {
  for (let done = 0; done < bytes.length;) done += readSync(fd, bytes, done, bytes.length - done, null);
}
