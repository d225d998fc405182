// Ways to get a batch of 4 KiB transfers done, beside each other: what the I/O engine's choice rests on.
// cc -O2 -pthread virtio-block-ways.c; FILE READ|WRITE DEPTH REQUESTS WAY prints nanoseconds per request: CPU, owner, wall.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { BLOCK = 4096, DEPTH_MAX = 256 };

static int fd;
static int writes;
static uint64_t blocks;
static uint8_t *memory;
static uint64_t seed = 88172645463325252ull;

static void refuse(const char *what) {
  perror(what);
  exit(1);
}

static off_t somewhere(void) {
  seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
  return (off_t)(seed % blocks) * BLOCK;
}

static uint64_t now(clockid_t clock) {
  struct timespec t;
  clock_gettime(clock, &t);
  return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static void transfer(unsigned slot, off_t position, int flags) {
  struct iovec iov = {memory + (size_t)slot * BLOCK, BLOCK};
  ssize_t n = writes ? pwritev2(fd, &iov, 1, position, flags) : preadv2(fd, &iov, 1, position, flags);
  if (n != BLOCK) refuse("transfer");
}

// On the owner's thread itself: reads give up rather than wait.
static void inline_batch(unsigned depth) {
  for (unsigned i = 0; i < depth; i++) transfer(i, somewhere(), writes ? 0 : RWF_NOWAIT);
}

// A thread of the disk's own: a list under a mutex, an eventfd back, which the owner polls as its event loop does.
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t work = PTHREAD_COND_INITIALIZER;
static off_t queue[DEPTH_MAX];
static unsigned queued, taken, finished;
static int done_fd, asleep;

static void *worker(void *unused) {
  (void)unused;
  pthread_mutex_lock(&lock);
  for (;;) {
    while (taken == queued) pthread_cond_wait(&work, &lock);
    unsigned slot = taken++;
    off_t position = queue[slot];
    pthread_mutex_unlock(&lock);
    transfer(slot, position, 0);
    pthread_mutex_lock(&lock);
    finished++;
    if (asleep) {
      asleep = 0;
      uint64_t one = 1;
      if (write(done_fd, &one, sizeof one) < 0) refuse("eventfd");
    }
  }
  return unused;
}

static void thread_batch(unsigned depth) {
  pthread_mutex_lock(&lock);
  queued = taken = finished = 0;
  for (unsigned i = 0; i < depth; i++) queue[i] = somewhere();
  queued = depth;
  pthread_cond_signal(&work);
  while (finished < depth) {
    asleep = 1;
    pthread_mutex_unlock(&lock);
    struct pollfd poll_fd = {done_fd, POLLIN, 0};
    uint64_t count;
    if (poll(&poll_fd, 1, -1) < 0 || read(done_fd, &count, sizeof count) < 0) refuse("poll");
    pthread_mutex_lock(&lock);
  }
  pthread_mutex_unlock(&lock);
}

static int ring;
static struct io_uring_sqe *sqes;
static _Atomic unsigned *sq_tail, *cq_head, *cq_tail;
static unsigned *sq_mask, *sq_array;
static struct io_uring_cqe *cqes;
static unsigned *cq_mask;

static void uring_init(unsigned flags) {
  struct io_uring_params p = {.flags = flags};
  ring = (int)syscall(__NR_io_uring_setup, DEPTH_MAX, &p);
  if (ring < 0) refuse("io_uring_setup");
  size_t sq_bytes = p.sq_off.array + p.sq_entries * 4, cq_bytes = p.cq_off.cqes + p.cq_entries * sizeof *cqes;
  uint8_t *rings = mmap(0, sq_bytes > cq_bytes ? sq_bytes : cq_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, ring, 0);
  sqes = mmap(0, p.sq_entries * sizeof *sqes, PROT_READ | PROT_WRITE, MAP_SHARED, ring, IORING_OFF_SQES);
  sq_tail = (void *)(rings + p.sq_off.tail), sq_mask = (void *)(rings + p.sq_off.ring_mask);
  sq_array = (void *)(rings + p.sq_off.array);
  cq_head = (void *)(rings + p.cq_off.head), cq_tail = (void *)(rings + p.cq_off.tail);
  cq_mask = (void *)(rings + p.cq_off.ring_mask), cqes = (void *)(rings + p.cq_off.cqes);
}

static void uring_batch(unsigned depth) {
  unsigned tail = atomic_load(sq_tail);
  for (unsigned i = 0; i < depth; i++, tail++) {
    struct io_uring_sqe *sqe = &sqes[tail & *sq_mask];
    memset(sqe, 0, sizeof *sqe);
    sqe->opcode = writes ? IORING_OP_WRITE : IORING_OP_READ;
    sqe->fd = fd, sqe->off = (uint64_t)somewhere(), sqe->len = BLOCK;
    sqe->addr = (uintptr_t)(memory + (size_t)i * BLOCK);
    sq_array[tail & *sq_mask] = tail & *sq_mask;
  }
  atomic_store(sq_tail, tail);
  unsigned head = atomic_load(cq_head), finished = 0;
  if (syscall(__NR_io_uring_enter, ring, depth, depth, IORING_ENTER_GETEVENTS, 0, 0) < 0) refuse("io_uring_enter");
  for (; finished < depth; finished++, head++) {
    while (head == atomic_load(cq_tail))
      if (syscall(__NR_io_uring_enter, ring, 0, 1, IORING_ENTER_GETEVENTS, 0, 0) < 0) refuse("io_uring_enter");
    if (cqes[head & *cq_mask].res != BLOCK) errno = -cqes[head & *cq_mask].res, refuse("cqe");
  }
  atomic_store(cq_head, head);
}

int main(int count, char **arguments) {
  if (count != 6) return 2;
  writes = strcmp(arguments[2], "write") == 0;
  unsigned depth = (unsigned)atoi(arguments[3]), requests = (unsigned)atoi(arguments[4]);
  const char *way = arguments[5];
  fd = open(arguments[1], O_RDWR | O_CLOEXEC);
  if (fd < 0 || depth > DEPTH_MAX) refuse(arguments[1]);
  blocks = (uint64_t)lseek(fd, 0, SEEK_END) / BLOCK;
  memory = mmap(0, DEPTH_MAX * BLOCK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
  void (*batch)(unsigned) = inline_batch;
  if (strcmp(way, "thread") == 0) {
    pthread_t id;
    done_fd = eventfd(0, EFD_CLOEXEC);
    pthread_create(&id, NULL, worker, NULL);
    batch = thread_batch;
  } else if (strncmp(way, "uring", 5) == 0) {
    uring_init(strcmp(way, "uring-defer") == 0 ? IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN : 0);
    batch = uring_batch;
  }
  for (unsigned i = 0; i < 200; i++) batch(depth);
  uint64_t cpu = now(CLOCK_PROCESS_CPUTIME_ID), owner = now(CLOCK_THREAD_CPUTIME_ID), wall = now(CLOCK_MONOTONIC);
  for (unsigned i = 0; i < requests / depth; i++) batch(depth);
  double all = requests / depth * depth;
  printf("{\"cpu\":%.0f,\"owner\":%.0f,\"wall\":%.0f}\n", (double)(now(CLOCK_PROCESS_CPUTIME_ID) - cpu) / all,
         (double)(now(CLOCK_THREAD_CPUTIME_ID) - owner) / all, (double)(now(CLOCK_MONOTONIC) - wall) / all);
}
