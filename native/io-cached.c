// Reads of what the page cache has, done on the calling thread: several with one system call where io_uring is there.
// io_uring_setup(2), io_uring_enter(2). RWF_NOWAIT keeps the kernel from handing a read to a worker of its own.
#include "io-cached.h"

#include <errno.h>
#include <linux/io_uring.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

struct mv_cached {
  int fd;
  int ring;  // -1: without
  void *rings;
  size_t rings_bytes;
  struct io_uring_sqe *sqes;
  size_t sqes_bytes;
  _Atomic unsigned *sq_head, *sq_tail, *cq_head, *cq_tail;
  unsigned sq_mask, cq_mask;
  unsigned *sq_array;
  struct io_uring_cqe *cqes;
};

static void ring_close(struct mv_cached *cached) {
  if (cached->sqes) munmap(cached->sqes, cached->sqes_bytes);
  if (cached->rings) munmap(cached->rings, cached->rings_bytes);
  if (cached->ring >= 0) close(cached->ring);
  cached->sqes = NULL;
  cached->rings = NULL;
  cached->ring = -1;
}

static void ring_open(struct mv_cached *cached) {
  struct io_uring_params p;
  memset(&p, 0, sizeof p);
  cached->ring = (int)syscall(__NR_io_uring_setup, MV_CACHED_MAX, &p);
  if (cached->ring < 0) return;
  // Before 5.4 the rings are mapped one by one; such a kernel does without.
  if (!(p.features & IORING_FEAT_SINGLE_MMAP)) return ring_close(cached);
  size_t sq = p.sq_off.array + p.sq_entries * sizeof(unsigned);
  size_t cq = p.cq_off.cqes + p.cq_entries * sizeof(struct io_uring_cqe);
  cached->rings_bytes = sq > cq ? sq : cq;
  cached->sqes_bytes = p.sq_entries * sizeof(struct io_uring_sqe);
  uint8_t *rings = mmap(NULL, cached->rings_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, cached->ring, IORING_OFF_SQ_RING);
  void *sqes = mmap(NULL, cached->sqes_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, cached->ring, IORING_OFF_SQES);
  cached->rings = rings == MAP_FAILED ? NULL : rings;
  cached->sqes = sqes == MAP_FAILED ? NULL : sqes;
  if (!cached->rings || !cached->sqes) return ring_close(cached);
  cached->sq_head = (void *)(rings + p.sq_off.head);
  cached->sq_tail = (void *)(rings + p.sq_off.tail);
  cached->sq_mask = *(unsigned *)(rings + p.sq_off.ring_mask);
  cached->sq_array = (void *)(rings + p.sq_off.array);
  cached->cq_head = (void *)(rings + p.cq_off.head);
  cached->cq_tail = (void *)(rings + p.cq_off.tail);
  cached->cq_mask = *(unsigned *)(rings + p.cq_off.ring_mask);
  cached->cqes = (void *)(rings + p.cq_off.cqes);
}

struct mv_cached *mv_cached_create(int fd, int uring) {
  struct mv_cached *cached = calloc(1, sizeof *cached);
  if (!cached) return NULL;
  cached->fd = fd;
  cached->ring = -1;
  if (uring) ring_open(cached);
  return cached;
}

void mv_cached_close(struct mv_cached *cached) {
  ring_close(cached);
  free(cached);
}

static void reap(struct mv_cached *cached, struct mv_cached_read *reads, unsigned *finished) {
  unsigned head = atomic_load_explicit(cached->cq_head, memory_order_relaxed);
  for (; head != atomic_load_explicit(cached->cq_tail, memory_order_acquire); head++, ++*finished) {
    const struct io_uring_cqe *cqe = &cached->cqes[head & cached->cq_mask];
    reads[cqe->user_data].result = cqe->res;
  }
  atomic_store_explicit(cached->cq_head, head, memory_order_release);
}

static void read_by_ring(struct mv_cached *cached, struct mv_cached_read *reads, unsigned count) {
  unsigned tail = atomic_load_explicit(cached->sq_tail, memory_order_relaxed), finished = 0, given = 0;
  for (unsigned i = 0; i < count; i++, tail++) {
    struct io_uring_sqe *sqe = &cached->sqes[tail & cached->sq_mask];
    memset(sqe, 0, sizeof *sqe);
    sqe->opcode = IORING_OP_READV;
    sqe->fd = cached->fd;
    sqe->off = reads[i].position;
    sqe->addr = (uintptr_t)reads[i].iov;
    sqe->len = reads[i].count;
    sqe->rw_flags = RWF_NOWAIT;
    sqe->user_data = i;
    cached->sq_array[tail & cached->sq_mask] = tail & cached->sq_mask;
    reads[i].result = -EAGAIN;
  }
  atomic_store_explicit(cached->sq_tail, tail, memory_order_release);
  int broken = 0;
  while (finished < (broken ? given : count)) {
    unsigned left = broken ? 0 : count - given;
    long n = syscall(__NR_io_uring_enter, cached->ring, left, given + left - finished, IORING_ENTER_GETEVENTS, NULL, 0);
    int refused = n < 0 ? errno != EINTR : n == 0 && left > 0;
    if (n > 0) given += (unsigned)n;
    reap(cached, reads, &finished);
    if (refused && broken) break;
    // What the kernel did not take now it will not take: those reads count as not in the cache.
    if (refused) broken = 1;
  }
  if (broken) ring_close(cached);
}

void mv_cached_read(struct mv_cached *cached, struct mv_cached_read *reads, unsigned count) {
  // A single one is the cheaper system call.
  if (cached->ring >= 0 && count > 1) return read_by_ring(cached, reads, count);
  for (unsigned i = 0; i < count; i++) {
    ssize_t n = preadv2(cached->fd, reads[i].iov, (int)reads[i].count, (off_t)reads[i].position, RWF_NOWAIT);
    reads[i].result = n < 0 ? -errno : (int)n;
  }
}
