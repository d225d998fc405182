// What the host's kernel does with guest RAM: files mapped under it copy-on-write, and which of its pages are in use.
// mmap(2), memfd_create(2), Linux Documentation/admin-guide/mm/pagemap.rst.
import { checked } from './errors.js';
import type { EventFd } from './event-fd.js';
import { loadNative } from './native.js';

/** A stretch of an open file, and where it lies in a memory. Bytes, in whole pages. */
export interface FileStretch {
  readonly offset: number;
  readonly length: number;
  /** In the file. */
  readonly position: number;
}

/**
 * Puts the file's bytes under the memory. The file is never changed: a page is copied when it is written.
 * @throws KvmError (EINVAL for parts of pages, and for what lies beyond the end of the memory or the file)
 */
export function mapFile(memory: Uint8Array, fd: number, { offset, length, position }: FileStretch, name: string): void {
  checked(loadNative().ramMap(memory, offset, length, fd, position), 'mmap', `${length} bytes of ${name}`);
}

/**
 * A page whose file is cut off later on reads as zeros, and the eventfd is signalled; without this the process dies of
 * SIGBUS. KVM itself gives EFAULT for such a page.
 */
export function guardMemory(memory: Uint8Array, eventFd: EventFd): void {
  checked(loadNative().ramGuard(memory, eventFd.fd), 'guard', `${memory.byteLength} bytes`);
}

/** Gives all pages back; they read as zeros from now on. Ends the guard. @param memory all of it, as it was guarded */
export function clearMemory(memory: Uint8Array): void {
  checked(loadNative().ramClear(memory), 'mmap', `${memory.byteLength} bytes`);
}

/**
 * Finds the pages that are not all zeros, without touching those that were never used.
 * @param pages a bit a page, the lowest of a byte first; set beforehand for pages that a mapped file may hold
 */
export function findUsedPages(memory: Uint8Array, pages: Uint8Array): void {
  checked(loadNative().ramUsed(memory, pages), 'pagemap', `${memory.byteLength} bytes`);
}

/** A file without a name, in memory. The caller closes it. */
export function createMemoryFile(name: string): number {
  return checked(loadNative().ramFile(name), 'memfd_create', name);
}

/** From now on nobody can write to the memory file or cut it off. */
export function sealMemoryFile(fd: number): void {
  checked(loadNative().ramSeal(fd), 'F_ADD_SEALS', `file descriptor ${fd}`);
}
