/*
 * Exec mode: runs one command, or a shell on the console, for the host over a raw serial line (protocol.h).
 * One poll loop, nothing in it blocks: input is taken while output waits and the other way round.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "init.h"
#include "protocol.h"

/* <linux/random.h>, which the C library here does not bring. */
#define RNDADDENTROPY _IOW('R', 0x03, int[2])
#define RNDRESEEDCRNG _IO('R', 0x07)

/* Room for one full data frame and for the small ones, which must always fit. */
#define OUT_SMALL 512
#define OUT_SIZE (2 * (EXEC_HEADER + EXEC_MAX_PAYLOAD) + OUT_SMALL)

struct block {
  size_t length;
  char bytes[EXEC_MAX_BLOCK + 1];
};

/* A pipe from the command. */
struct source {
  int fd; /* -1 when it has ended */
  enum exec_frame frame;
  int left; /* after the command's end: what it had written; -1 before */
};

static int tty = -1;
static pid_t child;
static int is_shell; /* the child has the console, and its status is nobody's */
static int child_status;
static enum { COLLECTING, RUNNING, ENDED } state;
static int wish_to_end; /* the line is gone, or the host broke the protocol */

/* The command's stdin, stdout and stderr; made before a snapshot may be, so that no restored guest has to. */
static int pipes[3][2];
static int pipes_failure; /* errno */

static struct block arguments, environment, directory;
static struct source sources[2] = {{-1, EXEC_STDOUT, -1}, {-1, EXEC_STDERR, -1}};

static unsigned char out[OUT_SIZE];
static size_t out_start, out_end;

/* Bytes for the command's stdin: a ring as large as the credit, so it cannot overflow by an honest host. */
static unsigned char input[EXEC_WINDOW];
static size_t input_start, input_length;
static int input_fd = -1, input_ended;
static uint32_t credit_owed;

static size_t out_room(void) { return OUT_SIZE - (out_end - out_start); }

static void send_frame(enum exec_frame type, const void *payload, size_t length) {
  unsigned char *at;
  if (out_room() < EXEC_HEADER + length)
    return; /* small frames have their room kept, data frames ask first */
  if (OUT_SIZE - out_end < EXEC_HEADER + length) {
    memmove(out, out + out_start, out_end - out_start);
    out_end -= out_start;
    out_start = 0;
  }
  at = out + out_end;
  at[0] = type;
  at[1] = length & 0xff;
  at[2] = length >> 8;
  memcpy(at + EXEC_HEADER, payload, length);
  out_end += EXEC_HEADER + length;
}

static void put_u32(unsigned char *at, uint32_t value) {
  for (int i = 0; i < 4; i++)
    at[i] = value >> (8 * i);
}

static void flush_out(void) {
  while (out_start < out_end) {
    ssize_t n = write(tty, out + out_start, out_end - out_start);
    if (n < 0 && errno == EINTR)
      continue;
    if (n < 0 && errno != EAGAIN)
      wish_to_end = 1;
    if (n <= 0)
      return;
    out_start += n;
  }
  out_start = out_end = 0;
}

static void grant(size_t bytes) { credit_owed += bytes; }

/* Few large grants rather than many small ones: each costs the guest an interrupt or two on its way. */
static void send_credit(void) {
  unsigned char payload[4];
  if (credit_owed < EXEC_WINDOW / 4 || out_room() < EXEC_HEADER + sizeof(payload))
    return;
  put_u32(payload, credit_owed);
  send_frame(EXEC_CREDIT, payload, sizeof(payload));
  credit_owed = 0;
}

static void send_exit(enum exec_exit kind, unsigned char value) {
  unsigned char payload[2] = {kind, value};
  send_frame(EXEC_EXIT, payload, sizeof(payload));
}

static void fail(int status, const char *what, const char *why) {
  char text[OUT_SMALL - 64];
  int n = snprintf(text, sizeof(text), "%.300s: %s", what, why);
  send_frame(EXEC_ERROR, text, n < (int)sizeof(text) ? n : (int)sizeof(text) - 1);
  send_exit(EXEC_EXITED, status);
  state = ENDED;
}

static void close_input(void) {
  if (input_fd >= 0)
    close(input_fd);
  input_fd = -1;
}

/* Splits NUL-terminated words in place; the caller frees the array. */
static char **split(struct block *block) {
  size_t count = 0;
  block->bytes[block->length] = '\0';
  for (size_t i = 0; i < block->length; i += strlen(block->bytes + i) + 1)
    count++;
  char **words = calloc(count + 1, sizeof(char *));
  size_t n = 0;
  for (size_t i = 0; words && n < count; i += strlen(block->bytes + i) + 1)
    words[n++] = block->bytes + i;
  return words;
}

