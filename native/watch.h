// Readiness of an eventfd on the calling thread's event loop.
#ifndef MICROVISOR_WATCH_H
#define MICROVISOR_WATCH_H

#include <napi.h>

namespace microvisor {

/** watch(eventfd, callback): a watcher for watchClose, watchRef and watchUnref; or -errno. */
Napi::Value Watch(const Napi::CallbackInfo &info);
Napi::Value WatchClose(const Napi::CallbackInfo &info);
Napi::Value WatchRef(const Napi::CallbackInfo &info);
Napi::Value WatchUnref(const Napi::CallbackInfo &info);

}  // namespace microvisor
#endif
