// What a guest does while it is saved and restored: each piece of work notices when one of its steps is lost, doubled or
// altered, says how far it is, and goes on until /tmp/stop is there. test/support/moving-guest.ts compiles it.
//   disk DEVICE COUNT     blocks of 4096 bytes, written and read back by four processes with O_DIRECT
//   serve PORT            sends back what it is sent
//   talk ADDRESS PORT     numbered words to one that serves
//   registers sse|avx     three processes, each with values of its own in all vector registers
//   lines FILE            numbered lines
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { BLOCK = 4096, WRITERS = 4, HOLDERS = 3, WINDOW = 64, PAUSE = 10000 };

// A line at once: several processes share the output.
static void say(const char *format, ...) {
  char line[256];
  va_list arguments;
  va_start(arguments, format);
  int length = vsnprintf(line, sizeof line, format, arguments);
  va_end(arguments);
  if (write(1, line, (size_t)length) != length) _exit(2);
}

#define wrong(...)                       \
  do {                                   \
    say("WRONG: " __VA_ARGS__);          \
    exit(1);                             \
  } while (0)

static int is_over(void) { return access("/tmp/stop", F_OK) == 0; }

// --- disk ---

// Block number, sequence, and words that follow from both; test/support/moving-guest.ts has the same.
static void stamp(uint32_t *words, uint32_t block, uint32_t sequence) {
  words[0] = block;
  words[1] = sequence;
  for (uint32_t i = 2; i < BLOCK / 4; i++) words[i] = (block * 2654435761u) ^ (sequence * 40503u + i);
}

static void read_back(int fd, uint32_t *found, uint32_t block, uint32_t sequence) {
  static uint32_t expected[BLOCK / 4];
  if (pread(fd, found, BLOCK, (off_t)block * BLOCK) != BLOCK) wrong("block %u: read, errno %d\n", block, errno);
  memset(expected, 0, BLOCK);
  if (sequence != 0) stamp(expected, block, sequence);
  if (memcmp(found, expected, BLOCK) != 0)
    wrong("block %u has sequence %u of block %u, not %u\n", block, found[1], found[0], sequence);
}

// In each writer's share every block is written in turn, and another one is read.
static void write_blocks(const char *device, uint32_t writer, uint32_t share) {
  int fd = open(device, O_RDWR | O_DIRECT);
  uint32_t *last = calloc(share, sizeof *last), *words = aligned_alloc(BLOCK, BLOCK);
  if (fd < 0 || last == NULL || words == NULL) wrong("%s: errno %d\n", device, errno);
  uint32_t first = writer * share, sequence = 0;
  while (!is_over()) {
    uint32_t at = sequence++ % share, other = (at * 5 + sequence / share) % share;
    stamp(words, first + at, sequence);
    if (pwrite(fd, words, BLOCK, (off_t)(first + at) * BLOCK) != BLOCK)
      wrong("block %u: write, errno %d\n", first + at, errno);
    last[at] = sequence;
    read_back(fd, words, first + other, last[other]);
    if (sequence % 8 == 0) say("disk %u %u\n", writer, sequence);
  }
  for (uint32_t at = 0; at < share; at++) read_back(fd, words, first + at, last[at]);
  say("disk %u ended %u\n", writer, sequence);
}

// --- network ---

static void serve(uint16_t port) {
  int one = 1, listening = socket(AF_INET, SOCK_STREAM, 0);
  struct sockaddr_in any = {.sin_family = AF_INET, .sin_port = htons(port)};
  setsockopt(listening, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  if (bind(listening, (struct sockaddr *)&any, sizeof any) < 0 || listen(listening, 1) < 0)
    wrong("port %u: errno %d\n", port, errno);
  int peer = accept(listening, NULL, NULL);
  char bytes[1024];
  ssize_t got;
  while ((got = read(peer, bytes, sizeof bytes)) > 0)
    for (ssize_t sent = 0, n; sent < got; sent += n)
      if ((n = write(peer, bytes + sent, (size_t)(got - sent))) <= 0) wrong("serving: errno %d\n", errno);
  if (got < 0) wrong("serving: errno %d\n", errno);
}

static uint64_t word_of(uint64_t number) { return number * 0x9e3779b97f4a7c15u; }

static void talk(const char *address, uint16_t port) {
  struct sockaddr_in peer = {.sin_family = AF_INET, .sin_port = htons(port)};
  inet_pton(AF_INET, address, &peer.sin_addr);
  int fd;
  for (;; sleep(1)) {
    fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(fd, (struct sockaddr *)&peer, sizeof peer) == 0) break;
    close(fd);
  }
  uint64_t sent = 0, heard = 0, words[WINDOW];
  size_t have = 0;
  for (int over = 0;;) {
    if (!over && is_over()) {
      over = 1;
      shutdown(fd, SHUT_WR);
    }
    if (!over && sent - heard <= WINDOW / 2) {
      uint64_t out[WINDOW / 2];
      for (int i = 0; i < WINDOW / 2; i++) out[i] = word_of(sent + (uint64_t)i);
      if (write(fd, out, sizeof out) != sizeof out) wrong("talking: errno %d\n", errno);
      sent += WINDOW / 2;
    }
    ssize_t got = read(fd, (char *)words + have, sizeof words - have);
    if (got < 0 || (got == 0 && !over)) wrong("the connection ended: errno %d\n", errno);
    if (got == 0) break;
    have += (size_t)got;
    size_t whole = have / 8;
    for (size_t i = 0; i < whole; i++, heard++) {
      if (words[i] != word_of(heard)) wrong("word %llu is another\n", (unsigned long long)heard);
      if (heard % 128 == 0) say("tcp %llu\n", (unsigned long long)heard);
    }
    have -= whole * 8;
    memmove(words, words + whole, have);
  }
  if (heard != sent || have != 0)
    wrong("%llu words sent, %llu came back\n", (unsigned long long)sent, (unsigned long long)heard);
  say("tcp ended %llu\n", (unsigned long long)heard);
}

