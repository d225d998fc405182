// What goes wrong with the file behind a disk, and comes right again: hostile case 28, "backing file truncated, EIO, ENOSPC,
// file-size limit → IOERR; writes work again when there is space".
import { execFileSync } from 'node:child_process';
import { appendFileSync, existsSync, mkdirSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { FuseDisk } from './fuse-disk.js';

/** A disk of 1 MiB and its fault. */
export interface DiskFault {
  readonly disk: { readonly path: string; readonly overlay?: string };
  /** The request that meets it: 4096 bytes from this sector. */
  readonly request: 'read' | 'write';
  readonly sector: number;
  readonly begin: () => Promise<void> | void;
  readonly end: () => Promise<void> | void;
  /** When the disk was closed. */
  readonly remove: () => Promise<void> | void;
}

const BYTES = 1 << 20;
const isRoot = process.getuid?.() === 0;

/** Of a process of root that may mount a file system of its own. */
export function canMountFuse(): boolean {
  if (!isRoot) return false;
  try {
    execFileSync('sh', ['-c', 'grep -qw fuse /proc/filesystems && [ -c /dev/fuse ]']);
    return true;
  } catch {
    return false;
  }
}

function sparse(path: string): string {
  writeFileSync(path, '');
  truncateSync(path, BYTES);
  return path;
}

function truncated(folder: string, isOverlay: boolean): DiskFault {
  const path = sparse(join(folder, 'truncated'));
  return {
    disk: isOverlay ? { path, overlay: join(folder, 'truncated.overlay') } : { path },
    request: 'read',
    sector: 16,
    begin: () => truncateSync(path, 4096),
    end: () => truncateSync(path, BYTES),
    remove: () => rmSync(path),
  };
}

/** A small file system, which somebody else fills. */
function full(folder: string, isOverlay: boolean): DiskFault {
  const mount = join(folder, 'small');
  if (!existsSync(mount)) mkdirSync(mount);
  execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=512k', 'tmpfs', mount]);
  const path = sparse(isOverlay ? join(folder, 'base') : join(mount, 'raw'));
  const ballast = join(mount, 'ballast');
  return {
    disk: isOverlay ? { path, overlay: join(mount, 'overlay') } : { path },
    request: 'write',
    sector: 1024,
    begin: () => {
      try {
        for (;;) appendFileSync(ballast, new Uint8Array(4096));
      } catch {
        return;
      }
    },
    end: () => rmSync(ballast),
    remove: () => void execFileSync('umount', ['--lazy', mount]),
  };
}

function limited(folder: string): DiskFault {
  const path = sparse(join(folder, 'limited'));
  const limit = (soft: string): void => void execFileSync('prlimit', ['--pid', `${process.pid}`, `--fsize=${soft}:`]);
  return {
    disk: { path },
    request: 'write',
    sector: 1536,
    begin: () => limit('524288'),
    end: () => limit('unlimited'),
    remove: () => {
      limit('unlimited');
      rmSync(path);
    },
  };
}

async function failing(): Promise<DiskFault> {
  const fuse = await FuseDisk.mount(BYTES);
  return {
    disk: { path: fuse.path },
    request: 'write',
    sector: 0,
    begin: async () => void (await fuse.behave({ errno: 5 })),
    end: async () => void (await fuse.behave({})),
    remove: () => fuse.unmount(),
  };
}

/** By name: whether this host can have it, and how it is arranged in a folder of its own. */
export const DISK_FAULTS: readonly (readonly [string, boolean, (folder: string) => Promise<DiskFault> | DiskFault])[] =
  [
    ['backing file truncated', true, (folder) => truncated(folder, false)],
    ['backing file truncated under an overlay', true, (folder) => truncated(folder, true)],
    ['ENOSPC', isRoot, (folder) => full(folder, false)],
    ['ENOSPC of an overlay', isRoot, (folder) => full(folder, true)],
    ['file-size limit', true, limited],
    ['EIO', canMountFuse(), failing],
  ];
