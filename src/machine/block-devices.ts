// The disks of a configuration: a virtio-blk device each, with its file behind it.
// VIRTIO 1.2 §5.2.
import { basename } from 'node:path';
import { openDisk } from '../devices/backend/disk.js';
import { VirtioBlock } from '../devices/virtio/block.js';
import type { GuestMemory } from '../memory/guest-memory.js';
import type { CompleteDisk } from './device-config.js';

/** @throws DiskError when the file cannot be had as it is asked for; nothing stays open then */
export async function openBlockDevice(disk: CompleteDisk, memory: GuestMemory, name: string): Promise<VirtioBlock> {
  const { path, readOnly, overlay, id, bytesPerSecond, operationsPerSecond } = disk;
  const backend = await openDisk({ path, readOnly, overlay }, memory);
  return new VirtioBlock({
    name,
    backend,
    id: id ?? basename(path),
    limits: {
      ...(bytesPerSecond === undefined ? {} : { bytesPerSecond }),
      ...(operationsPerSecond === undefined ? {} : { operationsPerSecond }),
    },
  });
}