/*
 * The file that execvp would run; NULL with errno when there is none in PATH. Asked for by a call that costs a tenth of
 * an execve that fails. `path` is room for the answer.
 */
static const char *find_program(const char *name, char *path, size_t size) {
  const char *folder = getenv("PATH");
  int problem = ENOENT;
  if (strchr(name, '/'))
    return name;
  while (folder && *folder) {
    size_t length = strcspn(folder, ":");
    if ((size_t)snprintf(path, size, "%.*s/%s", (int)length, folder, name) < size && access(path, X_OK) == 0)
      return path;
    if (errno == EACCES)
      problem = EACCES;
    folder += length + (folder[length] == ':');
  }
  errno = problem;
  return NULL;
}

static void make_pipes(void) {
  for (int i = 0; i < 3; i++)
    if (pipe2(pipes[i], O_CLOEXEC) < 0 || fcntl(pipes[i][i == 0 ? 1 : 0], F_SETFL, O_NONBLOCK) < 0)
      pipes_failure = errno;
}

/* In the vfork child: only system calls, and the parent's memory is left as it was. */
static int become(const char *file, int not_found, char **argv, const char *cwd) {
  static const int theirs[3] = {0, 1, 1};
  sigset_t none;
  setsid();
  for (int i = 0; i < 3; i++)
    if (dup2(pipes[i][theirs[i]], i) < 0)
      return errno;
  if (cwd[0] && chdir(cwd) < 0)
    return errno;
  signal(SIGPIPE, SIG_DFL);
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
  if (file)
    execve(file, argv, environ);
  int failure = file ? errno : not_found;
  /* The initramfs has no link for each applet: busybox looks for the name itself, and ends with 127 without it. */
  if (failure == ENOENT && !strchr(argv[0], '/'))
    execv("/bin/busybox", argv);
  return failure;
}

static void start(void) {
  static char path[EXEC_MAX_PAYLOAD];
  volatile int failure = 0;
  directory.bytes[directory.length] = '\0';
  char **argv = split(&arguments), **variables = split(&environment);
  if (!argv || !argv[0] || !argv[0][0])
    return fail(127, "command", "there is none");
  await_network();
  for (char **v = variables; v && *v; v++)
    putenv(*v);
  if (pipes_failure)
    return fail(126, "pipe", strerror(pipes_failure));
  const char *file = find_program(argv[0], path, sizeof(path));
  int not_found = errno;
  pid_t pid = vfork();
  if (pid == 0) {
    failure = become(file, not_found, argv, directory.bytes);
    _exit(127);
  }
  for (int i = 0; i < 3; i++)
    close(pipes[i][i == 0 ? 0 : 1]);
  input_fd = pipes[0][1];
  sources[0].fd = pipes[1][0];
  sources[1].fd = pipes[2][0];
  if (pid < 0)
    return fail(126, argv[0], strerror(errno));
  if (failure) {
    waitpid(pid, NULL, 0);
    return fail(failure == ENOENT ? 127 : 126, argv[0], strerror(failure));
  }
  child = pid;
  state = RUNNING;
}

static void append(struct block *block, size_t limit, const unsigned char *bytes, size_t length) {
  if (state != COLLECTING)
    return;
  if (block->length + length > limit)
    return fail(126, "command", "its arguments or environment are longer than the guest takes");
  memcpy(block->bytes + block->length, bytes, length);
  block->length += length;
  grant(length);
}

static void take_stdin(const unsigned char *bytes, size_t length) {
  if (state == COLLECTING || length > EXEC_WINDOW - input_length) {
    say("init: the host sent more than its credit\n");
    wish_to_end = 1;
    return;
  }
  if (input_fd < 0)
    return grant(length); /* the command has closed its stdin: swallow, as a pipe to nowhere would */
  for (size_t i = 0; i < length; i++)
    input[(input_start + input_length + i) % EXEC_WINDOW] = bytes[i];
  input_length += length;
}

/* A payload of a few bytes, which may come in pieces. @returns whether it is whole */
static int collect(unsigned char *whole, size_t *have, size_t size, const unsigned char *bytes, size_t length) {
  for (size_t i = 0; i < length && *have < size; i++)
    whole[(*have)++] = bytes[i];
  grant(length);
  return *have == size;
}

/*
 * Every machine that was restored from one snapshot has the same generator. Bytes that are only written to
 * /dev/urandom would count at its next reseeding, a minute later.
 */
