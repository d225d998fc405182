/* The terminal for the shell: the one that /dev/console stands for, or the one that microvisor.console names. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "init.h"

#ifndef TIOCGDEV
#define TIOCGDEV _IOR('T', 0x32, unsigned int)
#endif

/* Majors of the drivers that serve a console here (Documentation/admin-guide/devices.txt). */
static const struct {
  unsigned major, first_minor;
  const char *name;
} consoles[] = {
    {4, 64, "ttyS"},
    {229, 0, "hvc"},
};

/* How long a terminal may take to appear: hvc0 does so from a work queue when its device has several ports. */
#define PATIENCE_MS 2000
#define SLICE_MS 10

static void sleep_slice(void) {
  struct timespec slice = {0, SLICE_MS * 1000000};
  nanosleep(&slice, NULL);
}

void adopt_console(void) {
  if (fcntl(2, F_GETFD) >= 0)
    return;
  int fd = open("/dev/console", O_RDWR | O_NOCTTY);
  if (fd < 0)
    fd = open("/dev/null", O_RDWR);
  while (fd >= 0 && fd < 2)
    fd = dup(fd);
}

/* The given size or microvisor.size=COLSxROWS, for a terminal whose device has not told its own: a serial line cannot. */
static void set_size(int fd, int columns, int rows) {
  const char *size = cmdline_value("microvisor.size");
  char *end;
  struct winsize window = {0};
  if (ioctl(fd, TIOCGWINSZ, &window) == 0 && window.ws_col)
    return;
  if (columns && rows) {
    window.ws_col = columns;
    window.ws_row = rows;
    ioctl(fd, TIOCSWINSZ, &window);
    return;
  }
  if (!size)
    return;
  window.ws_col = strtoul(size, &end, 10);
  if (*end != 'x')
    return;
  window.ws_row = strtoul(end + 1, &end, 10);
  if (*end == '\0')
    ioctl(fd, TIOCSWINSZ, &window);
}

/* Of the terminal that is the shell's. */
static char path[64] = "/dev/console";

static int open_path(void) { return open(path, O_RDWR | O_NOCTTY | O_CLOEXEC); }

/* The device that /dev/console stands for. */
static int open_kernel_console(void) {
  int fd = open_path();
  unsigned device;
  if (fd < 0 || ioctl(fd, TIOCGDEV, &device) < 0)
    return fd;
  for (size_t i = 0; i < sizeof(consoles) / sizeof(consoles[0]); i++)
    if (major(device) == consoles[i].major && minor(device) >= consoles[i].first_minor) {
      snprintf(path, sizeof(path), "/dev/%s%u", consoles[i].name, minor(device) - consoles[i].first_minor);
      int own = open_path();
      if (own < 0)
        break;
      close(fd);
      return own;
    }
  return fd;
}

/* microvisor.console=TTY */
static int open_named_console(const char *name) {
  int fd;
  snprintf(path, sizeof(path), "/dev/%.32s", name);
  for (int waited = 0; (fd = open_path()) < 0 && waited < PATIENCE_MS; waited += SLICE_MS)
    sleep_slice();
  /* The first to open hvc0 makes its driver set the size that it knows, 0 by 0 as yet, and that from a work queue. */
  if (fd >= 0)
    sleep_slice();
  return fd;
}

int open_console(int columns, int rows) {
  const char *name = cmdline_value("microvisor.console");
  int fd = name ? open_named_console(name) : open_kernel_console();
  if (fd >= 0)
    set_size(fd, columns, rows);
  return fd;
}

void drain_console(void) {
  int fd = open(path, O_WRONLY | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
  if (fd >= 0) {
    tcdrain(fd);
    close(fd);
  }
}

void take_console(int fd) {
  setsid();
  ioctl(fd, TIOCSCTTY, 1);
  for (int i = 0; i < 3; i++)
    dup2(fd, i);
}

int make_raw(int fd) {
  struct termios t;
  if (tcgetattr(fd, &t) < 0)
    return -1;
  cfmakeraw(&t);
  t.c_cflag |= CLOCAL | CREAD;
  t.c_cflag &= ~(CRTSCTS | CSTOPB);
  t.c_iflag &= ~(IXOFF | INPCK);
  t.c_cc[VMIN] = 1;
  t.c_cc[VTIME] = 0;
  cfsetspeed(&t, B115200);
  return tcsetattr(fd, TCSANOW, &t);
}
