// Transfers between memory and one open file: cached reads at once, all else on threads of this file's own.
// pthreads(7), eventfd(2), fcntl(2) F_OFD_SETLK, fallocate(2). A slow file keeps its own threads busy and nobody else.
#include "io.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "eventfd.h"
#include "io-cached.h"

enum {
  INLINE_SEGMENTS = 4,
  THREADS_MAX = 9,
  // Copying this much takes the caller some 100 microseconds.
  CACHED_BYTES_MAX = 512 << 10,
  SEGMENTS_PER_CALL = 1024,
  // A completed write waits to be announced with further ones, but neither with many nor when it took its time.
  UNANNOUNCED_MAX = 32,
  PROMPT_NANOSECONDS = 20000,
  SLOW_NANOSECONDS = 5000000,
  STACK_BYTES = 128 << 10,
};

struct job {
  struct job *next;
  enum mv_io_op op;
  int error;  // EFAULT from the start when a segment is not in its region
  int busy;
  uint64_t position, length;
  unsigned count, room;
  struct iovec *iov, own[INLINE_SEGMENTS];
};

// Jobs in order, and how many of them run at a time.
struct list {
  struct job *first, **end;
  unsigned running, limit;
};

struct mv_io {
  int fd, eventfd;
  const struct mv_io_region *regions;
  unsigned region_count;
  struct mv_io_words *words;
  uint32_t words_room;
  struct mv_cached *cached;
  // 0 after a read that was not in the cache, until a thread finds one that was; -1: this file has no such reads.
  atomic_int tries_cached;
  pthread_mutex_t lock;
  pthread_cond_t work;
  // All below under the lock. Writes to one file exclude each other in the kernel: one thread does them all.
  struct list writes, others;
  unsigned threads, idle, unannounced;
  int stopping;
  pthread_t ids[THREADS_MAX];
  struct job jobs[MV_IO_DEPTH];
};

static uint64_t nanoseconds(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static void append(struct list *list, struct job *job) {
  job->next = NULL;
  *list->end = job;
  list->end = &job->next;
}

static struct job *take(struct list *list) {
  if (!list->first || list->running >= list->limit) return NULL;
  struct job *job = list->first;
  list->first = job->next;
  if (!list->first) list->end = &list->first;
  list->running++;
  return job;
}

// Under the lock, or before any thread is there.
static void complete(struct mv_io *io, struct job *job, int error) {
  struct mv_io_words *words = io->words;
  uint32_t head = __atomic_load_n(&words->head, __ATOMIC_RELAXED);
  words->cells[head % MV_IO_DEPTH].tag = (uint32_t)(job - io->jobs);
  words->cells[head % MV_IO_DEPTH].error = (uint32_t)error;
  job->busy = 0;
  __atomic_store_n(&words->head, head + 1, __ATOMIC_SEQ_CST);
}

// Partner: the reader stores asleep and then loads head. One of the two sees the other.
static void announce(struct mv_io *io) {
  io->unannounced = 0;
  if (__atomic_exchange_n(&io->words->asleep, 0, __ATOMIC_SEQ_CST)) mv_eventfd_signal(io->eventfd, 1);
}

static int transfer(int fd, struct job *job, int *was_cached) {
  struct iovec *iov = job->iov;
  unsigned left = job->count;
  off_t position = (off_t)job->position;
  int flags = job->op == MV_IO_READ ? RWF_NOWAIT : 0;
  while (left > 0) {
    int count = left < SEGMENTS_PER_CALL ? (int)left : SEGMENTS_PER_CALL;
    ssize_t n = job->op == MV_IO_WRITE ? pwritev(fd, iov, count, position) : preadv2(fd, iov, count, position, flags);
    if (n < 0 && errno == EINTR) continue;
    if (flags && (n < 0 || n == 0)) {
      *was_cached = n < 0 && errno == EOPNOTSUPP ? -1 : 0;
      flags = 0;
      continue;
    }
    if (n < 0) return errno;
    // The file ends before: somebody cut it.
    if (n == 0) return EIO;
    position += n;
    while (left > 0 && (size_t)n >= iov->iov_len) n -= (ssize_t)iov->iov_len, iov++, left--;
    if (n > 0) iov->iov_base = (uint8_t *)iov->iov_base + n, iov->iov_len -= (size_t)n;
  }
  return 0;
}

static int perform(struct mv_io *io, struct job *job) {
  if (job->error) return job->error;
  for (;;) {
    int result;
    if (job->op == MV_IO_SYNC) result = fdatasync(io->fd);
    else if (job->op == MV_IO_PUNCH)
      result = fallocate(io->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)job->position, (off_t)job->length);
    else {
      int was_cached = 1;
      int error = transfer(io->fd, job, &was_cached);
      if (job->op == MV_IO_READ && atomic_load(&io->tries_cached) >= 0) atomic_store(&io->tries_cached, was_cached);
      return error;
    }
    if (result == 0) return 0;
    if (errno != EINTR) return errno;
  }
}

