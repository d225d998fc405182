// Packets of a TAP interface: one frame a call, never waiting.
#ifndef MICROVISOR_TAP_H
#define MICROVISOR_TAP_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/** A duplicate of `fd`, which must be a TUN/TAP descriptor that is attached to an interface; or -errno. */
long mv_tap_adopt(int fd);

/** Bytes of the frame that was read, or -errno: EAGAIN when there is none, EBADFD when the interface is gone. */
long mv_tap_read(int fd, uint8_t *data, size_t length);

/** `length`, or -errno: EIO when the interface is down, EBADFD when it is gone. */
long mv_tap_write(int fd, const uint8_t *data, size_t length);

#ifdef __cplusplus
}
#endif
#endif
