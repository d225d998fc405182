/*
 * The network: eth0, eth1, … each get an address, by DHCP in the background or as the command line says
 * (microvisor.ip=IFACE:ADDRESS/PREFIX[:GATEWAY]). netdevice(7), rtentry in route(8).
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <net/route.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "init.h"

#define INTERFACES 16
/* A command of the host's starts with the network up, or after so long without an answer. */
#define PATIENCE_MS 6000
#define SLICE_MS 100

/* DHCP clients that have neither got a lease nor gone on in the background. */
static pid_t asking[INTERFACES];

static void complain(const char *word, const char *what) {
  char line[160];
  snprintf(line, sizeof(line), "init: %.80s: %s\n", word, what);
  say(line);
}

static struct sockaddr_in *internet(struct sockaddr *address, in_addr_t value) {
  struct sockaddr_in *in = (struct sockaddr_in *)address;
  memset(in, 0, sizeof(*in));
  in->sin_family = AF_INET;
  in->sin_addr.s_addr = value;
  return in;
}

static int bring_up(int sock, const char *name) {
  struct ifreq request = {0};
  strncpy(request.ifr_name, name, IFNAMSIZ - 1);
  if (ioctl(sock, SIOCGIFFLAGS, &request) < 0)
    return -1;
  request.ifr_flags |= IFF_UP;
  return ioctl(sock, SIOCSIFFLAGS, &request);
}

static int set_address(int sock, const char *name, in_addr_t address, int prefix) {
  struct ifreq request = {0};
  strncpy(request.ifr_name, name, IFNAMSIZ - 1);
  internet(&request.ifr_addr, address);
  if (ioctl(sock, SIOCSIFADDR, &request) < 0)
    return -1;
  internet(&request.ifr_netmask, htonl(prefix ? ~0u << (32 - prefix) : 0));
  return ioctl(sock, SIOCSIFNETMASK, &request) < 0 ? -1 : bring_up(sock, name);
}

static int set_gateway(int sock, in_addr_t gateway) {
  struct rtentry route = {.rt_flags = RTF_UP | RTF_GATEWAY};
  internet(&route.rt_dst, INADDR_ANY);
  internet(&route.rt_genmask, INADDR_ANY);
  internet(&route.rt_gateway, gateway);
  return ioctl(sock, SIOCADDRT, &route);
}

/* Ends the part of `text` before `mark` and gives what is behind it; NULL without the mark. */
static char *cut(char *text, char mark) {
  char *at = text ? strchr(text, mark) : NULL;
  if (at)
    *at++ = '\0';
  return at;
}

/* IFACE:ADDRESS/PREFIX[:GATEWAY] */
static void set_static(int sock, const char *word) {
  char name[80], *end = NULL;
  struct in_addr own, router;
  unsigned long bits = 0;
  snprintf(name, sizeof(name), "%s", word);
  char *address = cut(name, ':'), *prefix = cut(address, '/'), *gateway = cut(prefix, ':');
  if (prefix)
    bits = strtoul(prefix, &end, 10);
  if (!prefix || end == prefix || *end || bits > 32 || !inet_aton(address, &own) ||
      (gateway && !inet_aton(gateway, &router)))
    return complain(word, "microvisor.ip takes IFACE:ADDRESS/PREFIX[:GATEWAY]");
  if (set_address(sock, name, own.s_addr, bits) < 0 || (gateway && set_gateway(sock, router.s_addr) < 0))
    complain(word, strerror(errno));
}

/* The words after each microvisor.ip=; NULL at the end. */
static const char *next_static(const char **word) {
  static const char name[] = "microvisor.ip=";
  while ((*word = cmdline_next(*word)))
    if (strncmp(*word, name, sizeof(name) - 1) == 0)
      return *word + sizeof(name) - 1;
  return NULL;
}

static int is_static(const char *name) {
  size_t length = strlen(name);
  const char *word = NULL, *value;
  while ((value = next_static(&word)))
    if (strncmp(value, name, length) == 0 && value[length] == ':')
      return 1;
  return 0;
}

/* udhcpc goes on in the background when it has a lease, and after some seconds without: its parent ends then. */
static pid_t ask(const char *name) {
  pid_t pid = fork();
  if (pid != 0)
    return pid;
  int null = open("/dev/null", O_RDWR);
  for (int i = 0; i < 3; i++)
    dup2(null, i);
  setsid();
  execl("/bin/busybox", "udhcpc", "-i", name, "-b", "-t", "5", "-T", "1", "-A", "5", "-s", "/etc/udhcpc.script",
        (char *)NULL);
  _exit(127);
}

void start_network(void) {
  const char *mode = cmdline_value("microvisor.net"), *word = NULL, *value;
  char name[IFNAMSIZ], path[64];
  if (access("/sys/class/net/eth0", F_OK) < 0)
    return;
  int sock = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (sock < 0)
    return complain("network", strerror(errno));
  bring_up(sock, "lo");
  while ((value = next_static(&word)))
    set_static(sock, value);
  close(sock);
  if (mode && strcmp(mode, "off") == 0)
    return;
  for (int i = 0; i < INTERFACES; i++) {
    snprintf(name, sizeof(name), "eth%d", i);
    snprintf(path, sizeof(path), "/sys/class/net/%s", name);
    if (access(path, F_OK) < 0)
      return;
    if (!is_static(name))
      asking[i] = ask(name);
  }
}

static int still_asking(void) {
  int left = 0;
  for (int i = 0; i < INTERFACES; i++) {
    if (asking[i] > 0 && waitpid(asking[i], NULL, WNOHANG) != 0)
      asking[i] = 0;
    left |= asking[i] > 0;
  }
  return left;
}

void await_network(void) {
  struct timespec slice = {0, SLICE_MS * 1000000};
  /* The end of a client interrupts the sleep; one that ends just before it costs a slice. */
  for (int waited = 0; waited < PATIENCE_MS && still_asking(); waited += SLICE_MS)
    nanosleep(&slice, NULL);
}
