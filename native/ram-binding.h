// Guest RAM's face to JavaScript: files under it, and which pages are in use.
#ifndef MICROVISOR_RAM_BINDING_H
#define MICROVISOR_RAM_BINDING_H

#include <napi.h>

namespace microvisor {

/** ramMap(memory, offset, length, fd, position): 0 or -errno. */
Napi::Value RamMap(const Napi::CallbackInfo &info);
/** ramGuard(memory, eventfd): 0 or -errno. */
Napi::Value RamGuard(const Napi::CallbackInfo &info);
/** ramClear(memory): 0 or -errno. */
Napi::Value RamClear(const Napi::CallbackInfo &info);
/** ramUsed(memory, bitmap): 0 or -errno. */
Napi::Value RamUsed(const Napi::CallbackInfo &info);
/** ramFile(name): a file descriptor, or -errno. */
Napi::Value RamFile(const Napi::CallbackInfo &info);
/** ramSeal(fd): 0 or -errno. */
Napi::Value RamSeal(const Napi::CallbackInfo &info);

}  // namespace microvisor
#endif
