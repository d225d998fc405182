/*
 * How the machine ends.
 * A kernel with ACPI does it itself. One without has no way to power off, so this writes what the DSDT's \_S5
 * would make the kernel write: SLP_EN and SLP_TYP 5 to the PM1a control register (ACPI 6.4, section 4.8.3.2.1).
 */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/io.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "init.h"

#define PM1A_CONTROL 0x604
#define SLP_EN (1 << 13)
#define SLP_TYP_S5 (5 << 10)

static void power_off_by_port(void) {
  if (ioperm(PM1A_CONTROL, 2, 1) < 0)
    return;
  outw(SLP_EN | SLP_TYP_S5, PM1A_CONTROL);
}

void power_now(enum power how) {
  sync();
  if (how == POWER_REBOOT)
    reboot(RB_AUTOBOOT);
  if (how == POWER_HALT)
    reboot(RB_HALT_SYSTEM);
  if (access("/sys/firmware/acpi", F_OK) < 0)
    power_off_by_port();
  reboot(RB_POWER_OFF);
}

static void sleep_ms(long ms) {
  struct timespec t = {ms / 1000, ms % 1000 * 1000000};
  nanosleep(&t, NULL);
}

/* All processes but PID 1 are its children or become them, so ECHILD means that none is left. */
static int reap_for(int ms) {
  for (int waited = 0;; waited += 10) {
    pid_t pid;
    while ((pid = waitpid(-1, NULL, WNOHANG)) > 0)
      ;
    if (pid < 0)
      return 1;
    if (waited >= ms)
      return 0;
    sleep_ms(10);
  }
}

/* What lies on a block device must not be cut off in the middle of a write. */
static void unmount_all(void) {
  static char table[16384];
  char *lines[128];
  int count = 0;
  int fd = open("/proc/mounts", O_RDONLY | O_CLOEXEC);
  if (fd < 0)
    return;
  ssize_t n = 0, got;
  while (n < (ssize_t)sizeof(table) - 1 && (got = read(fd, table + n, sizeof(table) - 1 - n)) > 0)
    n += got;
  close(fd);
  char *save = NULL;
  for (char *line = strtok_r(table, "\n", &save); line && count < 128; line = strtok_r(NULL, "\n", &save))
    lines[count++] = line;
  while (count-- > 0) {
    char *rest = NULL;
    char *source = strtok_r(lines[count], " ", &rest);
    char *target = strtok_r(NULL, " ", &rest);
    if (!source || !target || source[0] != '/')
      continue;
    if (umount2(target, 0) < 0)
      mount(NULL, target, NULL, MS_REMOUNT | MS_RDONLY, NULL);
  }
}

void power_down(enum power how) {
  signal(SIGCHLD, SIG_DFL);
  if (!reap_for(0)) {
    /* An interactive shell ignores SIGTERM and ends on SIGHUP. */
    kill(-1, SIGTERM);
    kill(-1, SIGHUP);
    kill(-1, SIGCONT);
    if (!reap_for(500)) {
      kill(-1, SIGKILL);
      reap_for(500);
    }
  }
  sync();
  unmount_all();
  drain_console();
  power_now(how);
  say("init: the kernel refused to end the machine\n");
  for (;;)
    pause();
}