static void take_seed(const unsigned char *bytes, size_t length, int last) {
  /* struct rand_pool_info: bits of entropy, bytes, the bytes. */
  static struct {
    int bits, size;
    unsigned char bytes[EXEC_SEED_SIZE];
  } seed;
  static size_t have;
  collect(seed.bytes, &have, EXEC_SEED_SIZE, bytes, length);
  if (!last)
    return;
  int fd = open("/dev/urandom", O_WRONLY | O_CLOEXEC);
  seed.bits = 8 * have;
  seed.size = have;
  if (fd < 0 || ioctl(fd, RNDADDENTROPY, &seed) < 0 || ioctl(fd, RNDRESEEDCRNG) < 0)
    say("init: the random generator was not reseeded\n");
  if (fd >= 0)
    close(fd);
  have = 0;
}

/*
 * What the guest has lost of the time: a kernel that is starved of its processor in its first seconds counts ticks that
 * it did not get, and one that was saved may go by a clock that stood. Below a second nothing is put right: the clock
 * is that of programs, too, and the line takes its time.
 */
static void take_clock(const unsigned char *bytes, size_t length, int last) {
  static unsigned char payload[EXEC_CLOCK_SIZE];
  static size_t have;
  struct timespec now, then;
  uint64_t nanoseconds = 0;
  int is_whole = collect(payload, &have, sizeof(payload), bytes, length);
  if (!last)
    return;
  have = 0;
  for (int i = EXEC_CLOCK_SIZE - 1; i >= 0; i--)
    nanoseconds = nanoseconds << 8 | payload[i];
  then.tv_sec = nanoseconds / 1000000000;
  then.tv_nsec = nanoseconds % 1000000000;
  if (!is_whole || clock_gettime(CLOCK_REALTIME, &now) < 0)
    return;
  double behind = (double)(then.tv_sec - now.tv_sec) + (then.tv_nsec - now.tv_nsec) / 1e9;
  if ((behind > 1 || behind < -1) && clock_settime(CLOCK_REALTIME, &then) < 0)
    say("init: the clock was not set\n");
}

static void take_shell(const unsigned char *bytes, size_t length, int last) {
  static unsigned char payload[EXEC_SHELL_SIZE];
  static size_t have;
  collect(payload, &have, sizeof(payload), bytes, length);
  if (!last || state != COLLECTING)
    return;
  is_shell = 1;
  state = RUNNING;
  child = start_shell(payload[0] | payload[1] << 8, payload[2] | payload[3] << 8);
}

/* Part of a frame's payload. `last` is true once, at its end, also for an empty payload. */
static void take(int type, const unsigned char *bytes, size_t length, int last) {
  switch (type) {
  case EXEC_ARGS:
    return append(&arguments, EXEC_MAX_BLOCK, bytes, length);
  case EXEC_ENV:
    return append(&environment, EXEC_MAX_BLOCK, bytes, length);
  case EXEC_CWD:
    return append(&directory, EXEC_MAX_PAYLOAD, bytes, length);
  case EXEC_START:
    if (last && state == COLLECTING)
      start();
    return;
  case EXEC_STDIN:
    return take_stdin(bytes, length);
  case EXEC_STDIN_EOF:
    input_ended |= last;
    return;
  case EXEC_SEED:
    return take_seed(bytes, length, last);
  case EXEC_CLOCK:
    return take_clock(bytes, length, last);
  case EXEC_SHELL:
    return take_shell(bytes, length, last);
  case EXEC_SIGNAL:
    if (length && state == RUNNING)
      kill(-child, bytes[0]);
    return;
  default:
    say("init: unknown frame from the host\n");
    wish_to_end = 1;
  }
}

/* The incremental decoder: any cut of the stream into reads gives the same frames. */
static void decode(const unsigned char *bytes, size_t length) {
  static unsigned char header[EXEC_HEADER];
  static size_t have, left;
  while (length > 0) {
    if (have < EXEC_HEADER) {
      header[have++] = *bytes++;
      length--;
      if (have < EXEC_HEADER)
        continue;
      left = header[1] | header[2] << 8;
      if (left == 0) {
        take(header[0], NULL, 0, 1);
        have = 0;
      }
      continue;
    }
    size_t n = left < length ? left : length;
    left -= n;
    take(header[0], bytes, n, left == 0);
    bytes += n;
    length -= n;
    if (left == 0)
      have = 0;
  }
}

static void read_line(void) {
  unsigned char bytes[1024];
  ssize_t n = read(tty, bytes, sizeof(bytes));
  if (n > 0)
    decode(bytes, n);
  else if (n == 0 || (errno != EAGAIN && errno != EINTR))
    wish_to_end = 1;
}

static void write_input(void) {
  while (input_fd >= 0 && input_length > 0) {
    size_t n = EXEC_WINDOW - input_start < input_length ? EXEC_WINDOW - input_start : input_length;
    ssize_t written = write(input_fd, input + input_start, n);
    if (written < 0 && errno == EAGAIN)
      return;
    if (written < 0) {
      close_input();
      written = input_length;
    }
    input_start = (input_start + written) % EXEC_WINDOW;
    input_length -= written;
    grant(written);
  }
  if (input_ended && input_length == 0)
    close_input();
}

