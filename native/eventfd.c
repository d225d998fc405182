// eventfds: counters that the kernel and user space signal to each other. Non-blocking, closed on exec.
// eventfd(2).
#include "eventfd.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

long mv_eventfd_create(uint32_t initial) {
  int fd = eventfd(initial, EFD_CLOEXEC | EFD_NONBLOCK);
  return fd < 0 ? -(long)errno : fd;
}

long mv_eventfd_signal(int fd, uint64_t count) {
  if (write(fd, &count, sizeof count) == sizeof count || errno == EAGAIN) return 0;
  return -(long)errno;
}

long mv_eventfd_read(int fd, uint64_t *count) {
  return read(fd, count, sizeof *count) == sizeof *count ? 0 : -(long)errno;
}

long mv_fd_adopt(int fd, const char *kind) {
  char path[32], found[64], wanted[64];
  int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
  if (copy < 0) return -(long)errno;
  // The copy is asked, not the original: that one may be closed and reused by another thread meanwhile.
  snprintf(path, sizeof path, "/proc/self/fd/%d", copy);
  snprintf(wanted, sizeof wanted, "anon_inode:%s", kind);
  ssize_t length = readlink(path, found, sizeof found);
  if (length == (ssize_t)strlen(wanted) && memcmp(found, wanted, (size_t)length) == 0) return copy;
  close(copy);
  return -EINVAL;
}