static void employ(struct mv_io *io);

static void *run(void *argument) {
  struct mv_io *io = argument;
  pthread_mutex_lock(&io->lock);
  while (!io->stopping) {
    struct list *list = &io->writes;
    struct job *job = take(list);
    if (!job) job = take(list = &io->others);
    if (!job) {
      if (io->unannounced) announce(io);
      io->idle++;
      pthread_cond_wait(&io->work, &io->lock);
      io->idle--;
      continue;
    }
    // Only a write into the page cache is something to wait for.
    if (io->unannounced && (job->op != MV_IO_WRITE || list->limit > 1)) announce(io);
    pthread_mutex_unlock(&io->lock);
    uint64_t begin = nanoseconds();
    int error = perform(io, job);
    uint64_t took = nanoseconds() - begin;
    pthread_mutex_lock(&io->lock);
    list->running--;
    // On a file system that waits for a far server, writes do gain from each other's company.
    if (list == &io->writes) {
      list->limit = took > SLOW_NANOSECONDS ? THREADS_MAX - 1 : 1;
      if (list->limit > 1) employ(io);
    }
    complete(io, job, error);
    if (++io->unannounced >= UNANNOUNCED_MAX || took > PROMPT_NANOSECONDS) announce(io);
  }
  if (io->unannounced) announce(io);
  pthread_mutex_unlock(&io->lock);
  return NULL;
}

// Under the lock. A thread blocks every signal: SIGXFSZ would end the process, others belong to Node.
static int start_thread(struct mv_io *io) {
  pthread_attr_t attributes;
  sigset_t all, before;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, STACK_BYTES);
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  int error = pthread_create(&io->ids[io->threads], &attributes, run, io);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  pthread_attr_destroy(&attributes);
  if (error == 0) io->threads++;
  return error;
}

static unsigned waiting(const struct list *list) {
  unsigned free = list->limit > list->running ? list->limit - list->running : 0, count = 0;
  for (const struct job *job = list->first; job && count < free; job = job->next) count++;
  return count;
}

// Under the lock: as many threads as can work now.
static void employ(struct mv_io *io) {
  unsigned wanted = waiting(&io->writes) + waiting(&io->others);
  for (unsigned woken = 0; woken < wanted; woken++) {
    if (woken < io->idle) pthread_cond_signal(&io->work);
    else if (io->threads == THREADS_MAX || start_thread(io) != 0) break;
  }
  if (io->threads > 0) return;
  // Without a single thread nothing would ever answer.
  while (io->writes.first || io->others.first) {
    struct list *list = io->writes.first ? &io->writes : &io->others;
    struct job *job = take(list);
    list->running--;
    complete(io, job, EAGAIN);
  }
}

// Reads what the cache has; what it lacks goes to the threads, from the start.
static void read_cached(struct mv_io *io, struct job **jobs, unsigned count) {
  struct mv_cached_read reads[MV_CACHED_MAX];
  for (unsigned i = 0; i < count; i++)
    reads[i] = (struct mv_cached_read){jobs[i]->position, jobs[i]->iov, jobs[i]->count, 0};
  mv_cached_read(io->cached, reads, count);
  pthread_mutex_lock(&io->lock);
  for (unsigned i = 0; i < count; i++) {
    if (reads[i].result == (int)jobs[i]->length) {
      complete(io, jobs[i], 0);
      continue;
    }
    // A device may be slow even to refuse: a thread asks it next.
    if (atomic_load(&io->tries_cached) > 0) atomic_store(&io->tries_cached, reads[i].result == -EOPNOTSUPP ? -1 : 0);
    append(&io->others, jobs[i]);
  }
  pthread_mutex_unlock(&io->lock);
}

// One request from the words. 0, or -EINVAL when they make none.
static int parse(struct mv_io *io, const uint32_t *words, uint32_t room, uint32_t *used, struct job **parsed) {
  if (room < MV_IO_REQUEST) return -EINVAL;
  uint32_t op = words[0], tag = words[1], count = words[6];
  if (op >= MV_IO_OPS || tag >= MV_IO_DEPTH || io->jobs[tag].busy) return -EINVAL;
  if (count > (room - MV_IO_REQUEST) / MV_IO_SEGMENT) return -EINVAL;
  struct job *job = &io->jobs[tag];
  if (count > job->room) {
    struct iovec *grown = malloc(count * sizeof *grown);
    if (!grown) return -ENOMEM;
    if (job->iov != job->own) free(job->iov);
    job->iov = grown;
    job->room = count;
  }
  job->op = op;
  job->error = 0;
  job->position = words[2] | (uint64_t)words[3] << 32;
  job->length = words[4] | (uint64_t)words[5] << 32;
  job->count = count;
  uint64_t length = 0;
  for (uint32_t i = 0; i < count; i++) {
    const uint32_t *segment = words + MV_IO_REQUEST + i * MV_IO_SEGMENT;
    uint32_t region = segment[0];
    if (region >= io->region_count || segment[1] > io->regions[region].length ||
        segment[2] > io->regions[region].length - segment[1]) {
      job->error = EFAULT;
      break;
    }
    job->iov[i] = (struct iovec){io->regions[region].data + segment[1], segment[2]};
    length += segment[2];
  }
  if (op <= MV_IO_WRITE) job->length = length;
  job->busy = 1;
  *used = MV_IO_REQUEST + count * MV_IO_SEGMENT;
  *parsed = job;
  return 0;
}

