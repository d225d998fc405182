/*
 * The exec protocol: how the host runs one command, or a shell on the console, in the guest over a raw serial line.
 * Our own protocol; its host side is src/machine/exec-protocol.ts, and both files carry the same numbers.
 *
 * A frame is: u8 type, u16 little-endian length, payload of at most EXEC_MAX_PAYLOAD bytes.
 *
 *   guest                                         host
 *     READY magic, version, credit  ------------>        the line is raw now, the host may send
 *     <------------  SEED                                the guest comes from a snapshot, at any time
 *     <------------  CLOCK                               the time, before what is to run and after a snapshot
 *     <------------  ARGS… ENV… CWD…  START              what to run
 *     <------------  SHELL                               or: a shell on the console, with no more frames of its own
 *     <------------  STDIN…  STDIN_EOF   SIGNAL          while it runs
 *     STDOUT…  STDERR…  CREDIT…     ------------>
 *     ERROR (only when it could not run)  ------>
 *     EXIT                          ------------>        the last frame; the guest powers off
 *
 * Credit: a tty drops what overflows it, so the payload bytes of SEED, CLOCK, SHELL, ARGS, ENV, CWD and STDIN frames never exceed
 * the credit that READY and the CREDIT frames have granted in sum. Other frames of the host have payloads of at most
 * one byte and are free. The host puts as much as it has into each STDIN frame, so that headers stay few.
 */
#ifndef MICROVISOR_EXEC_PROTOCOL_H
#define MICROVISOR_EXEC_PROTOCOL_H

#define EXEC_MAGIC "MVX"
#define EXEC_VERSION 3
#define EXEC_HEADER 3
#define EXEC_MAX_PAYLOAD 4096
/* Bytes of the argument block and of the environment block, each; the directory has EXEC_MAX_PAYLOAD. */
#define EXEC_MAX_BLOCK 131072
/* Credit that READY grants, and the most that is ever outstanding. */
#define EXEC_WINDOW 8192
/* Bytes of a SEED frame. */
#define EXEC_SEED_SIZE 32
/* Bytes of a CLOCK and of a SHELL frame. */
#define EXEC_CLOCK_SIZE 8
#define EXEC_SHELL_SIZE 4

enum exec_frame {
  /* guest to host */
  EXEC_READY = 0x01,  /* "MVX", u8 version, u32 credit */
  EXEC_STDOUT = 0x02, /* bytes */
  EXEC_STDERR = 0x03, /* bytes */
  EXEC_CREDIT = 0x04, /* u32: so many more payload bytes may be sent */
  EXEC_EXIT = 0x05,   /* u8 kind (enum exec_exit), u8 status or signal */
  EXEC_ERROR = 0x06,  /* text: why the command could not be run; EXIT with 126 or 127 follows */

  /* host to guest */
  EXEC_ARGS = 0x81,      /* bytes of the argument block: NUL-terminated words */
  EXEC_ENV = 0x82,       /* bytes of the environment block: NUL-terminated NAME=value, added to the guest's own */
  EXEC_CWD = 0x83,       /* bytes of the working directory, without NUL */
  EXEC_START = 0x84,     /* empty: run it */
  EXEC_STDIN = 0x85,     /* bytes */
  EXEC_STDIN_EOF = 0x86, /* empty */
  EXEC_SIGNAL = 0x87,    /* u8: a signal for the command's process group */
  EXEC_SEED = 0x88,      /* EXEC_SEED_SIZE random bytes, from which the kernel's generator starts anew */
  EXEC_CLOCK = 0x89,     /* u64: nanoseconds since 1970, UTC */
  EXEC_SHELL = 0x8a,     /* u16 columns, u16 rows of its terminal; 0 and 0 when nobody knows */
};

enum exec_exit {
  EXEC_EXITED = 0,
  EXEC_SIGNALLED = 1,
};

#endif
