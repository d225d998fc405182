// Reads of what the page cache has, done on the calling thread: several with one system call where io_uring is there.
// preadv2(2) RWF_NOWAIT, io_uring(7). Nothing here waits for a device.
#ifndef MICROVISOR_IO_CACHED_H
#define MICROVISOR_IO_CACHED_H

#include <stdint.h>
#include <sys/uio.h>

struct mv_cached;

struct mv_cached_read {
  uint64_t position;
  const struct iovec *iov;
  unsigned count;
  /** Answer: bytes read, or -errno (-EAGAIN: not in the cache). */
  int result;
};

/** Reads at most at once. */
#define MV_CACHED_MAX 64

/** NULL when there is no memory. Without io_uring (forbidden, or `uring` is 0) each read is a system call. */
struct mv_cached *mv_cached_create(int fd, int uring);
void mv_cached_read(struct mv_cached *cached, struct mv_cached_read *reads, unsigned count);
void mv_cached_close(struct mv_cached *cached);

#endif
