// Random bytes of the host's kernel, for the entropy device.
// random(4): /dev/urandom never blocks once the pool is initialised. Not node:crypto: loading it takes longer than a boot's devices.
import { closeSync, openSync, readSync } from 'node:fs';

export interface RandomSource {
  /** Fills all of `bytes`. */
  fill(bytes: Uint8Array): void;
  close(): void;
}

/** @throws the file system's error when there is no /dev/urandom */
export function openRandomSource(): RandomSource {
  const fd = openSync('/dev/urandom', 'r');
  return {
    fill: (bytes) => {
      for (let done = 0; done < bytes.length;) done += readSync(fd, bytes, done, bytes.length - done, null);
    },
    close: () => closeSync(fd),
  };
}
