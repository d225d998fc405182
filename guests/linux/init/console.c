/* The terminal that /dev/console stands for. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>
#include <termios.h>
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

/* microvisor.size=COLSxROWS: a serial line cannot tell its size. */
static void set_size(int fd) {
  const char *size = cmdline_value("microvisor.size");
  char *end;
  struct winsize window = {0};
  if (!size)
    return;
  window.ws_col = strtoul(size, &end, 10);
  if (*end != 'x')
    return;
  window.ws_row = strtoul(end + 1, &end, 10);
  if (*end == '\0')
    ioctl(fd, TIOCSWINSZ, &window);
}

int open_console(void) {
  int fd = open("/dev/console", O_RDWR | O_NOCTTY | O_CLOEXEC);
  unsigned device;
  if (fd >= 0 && ioctl(fd, TIOCGDEV, &device) == 0)
    for (size_t i = 0; i < sizeof(consoles) / sizeof(consoles[0]); i++)
      if (major(device) == consoles[i].major && minor(device) >= consoles[i].first_minor) {
        char path[32];
        snprintf(path, sizeof(path), "/dev/%s%u", consoles[i].name, minor(device) - consoles[i].first_minor);
        int own = open(path, O_RDWR | O_NOCTTY | O_CLOEXEC);
        if (own >= 0) {
          close(fd);
          fd = own;
        }
      }
  if (fd >= 0)
    set_size(fd);
  return fd;
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
