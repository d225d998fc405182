// What a guest has left on its disk, its overlay included, as bytes.
import { openDisk } from '../devices/backend/disk.js';
import { GuestVector } from '../devices/virtio/guest-vector.js';
import { GuestMemory } from '../memory/guest-memory.js';
import { GuestTestError } from './wait.js';

/** Read at once. */
const CHUNK = 1 << 20;

export interface DiskFiles {
  readonly path: string;
  readonly overlay?: string | undefined;
}

/** @throws DiskError when a guest has the disk still; GuestTestError for a read that fails */
export async function readDisk({ path, overlay }: DiskFiles): Promise<Buffer> {
  const memory = GuestMemory.create(CHUNK);
  const [window] = memory.regions;
  if (window === undefined) throw new Error('memory without a region');
  const disk = await openDisk({ path, overlay, readOnly: true }, memory);
  try {
    const image = Buffer.alloc(disk.capacityBytes);
    for (let at = 0; at < image.length; at += CHUNK) {
      const length = Math.min(CHUNK, image.length - at);
      const vector = new GuestVector(memory);
      vector.add(0, 0, length);
      const errno = await new Promise<number>((resolve) => {
        disk.read(at, vector, resolve);
        disk.submit();
      });
      if (errno !== 0) throw new GuestTestError(`${path}: byte ${at} and on cannot be read (errno ${errno})`);
      image.set(window.bytes.subarray(0, length), at);
    }
    return image;
  } finally {
    await disk.close();
  }
}
