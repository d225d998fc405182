/*
 * Disks: a whole /dev/vdX with an ext2, ext3 or ext4 file system is mounted at /mnt/vdX; any other is left alone.
 * Nothing is ever made or repaired here (Documentation/filesystems/ext4/super.rst for the superblock).
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "init.h"

#define BLKROGET _IO(0x12, 94)
#define SUPERBLOCK 1024
#define S_MAGIC 0x38

static void complain(const char *disk, const char *what) {
  char line[128];
  snprintf(line, sizeof(line), "init: %s: %s\n", disk, what);
  say(line);
}

static int has_file_system(int fd) {
  unsigned char magic[2];
  return pread(fd, magic, sizeof(magic), SUPERBLOCK + S_MAGIC) == sizeof(magic) && magic[0] == 0x53 && magic[1] == 0xef;
}

static int mount_read_only(const char *disk, const char *target) {
  if (mount(disk, target, "ext4", MS_RDONLY, NULL) == 0)
    return 0;
  /* Its journal waits to be replayed, which a disk that cannot be written does not allow (Linux: EROFS or EINVAL). */
  if ((errno != EROFS && errno != EINVAL) || mount(disk, target, "ext4", MS_RDONLY, "noload") < 0)
    return -1;
  complain(disk, "read-only, so its journal was not replayed: what was written last may be missing");
  return 0;
}

static void mount_disk(const char *disk, const char *target) {
  int read_only = 0;
  int fd = open(disk, O_RDONLY | O_CLOEXEC);
  if (fd < 0)
    return complain(disk, strerror(errno));
  int found = has_file_system(fd);
  ioctl(fd, BLKROGET, &read_only);
  close(fd);
  if (!found)
    return;
  mkdir(target, 0755);
  if ((read_only ? mount_read_only(disk, target) : mount(disk, target, "ext4", 0, NULL)) < 0)
    complain(disk, strerror(errno));
}

void mount_disks(void) {
  char disk[] = "/dev/vda", target[] = "/mnt/vda";
  char *letters[] = {disk + sizeof(disk) - 2, target + sizeof(target) - 2};
  if (cmdline_value("microvisor.nomount"))
    return;
  for (char letter = 'a'; letter <= 'z'; letter++) {
    *letters[0] = *letters[1] = letter;
    if (access(disk, F_OK) < 0)
      return;
    mount_disk(disk, target);
  }
}
