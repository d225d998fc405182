// Guest RAM as the host's kernel sees it: which pages are in use, and files mapped under it copy-on-write.
// mmap(2), memfd_create(2), Linux Documentation/admin-guide/mm/pagemap.rst. Functions return 0 or -errno.
#ifndef MICROVISOR_GUEST_RAM_H
#define MICROVISOR_GUEST_RAM_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/**
 * Puts `length` bytes of a file under the memory, from `offset` on: private, so that the file never changes.
 * -EINVAL for what is not whole pages of this memory, or lies beyond the end of the file.
 */
long mv_ram_map(void *memory, size_t bytes, uint64_t offset, uint64_t length, int fd, uint64_t position);

/**
 * From now on a page of this memory whose file was cut off reads as zeros instead of ending the process, and `eventfd`
 * is signalled. -ENOSPC when too many memories are guarded.
 */
long mv_ram_guard(void *memory, size_t bytes, int eventfd);

/** Takes all pages away, which read as zeros then, and ends the guard. */
long mv_ram_clear(void *memory, size_t bytes);

/**
 * Clears the bits of pages that hold zeros only. On entry a set bit says that the page may be in use though the kernel
 * does not know it as present (it lies in a mapped file); the kernel's own are added.
 * @param bitmap one bit a page, the lowest bit of a byte first
 */
long mv_ram_used(const void *memory, size_t bytes, uint8_t *bitmap);

/** A file that lives in memory: its descriptor, or -errno. */
long mv_ram_file(const char *name);
/** Nobody changes it any more, in content or length. */
long mv_ram_seal(int fd);

#ifdef __cplusplus
}
#endif
#endif
