// Packets of a TAP interface: one frame a call, never waiting.
// Linux Documentation/networking/tuntap.rst; <linux/if_tun.h>.
#include "tap.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <sys/ioctl.h>
#include <unistd.h>

long mv_tap_adopt(int fd) {
  struct ifreq request = {0};
  int flags, copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
  if (copy < 0) return -(long)errno;
  // The copy is asked, not the original: that one may be closed and reused by another thread meanwhile.
  flags = fcntl(copy, F_GETFL);
  if (ioctl(copy, TUNGETIFF, &request) == 0 && fcntl(copy, F_SETFL, flags | O_NONBLOCK) == 0) return copy;
  close(copy);
  return -EINVAL;
}

long mv_tap_read(int fd, uint8_t *data, size_t length) {
  ssize_t result;
  do result = read(fd, data, length);
  while (result < 0 && errno == EINTR);
  return result < 0 ? -(long)errno : result;
}

long mv_tap_write(int fd, const uint8_t *data, size_t length) {
  ssize_t result;
  do result = write(fd, data, length);
  while (result < 0 && errno == EINTR);
  return result < 0 ? -(long)errno : result;
}
