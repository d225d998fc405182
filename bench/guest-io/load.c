// The load of `npm run bench -- guest-io`: runs in the guest as its one command, and on the host as the TCP peer.
// open(2) O_DIRECT, io_submit(2), tcp(7). Static, so that it runs on any Linux kernel of this processor.
//
// In the guest it reads lines and says when it begins and ends, so that the host can look at its counters in between:
//   block PATH read|write seq|random DEPTH COUNT     4 KiB requests, DEPTH of them in flight
//   send ADDRESS PORT BYTES                          to a peer, until it has all
//   receive ADDRESS PORT BYTES                       from a peer
// Each is answered `ready`; the next line starts it; `done NANOSECONDS` is its end. On the host: load peer ADDRESS.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/fs.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { BLOCK = 4096, DEPTH_MAX = 16, PIECE = 256 << 10 };

static void die(const char *what) {
  fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
  exit(1);
}

static uint64_t nanoseconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

// Tells the host that all is prepared, and waits for its word.
static uint64_t begin(void) {
  char line[16];
  printf("ready\n");
  if (!fgets(line, sizeof line, stdin)) exit(0);
  return nanoseconds();
}

static void end(uint64_t since) { printf("done %llu\n", (unsigned long long)(nanoseconds() - since)); }

// --- Blocks ----------------------------------------------------------------------------------------------------------

struct plan {
  int fd, is_write, is_random;
  uint64_t blocks, next;
  unsigned char *buffers;
};

static uint64_t position(struct plan *plan) {
  if (!plan->is_random) return plan->next++ % plan->blocks * BLOCK;
  // xorshift64
  plan->next ^= plan->next << 13;
  plan->next ^= plan->next >> 7;
  plan->next ^= plan->next << 17;
  return plan->next % plan->blocks * BLOCK;
}

static void one_by_one(struct plan *plan, unsigned count) {
  while (count--) {
    off_t at = (off_t)position(plan);
    ssize_t n = plan->is_write ? pwrite(plan->fd, plan->buffers, BLOCK, at) : pread(plan->fd, plan->buffers, BLOCK, at);
    if (n != BLOCK) die("a transfer");
  }
}

// As many as have come back are asked for anew, with one system call: what a program with a queue does.
static void many(struct plan *plan, unsigned depth, unsigned count) {
  struct iocb requests[DEPTH_MAX], *list[DEPTH_MAX];
  struct io_event events[DEPTH_MAX];
  aio_context_t context = 0;
  unsigned asked = 0, answered = 0, free_count = depth < count ? depth : count;
  if (syscall(SYS_io_setup, depth, &context) < 0) die("io_setup");
  for (unsigned i = 0; i < free_count; i++) list[i] = &requests[i];
  while (answered < count) {
    if (free_count > count - asked) free_count = count - asked;
    for (unsigned i = 0; i < free_count; i++) {
      unsigned slot = (unsigned)(list[i] - requests);
      *list[i] = (struct iocb){
          .aio_data = slot,
          .aio_lio_opcode = plan->is_write ? IOCB_CMD_PWRITE : IOCB_CMD_PREAD,
          .aio_fildes = (uint32_t)plan->fd,
          .aio_buf = (uint64_t)(uintptr_t)(plan->buffers + slot * BLOCK),
          .aio_nbytes = BLOCK,
          .aio_offset = (int64_t)position(plan),
      };
    }
    if (free_count > 0 && syscall(SYS_io_submit, context, (long)free_count, list) != (long)free_count) die("io_submit");
    asked += free_count;
    long n = syscall(SYS_io_getevents, context, 1L, (long)depth, events, NULL);
    if (n < 1) die("io_getevents");
    for (long i = 0; i < n; i++) {
      if (events[i].res != BLOCK) die("a transfer");
      list[i] = &requests[events[i].data];
    }
    free_count = (unsigned)n;
    answered += (unsigned)n;
  }
  syscall(SYS_io_destroy, context);
}

