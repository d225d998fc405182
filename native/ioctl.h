// KVM ioctls by number, checked so that the kernel stays inside the buffer it is given.
// KVM API chapter 4. Every function here returns what the kernel answered, or -errno.
#ifndef MICROVISOR_IOCTL_H
#define MICROVISOR_IOCTL_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/** Repeats the call while a signal interrupts it; only KVM_RUN wants to see EINTR, and it does not come here. */
long mv_ioctl(int fd, unsigned long number, unsigned long argument);

/** Why `number` may not be called with an integer argument; NULL when it may. */
const char *mv_ioctl_refuses_integer(unsigned long number);

/** Why `number` may not be called with this buffer; NULL when it may. */
const char *mv_ioctl_refuses_buffer(unsigned long number, const void *buffer, size_t length);

#ifdef __cplusplus
}
#endif
#endif
