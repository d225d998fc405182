// Readiness of an eventfd or a TAP on the calling thread's event loop.
#ifndef MICROVISOR_WATCH_H
#define MICROVISOR_WATCH_H

#include <napi.h>

namespace microvisor {

/** watch(eventfd | tap, callback): a watcher for the functions below; or -errno. */
Napi::Value Watch(const Napi::CallbackInfo &info);
Napi::Value WatchClose(const Napi::CallbackInfo &info);
Napi::Value WatchRef(const Napi::CallbackInfo &info);
Napi::Value WatchUnref(const Napi::CallbackInfo &info);
/** No calls until WatchResume: who has no room for a frame leaves it with the kernel. */
Napi::Value WatchPause(const Napi::CallbackInfo &info);
Napi::Value WatchResume(const Napi::CallbackInfo &info);

}  // namespace microvisor
#endif
