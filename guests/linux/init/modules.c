/*
 * Kernel modules from the initramfs. A line of /lib/modules/list is DEVICE PATH, in the order of dependencies: a module
 * that is loaded where there is a virtio device of this id (VIRTIO 1.2, section 5), or for 0 always.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "init.h"

/* "NAME.option=value" on the kernel's command line is for the module NAME; only modprobe would pass it on. */
static const char *options_of(const char *path) {
  static char options[2048];
  const char *base = strrchr(path, '/') + 1;
  size_t length = strcspn(base, "."), used = 0;
  options[0] = '\0';
  for (const char *word = NULL; (word = cmdline_next(word));)
    if (strncmp(word, base, length) == 0 && word[length] == '.' && used + strlen(word) < sizeof(options)) {
      used += sprintf(options + used, "%s ", word + length + 1);
    }
  return options;
}

static int has_virtio_device(unsigned wanted) {
  for (int i = 0;; i++) {
    char path[64], text[16] = "";
    snprintf(path, sizeof(path), "/sys/bus/virtio/devices/virtio%d/device", i);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
      return 0;
    ssize_t n = read(fd, text, sizeof(text) - 1);
    close(fd);
    if (n > 0 && strtoul(text, NULL, 16) == wanted)
      return 1;
  }
}

static void load(const char *path) {
  int module = open(path, O_RDONLY | O_CLOEXEC);
  /* EEXIST: it came for another device already. */
  if (module < 0 || (syscall(SYS_finit_module, module, options_of(path), 0) < 0 && errno != EEXIST)) {
    char line[256];
    snprintf(line, sizeof(line), "init: module %s: %s\n", path, strerror(errno));
    say(line);
  }
  if (module >= 0)
    close(module);
}

void load_modules(void) {
  static char list[8192];
  int fd = open("/lib/modules/list", O_RDONLY | O_CLOEXEC);
  if (fd < 0)
    return; /* a kernel with everything built in */
  ssize_t n = read(fd, list, sizeof(list) - 1);
  close(fd);
  if (n <= 0)
    return;
  char *save = NULL;
  for (char *line = strtok_r(list, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
    char *path;
    unsigned device = strtoul(line, &path, 10);
    if (*path == ' ' && (device == 0 || has_virtio_device(device)))
      load(path + 1);
  }
}
