/* What the parts of /init share. */
#ifndef MICROVISOR_INIT_H
#define MICROVISOR_INIT_H

#include <signal.h>
#include <sys/types.h>

/* cmdline.c: the kernel's command line */

/* The value of NAME=VALUE, "" for NAME alone, NULL without it. The result stays valid. */
const char *cmdline_value(const char *name);
/* The word after `word`, the first one for NULL; NULL at the end. */
const char *cmdline_next(const char *word);

/* console.c: the terminal for the shell: /dev/console's, or microvisor.console's */

/* Gives process 1 its fd 0 to 2 where the kernel found no console to open: its driver was a module. */
void adopt_console(void);
/*
 * Opens the terminal's own device (a controlling terminal needs it) and sees to its size, which is the given one, or
 * for 0 that of the command line; -1 with errno.
 */
int open_console(int columns, int rows);
/* Waits until what was written to it has left. */
void drain_console(void);
/* In a child: a new session with the console as its controlling terminal and as fd 0 to 2. */
void take_console(int fd);
/* Puts the line at 115200 baud, 8 bit, no echo, no flow control, no interpretation of any byte. */
int make_raw(int fd);

/* power.c: how the machine ends */

enum power { POWER_OFF, POWER_REBOOT, POWER_HALT };
/* At once: sync, then the hardware. Returns only when the kernel refused. */
void power_now(enum power how);
/* PID 1's way: ends the other processes, unmounts, waits for the serial lines, then power_now. */
void power_down(enum power how) __attribute__((noreturn));

/* modules.c: kernel modules from the initramfs, where its kernel has any */
void load_modules(void);

/* disks.c: file systems on /dev/vdX, at /mnt/vdX */
void mount_disks(void);

/* network.c: addresses for eth0, eth1, … */
void start_network(void);
/* Waits, for some seconds at most, until each DHCP client has its lease. */
void await_network(void);

/* memory.c: a page fault brings in one page and not sixteen */
void map_single_pages(void);

/* agent.c: exec mode over the given serial line; returns when the command or the shell has ended and all is sent */
void run_agent(const char *tty_name);

/* init.c */
extern volatile sig_atomic_t power_request; /* 0, or 1 + enum power, set by PID 1's signal handler */
void say(const char *text);
/* The shell, on the console. The size is open_console's. */
pid_t start_shell(int columns, int rows);

#endif
