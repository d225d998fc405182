/*
 * /init, PID 1 of the default guest; as poweroff, reboot or halt it is that command.
 * Small because every kernel instruction of the boot counts: no shell script, no fork that is not needed.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include "init.h"

volatile sig_atomic_t power_request;

void say(const char *text) {
  if (write(2, text, strlen(text)) < 0)
    return; /* nobody to tell */
}

/* Busybox's convention: its poweroff, halt and reboot send these to PID 1. */
static const struct {
  int signal;
  enum power how;
} requests[] = {
    {SIGUSR1, POWER_HALT},
    {SIGUSR2, POWER_OFF},
    {SIGTERM, POWER_REBOOT},
};
#define REQUESTS (sizeof(requests) / sizeof(requests[0]))

static void on_request(int signal) {
  for (size_t i = 0; i < REQUESTS; i++)
    if (requests[i].signal == signal)
      power_request = 1 + requests[i].how;
}

static void on_child(int signal) { (void)signal; }

static void catch_signals(void) {
  struct sigaction action = {.sa_handler = on_child};
  /* No SA_RESTART: whoever waits shall wake. */
  sigaction(SIGCHLD, &action, NULL);
  action.sa_handler = on_request;
  for (size_t i = 0; i < REQUESTS; i++)
    sigaction(requests[i].signal, &action, NULL);
}

static const struct {
  const char *source, *target, *type, *options;
} mounts[] = {
    {"proc", "/proc", "proc", NULL},
    {"sysfs", "/sys", "sysfs", NULL},
    {"devtmpfs", "/dev", "devtmpfs", "mode=755"},
    {"devpts", "/dev/pts", "devpts", "mode=620,gid=5,ptmxmode=666"},
};

static void mount_all(void) {
  for (size_t i = 0; i < sizeof(mounts) / sizeof(mounts[0]); i++) {
    if (i == 3)
      mkdir("/dev/pts", 0755);
    if (mount(mounts[i].source, mounts[i].target, mounts[i].type, MS_NOSUID, mounts[i].options) < 0) {
      char line[128];
      snprintf(line, sizeof(line), "init: mount %s: %s\n", mounts[i].target, strerror(errno));
      say(line);
    }
  }
}

/*
 * What the kernel gives stays: NAME=value options of its command line that it did not know itself. GLIBC_TUNABLES
 * comes that way on hosts whose KVM does not keep the AVX registers of programs apart.
 */
static void set_environment(void) {
  setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", 1);
  setenv("HOME", "/root", 1);
  setenv("USER", "root", 1);
  setenv("LOGNAME", "root", 1);
  setenv("SHELL", "/bin/sh", 1);
  setenv("TERM", cmdline_value("microvisor.term") ?: "linux", 1);
}

static void greet(void) {
  struct utsname name;
  struct sysinfo info;
  char line[256];
  uname(&name);
  sysinfo(&info);
  snprintf(line, sizeof(line), "Microvisor guest: Linux %s, %ld CPU, %lu MiB. poweroff ends it.\n", name.release,
           sysconf(_SC_NPROCESSORS_ONLN), (unsigned long)(info.totalram * info.mem_unit >> 20));
  say(line);
}

pid_t start_shell(int columns, int rows) {
  int console = open_console(columns, rows);
  pid_t pid = fork();
  if (pid == 0) {
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGPIPE, SIG_DFL);
    if (console >= 0)
      take_console(console);
    if (chdir("/root") < 0)
      say("init: no /root\n");
    greet();
    execl("/bin/busybox", "-sh", (char *)NULL);
    say("init: /bin/busybox cannot be run\n");
    _exit(127);
  }
  close(console);
  return pid;
}

/* Reaps all children until the shell ends or somebody asks for power-off. */
static void wait_for(pid_t shell) {
  sigset_t blocked, open_mask;
  sigemptyset(&blocked);
  sigaddset(&blocked, SIGCHLD);
  for (size_t i = 0; i < REQUESTS; i++)
    sigaddset(&blocked, requests[i].signal);
  sigprocmask(SIG_BLOCK, &blocked, &open_mask);
  while (!power_request) {
    pid_t pid;
    while ((pid = waitpid(-1, NULL, WNOHANG)) > 0)
      if (pid == shell)
        return;
    if (!power_request)
      sigsuspend(&open_mask);
  }
}

static int power_command(const char *name, int argc, char **argv) {
  static const struct {
    const char *name;
    enum power how;
  } names[] = {{"poweroff", POWER_OFF}, {"reboot", POWER_REBOOT}, {"halt", POWER_HALT}};
  for (size_t i = 0; i < 3; i++) {
    if (strcmp(name, names[i].name) != 0)
      continue;
    for (int a = 1; a < argc; a++)
      if (strcmp(argv[a], "-f") == 0)
        power_now(names[i].how);
    for (size_t r = 0; r < REQUESTS; r++)
      if (requests[r].how == names[i].how && kill(1, requests[r].signal) == 0)
        return 0;
    fprintf(stderr, "%s: %s\n", name, strerror(errno));
    return 1;
  }
  fprintf(stderr, "%s: this is init; it runs as process 1\n", name);
  return 1;
}

int main(int argc, char **argv) {
  if (getpid() != 1) {
    const char *slash = strrchr(argv[0], '/');
    return power_command(slash ? slash + 1 : argv[0], argc, argv);
  }
  mount_all();
  map_single_pages();
  sethostname("microvisor", 10);
  catch_signals();
  load_modules();
  adopt_console();
  set_environment();
  mount_disks();
  start_network();
  const char *exec_tty = cmdline_value("microvisor.exec");
  if (exec_tty)
    run_agent(exec_tty);
  else
    wait_for(start_shell(0, 0));
  power_down(power_request ? (enum power)(power_request - 1) : POWER_OFF);
}