long mv_io_submit(struct mv_io *io, uint32_t used) {
  if (used > io->words_room) return -EINVAL;
  struct job *reads[MV_CACHED_MAX];
  unsigned tries = 0;
  uint64_t bytes = 0;
  long result = 0;
  for (uint32_t at = 0, step; at < used; at += step) {
    struct job *job;
    result = parse(io, io->words->requests + at, used - at, &step, &job);
    if (result < 0) break;
    if (job->op == MV_IO_READ && !job->error && atomic_load(&io->tries_cached) > 0 &&
        job->count <= SEGMENTS_PER_CALL && job->length <= CACHED_BYTES_MAX - bytes) {
      bytes += job->length;
      reads[tries++] = job;
      if (tries < MV_CACHED_MAX) continue;
      read_cached(io, reads, tries);
      tries = 0;
      continue;
    }
    pthread_mutex_lock(&io->lock);
    append(job->op == MV_IO_WRITE || job->op == MV_IO_PUNCH ? &io->writes : &io->others, job);
    pthread_mutex_unlock(&io->lock);
  }
  if (tries > 0) read_cached(io, reads, tries);
  pthread_mutex_lock(&io->lock);
  employ(io);
  pthread_mutex_unlock(&io->lock);
  return result;
}

struct mv_io *mv_io_create(int fd, int eventfd, const struct mv_io_region *regions, unsigned count,
                           struct mv_io_words *words, size_t words_bytes, int uring) {
  if (words_bytes < sizeof *words) return errno = EINVAL, NULL;
  struct mv_io *io = calloc(1, sizeof *io);
  struct mv_io_region *own = calloc(count ? count : 1, sizeof *own);
  if (!io || !own) return free(io), free(own), NULL;
  memcpy(own, regions, count * sizeof *own);
  io->regions = own;
  io->region_count = count;
  io->words = words;
  io->words_room = (uint32_t)((words_bytes - sizeof *words) / sizeof(uint32_t));
  io->writes = (struct list){NULL, &io->writes.first, 0, 1};
  io->others = (struct list){NULL, &io->others.first, 0, THREADS_MAX - 1};
  io->tries_cached = 1;
  for (unsigned i = 0; i < MV_IO_DEPTH; i++) io->jobs[i].iov = io->jobs[i].own, io->jobs[i].room = INLINE_SEGMENTS;
  pthread_mutex_init(&io->lock, NULL);
  pthread_cond_init(&io->work, NULL);
  io->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
  io->eventfd = fcntl(eventfd, F_DUPFD_CLOEXEC, 0);
  io->cached = io->fd < 0 ? NULL : mv_cached_create(io->fd, uring);
  if (io->fd < 0 || io->eventfd < 0 || !io->cached) {
    int error = errno;
    mv_io_close(io);
    return errno = error, NULL;
  }
  return io;
}

void mv_io_close(struct mv_io *io) {
  pthread_mutex_lock(&io->lock);
  io->stopping = 1;
  pthread_cond_broadcast(&io->work);
  pthread_mutex_unlock(&io->lock);
  for (unsigned i = 0; i < io->threads; i++) pthread_join(io->ids[i], NULL);
  if (io->cached) mv_cached_close(io->cached);
  if (io->fd >= 0) close(io->fd);
  if (io->eventfd >= 0) close(io->eventfd);
  for (unsigned i = 0; i < MV_IO_DEPTH; i++)
    if (io->jobs[i].iov != io->jobs[i].own) free(io->jobs[i].iov);
  pthread_cond_destroy(&io->work);
  pthread_mutex_destroy(&io->lock);
  free((void *)io->regions);
  free(io);
}

long mv_io_lock(int fd, int exclusive) {
  struct flock lock = {.l_type = exclusive ? F_WRLCK : F_RDLCK, .l_whence = SEEK_SET};
  return fcntl(fd, F_OFD_SETLK, &lock) < 0 ? -(long)errno : 0;
}

int64_t mv_io_size(int fd) {
  off_t size = lseek(fd, 0, SEEK_END);
  return size < 0 ? -(int64_t)errno : (int64_t)size;
}
