// The I/O engine's face to JavaScript.
#ifndef MICROVISOR_IO_BINDING_H
#define MICROVISOR_IO_BINDING_H

#include <napi.h>

namespace microvisor {

/** ioCreate(fd, eventfd, regions: Uint8Array[], words: Uint8Array, uring): { handle, submit(used) }, or -errno. */
Napi::Value IoCreate(const Napi::CallbackInfo &info);
/** ioClose(handle): waits for what has begun. Idempotent. */
Napi::Value IoClose(const Napi::CallbackInfo &info);
/** ioLock(fd, exclusive): 0 or -errno. */
Napi::Value IoLock(const Napi::CallbackInfo &info);
/** ioSize(fd): bytes, or -errno. */
Napi::Value IoSize(const Napi::CallbackInfo &info);

}  // namespace microvisor
#endif