static void block(const char *path, const char *operation, const char *order, unsigned depth, unsigned count) {
  static uint64_t cursor = 1, seed = 0x9e3779b97f4a7c15;
  static unsigned char buffers[DEPTH_MAX * BLOCK] __attribute__((aligned(BLOCK)));
  struct plan plan = {.is_write = strcmp(operation, "write") == 0, .is_random = strcmp(order, "random") == 0};
  uint64_t bytes;
  plan.fd = open(path, O_RDWR | O_DIRECT | O_CLOEXEC);
  if (plan.fd < 0) die(path);
  if (ioctl(plan.fd, BLKGETSIZE64, &bytes) < 0) die("BLKGETSIZE64");
  plan.blocks = bytes / BLOCK;
  plan.next = plan.is_random ? seed : cursor;
  plan.buffers = buffers;
  uint64_t since = begin();
  if (depth <= 1) one_by_one(&plan, count);
  else many(&plan, depth < DEPTH_MAX ? depth : DEPTH_MAX, count);
  end(since);
  *(plan.is_random ? &seed : &cursor) = plan.next;
  close(plan.fd);
}

// --- TCP -------------------------------------------------------------------------------------------------------------

static char piece[PIECE];

static void write_all(int fd, const void *bytes, size_t length) {
  for (const char *at = bytes; length > 0;) {
    ssize_t n = write(fd, at, length);
    if (n < 0) die("write");
    at += n;
    length -= (size_t)n;
  }
}

static uint64_t read_to_end(int fd) {
  uint64_t sum = 0;
  for (ssize_t n; (n = read(fd, piece, sizeof piece)) != 0; sum += (uint64_t)n)
    if (n < 0) die("read");
  return sum;
}

static void send_bytes(int fd, uint64_t bytes) {
  for (uint64_t n; bytes > 0; bytes -= n) write_all(fd, piece, n = bytes < sizeof piece ? bytes : sizeof piece);
  shutdown(fd, SHUT_WR);
}

// The first eight bytes say what the peer is to send; 0: it takes all that comes, and then closes.
static void stream(const char *address, unsigned port, uint64_t bytes, int is_receiving) {
  struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
  uint64_t wanted = is_receiving ? bytes : 0;
  inet_pton(AF_INET, address, &to.sin_addr);
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof to) < 0) die("connect");
  uint64_t since = begin();
  write_all(fd, &wanted, sizeof wanted);
  if (!is_receiving) send_bytes(fd, bytes);
  if (read_to_end(fd) != wanted) die("the peer");
  end(since);
  close(fd);
}

static void serve(int fd) {
  uint64_t wanted = 0;
  if (read(fd, &wanted, sizeof wanted) != sizeof wanted) return;
  if (wanted > 0) send_bytes(fd, wanted);
  else read_to_end(fd);
}

static void peer(const char *address) {
  struct sockaddr_in at = {.sin_family = AF_INET};
  socklen_t length = sizeof at;
  inet_pton(AF_INET, address, &at.sin_addr);
  int listener = socket(AF_INET, SOCK_STREAM, 0);
  if (listener < 0 || bind(listener, (struct sockaddr *)&at, sizeof at) < 0 || listen(listener, 1) < 0) die(address);
  getsockname(listener, (struct sockaddr *)&at, &length);
  printf("%u\n", ntohs(at.sin_port));
  for (;;) {
    int fd = accept(listener, NULL, NULL);
    if (fd < 0) die("accept");
    serve(fd);
    close(fd);
  }
}

int main(int argc, char **argv) {
  char line[256], path[128], words[3][16];
  unsigned depth, count, port;
  unsigned long long bytes;
  setvbuf(stdout, NULL, _IOLBF, 0);
  if (argc == 3 && strcmp(argv[1], "peer") == 0) peer(argv[2]);
  while (fgets(line, sizeof line, stdin)) {
    if (sscanf(line, "block %127s %15s %15s %u %u", path, words[0], words[1], &depth, &count) == 5)
      block(path, words[0], words[1], depth, count);
    else if (sscanf(line, "%15s %127s %u %llu", words[0], path, &port, &bytes) == 4)
      stream(path, port, bytes, strcmp(words[0], "receive") == 0);
    else {
      fprintf(stderr, "load: what is %s", line);
      return 2;
    }
  }
  return 0;
}