static void read_source(struct source *source) {
  unsigned char bytes[EXEC_MAX_PAYLOAD];
  size_t want = sizeof(bytes);
  if (source->fd < 0 || out_room() < EXEC_HEADER + EXEC_MAX_PAYLOAD + OUT_SMALL)
    return;
  if (source->left >= 0 && want > (size_t)source->left)
    want = source->left;
  ssize_t n = want ? read(source->fd, bytes, want) : 0;
  if (n < 0 && (errno == EAGAIN || errno == EINTR))
    return;
  if (n <= 0) {
    close(source->fd);
    source->fd = -1;
    return;
  }
  if (source->left >= 0)
    source->left -= n;
  send_frame(source->frame, bytes, n);
}

/* As PID 1 this is also where orphans end. */
static void reap(void) {
  int status;
  pid_t pid;
  while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
    if (pid != child || state != RUNNING)
      continue;
    state = ENDED;
    child_status = status;
    /* What it wrote is in the pipes; what a process that it left behind writes from now on is not its output. */
    for (int i = 0; i < 2; i++)
      if (sources[i].fd >= 0 && ioctl(sources[i].fd, FIONREAD, &sources[i].left) < 0)
        sources[i].left = 0;
  }
}

/* Someone asked for power-off while the command runs: it gets a moment to end by itself, then signals. */
static int hurry(int rounds) {
  if (rounds == 2)
    kill(-child, SIGTERM);
  if (rounds == 10)
    kill(-child, SIGKILL);
  return rounds + 1;
}

static void wait_for_something(int timeout_ms) {
  struct pollfd fds[4] = {{.fd = tty, .events = POLLIN}, {.fd = -1}, {.fd = -1}, {.fd = -1}};
  struct timespec timeout = {timeout_ms / 1000, timeout_ms % 1000 * 1000000};
  sigset_t none;
  sigemptyset(&none);
  if (out_start < out_end)
    fds[0].events |= POLLOUT;
  if (input_length > 0 && input_fd >= 0)
    fds[1] = (struct pollfd){.fd = input_fd, .events = POLLOUT};
  for (int i = 0; i < 2; i++)
    if (out_room() >= EXEC_HEADER + EXEC_MAX_PAYLOAD + OUT_SMALL)
      fds[2 + i] = (struct pollfd){.fd = sources[i].fd, .events = POLLIN};
  if (ppoll(fds, 4, timeout_ms < 0 ? NULL : &timeout, &none) < 0)
    return;
  if (fds[0].revents & ~POLLOUT)
    read_line();
  for (int i = 0; i < 2; i++)
    if (fds[2 + i].revents)
      read_source(&sources[i]);
}

static void serve(void) {
  int rounds = 0;
  while (!wish_to_end && (state != ENDED || sources[0].fd >= 0 || sources[1].fd >= 0)) {
    write_input();
    send_credit();
    flush_out();
    reap();
    if (state == ENDED) {
      for (int i = 0; i < 2; i++)
        read_source(&sources[i]);
      if (out_start == out_end)
        continue;
    }
    if (power_request && (state == COLLECTING || is_shell))
      return;
    if (power_request && state == RUNNING)
      rounds = hurry(rounds);
    wait_for_something(power_request && state == RUNNING ? 50 : -1);
  }
}

void run_agent(const char *tty_name) {
  char path[64];
  sigset_t blocked;
  unsigned char ready[8] = EXEC_MAGIC;
  snprintf(path, sizeof(path), "/dev/%.32s", tty_name);
  tty = open(path, O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
  if (tty < 0 || make_raw(tty) < 0) {
    char line[128];
    snprintf(line, sizeof(line), "init: microvisor.exec: %s: %s\n", path, strerror(errno));
    say(line);
    return;
  }
  tcflush(tty, TCIFLUSH);
  signal(SIGPIPE, SIG_IGN);
  make_pipes();
  /* Signals come in only while ppoll waits, so none is missed between a check and the wait. */
  sigfillset(&blocked);
  sigprocmask(SIG_BLOCK, &blocked, NULL);
  ready[3] = EXEC_VERSION;
  put_u32(ready + 4, EXEC_WINDOW);
  send_frame(EXEC_READY, ready, sizeof(ready));

  serve();

  if (state == ENDED && child && !is_shell)
    send_exit(WIFSIGNALED(child_status) ? EXEC_SIGNALLED : EXEC_EXITED,
              WIFSIGNALED(child_status) ? WTERMSIG(child_status) : WEXITSTATUS(child_status));
  fcntl(tty, F_SETFL, 0);
  flush_out();
  tcdrain(tty);
  /* Left open: closing the line's last user would shut the port down while its last bytes leave. */
}
