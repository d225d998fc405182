/*
 * What a page fault brings in. The kernel maps the fifteen pages around the one that was asked for, too, and has to take
 * them all away at the end of the process. Where KVM emulates the kernel, that is half of what a short command costs.
 * Documentation/filesystems/debugfs.rst; mm/memory.c (fault_around_bytes).
 */
#include <fcntl.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

#include "init.h"

#define DEBUGFS "/sys/kernel/debug"

void map_single_pages(void) {
  static const char one_page[] = "4096";
  /* A kernel without debugfs goes on as it is. */
  if (mount("debugfs", DEBUGFS, "debugfs", 0, NULL) < 0)
    return;
  int fd = open(DEBUGFS "/fault_around_bytes", O_WRONLY);
  if (fd >= 0) {
    if (write(fd, one_page, strlen(one_page)) < 0)
      say("init: fault_around_bytes stays as it is\n");
    close(fd);
  }
  umount(DEBUGFS);
}