// --- registers ---

// Sixteen registers are loaded, others run meanwhile, and the registers are stored.
#define EACH(step, name)                                                                                              \
  step(0, name) step(1, name) step(2, name) step(3, name) step(4, name) step(5, name) step(6, name) step(7, name)      \
  step(8, name) step(9, name) step(10, name) step(11, name) step(12, name) step(13, name) step(14, name) step(15, name)
#define LOAD_SSE(n, name) "movdqu " #n "*16(%[from]), %%xmm" #n "\n"
#define STORE_SSE(n, name) "movdqu %%xmm" #n ", " #n "*16(%[to])\n"
#define LOAD_AVX(n, name) "vmovdqu " #n "*32(%[from]), %%ymm" #n "\n"
#define STORE_AVX(n, name) "vmovdqu %%ymm" #n ", " #n "*32(%[to])\n"
#define CLOBBER "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", \
  "xmm12", "xmm13", "xmm14", "xmm15", "rax", "rcx", "r11", "r12", "memory", "cc"
#define HOLD(load, store)                                                                                             \
  __asm__ volatile(EACH(load, 0) "mov $8, %%r12\n"                                                                    \
                   "1: mov %[yield], %%eax\n syscall\n"                                                               \
                   "mov $20000, %%ecx\n 2: dec %%ecx\n jnz 2b\n"                                                      \
                   "dec %%r12\n jnz 1b\n" EACH(store, 0)                                                              \
                   :                                                                                                  \
                   : [from] "r"(values), [to] "r"(found), [yield] "i"(SYS_sched_yield)                                \
                   : CLOBBER)

static void hold_registers(uint32_t holder, int avx) {
  static uint8_t values[16 * 32], found[16 * 32];
  size_t bytes = avx ? sizeof values : sizeof values / 2;
  for (uint32_t round = 1; !is_over(); round++) {
    for (size_t i = 0; i < bytes; i++) values[i] = (uint8_t)(i * 7 + round * 13 + holder * 101);
    memset(found, 0, sizeof found);
    if (avx) HOLD(LOAD_AVX, STORE_AVX);
    else HOLD(LOAD_SSE, STORE_SSE);
    for (size_t i = 0; i < bytes; i++)
      if (found[i] != values[i])
        wrong("holder %u, round %u: byte %zu is %02x, not %02x\n", holder, round, i, found[i], values[i]);
    if (round % 16 == 0) say("registers %u %u\n", holder, round);
    usleep(PAUSE);
  }
  say("registers %u ended\n", holder);
}

// --- lines ---

static void count_lines(const char *path) {
  int fd = open(path, O_WRONLY | O_NOCTTY);
  for (uint32_t number = 1; !is_over(); number++) {
    char line[32];
    int length = snprintf(line, sizeof line, "line %u.\n", number);
    if (write(fd, line, (size_t)length) != length) wrong("%s: errno %d\n", path, errno);
    usleep(PAUSE);
  }
}

// --- main ---

static int is_child(void) {
  pid_t pid = fork();
  if (pid < 0) wrong("fork: errno %d\n", errno);
  return pid == 0;
}

static int wait_for_all(void) {
  int status, worst = 0;
  while (wait(&status) > 0)
    if (status != 0) {
      say("WRONG: a process ended with wait status %#x\n", status);
      worst = 1;
    }
  return worst;
}

int main(int count, char **words) {
  const char *work = count > 2 ? words[1] : "";
  if (strcmp(work, "disk") == 0 && count == 4) {
    uint32_t share = (uint32_t)atoi(words[3]) / WRITERS;
    for (uint32_t writer = 0; writer < WRITERS; writer++)
      if (is_child()) {
        write_blocks(words[2], writer, share);
        return 0;
      }
    return wait_for_all();
  }
  if (strcmp(work, "registers") == 0) {
    for (uint32_t holder = 0; holder < HOLDERS; holder++)
      if (is_child()) {
        hold_registers(holder, strcmp(words[2], "avx") == 0);
        return 0;
      }
    return wait_for_all();
  }
  if (strcmp(work, "lines") == 0) count_lines(words[2]);
  else if (strcmp(work, "serve") == 0) serve((uint16_t)atoi(words[2]));
  else if (strcmp(work, "talk") == 0 && count == 4) talk(words[2], (uint16_t)atoi(words[3]));
  else wrong("usage\n");
  return 0;
}
