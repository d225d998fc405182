// eventfds: counters that the kernel and user space signal to each other. Non-blocking, closed on exec.
// eventfd(2). Every function returns 0 or more, or -errno.
#ifndef MICROVISOR_EVENTFD_H
#define MICROVISOR_EVENTFD_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

long mv_eventfd_create(uint32_t initial);
/** Adds to the counter. A full counter (EAGAIN) is as good as one more: the reader wakes anyway. */
long mv_eventfd_signal(int fd, uint64_t count);
/** Takes the whole counter; -EAGAIN when it is 0. */
long mv_eventfd_read(int fd, uint64_t *count);

/** A duplicate of `fd` when /proc/self/fd says that it is `anon_inode:kind`; else -EINVAL. */
long mv_fd_adopt(int fd, const char *kind);

#ifdef __cplusplus
}
#endif
#endif
