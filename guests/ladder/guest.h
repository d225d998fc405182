// What a guest in C has instead of a library: ports, a text output, and an end. 32-bit protected mode, flat segments.
// A guest starts at `start`, on the stack that the VMM gave it, and never returns.
#ifndef GUEST_H
#define GUEST_H

#include <stdint.h>

#define COM1 0x3f8
#define EXIT_PORT 0xf4
// Marks the function that is put first in the binary: the VMM enters there.
#define ENTRY __attribute__((section(".text.start"), noreturn, used))

static inline void outb(uint16_t port, uint8_t value) {
  __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port) : "memory");
}

static inline void print(const char *text) {
  while (*text) outb(COM1, (uint8_t)*text++);
}

static inline void print_hex(uint32_t value, int digits) {
  while (digits-- > 0) outb(COM1, (uint8_t) "0123456789abcdef"[(value >> (4 * digits)) & 15]);
}

// Ends the machine: `status` is the value of its outcome, 0 for a good end.
__attribute__((noreturn)) static inline void finish(uint8_t status) {
  outb(EXIT_PORT, status);
  for (;;) __asm__ volatile("cli; hlt");
}

// The compiler keeps its order of memory accesses across this. The processor keeps that of stores, and of loads (Intel
// SDM vol. 3A §8.2.2), which is all that a driver needs that does not use EVENT_IDX.
static inline void barrier(void) { __asm__ volatile("" : : : "memory"); }

#endif
