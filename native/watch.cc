// Readiness of an eventfd or a TAP on the calling thread's event loop: drains the counter, then calls JavaScript.
// libuv: uv_poll_t; Node-API: asynchronous cleanup hooks, napi_make_callback.
#include "watch.h"

#include <fcntl.h>
#include <unistd.h>
#include <uv.h>

#include <algorithm>
#include <cerrno>

#include "eventfd.h"
#include "handles.h"

namespace microvisor {

namespace {

constexpr napi_type_tag kWatchTag = {0x6d6963726f766d77, 0x2f77617463687761};

// Two owners: the JavaScript handle, and the loop until it has closed the poll. All on one thread.
struct Watcher {
  uv_poll_t poll;
  int fd;       // a duplicate of its own: closing the eventfd while the loop polls it must not poll its successor
  bool drains;  // an eventfd; the frames of a TAP are the callback's to read
  int references;
  bool closing;
  napi_env env;
  napi_ref callback;
  napi_async_context context;
  napi_async_cleanup_hook_handle hook;

  void Release() {
    if (--references == 0) delete this;
  }

  void Close() {
    if (closing) return;
    closing = true;
    napi_delete_reference(env, callback);
    napi_async_destroy(env, context);
    uv_close(reinterpret_cast<uv_handle_t *>(&poll), [](uv_handle_t *handle) {
      auto *watcher = static_cast<Watcher *>(handle->data);
      // The thread's end waits for this.
      napi_remove_async_cleanup_hook(watcher->hook);
      watcher->Release();
    });
    // At once, which uv_close allows: a TAP is free for its next user only when no descriptor is left.
    close(fd);
  }
};

// With `status` below 0 (an interface that is gone) libuv has stopped the poll already: nothing spins.
void OnReadable(uv_poll_t *poll, int status, int) {
  auto *watcher = static_cast<Watcher *>(poll->data);
  napi_env env = watcher->env;
  uint64_t count;
  // Another reader was faster: nothing to report.
  if (watcher->drains && mv_eventfd_read(watcher->fd, &count) < 0) return;
  Napi::HandleScope scope(env);
  napi_value receiver, callback, result;
  if (napi_get_reference_value(env, watcher->callback, &callback) != napi_ok || callback == nullptr ||
      napi_get_undefined(env, &receiver) != napi_ok)
    return;
  // What the counter had, or how a TAP is.
  int32_t said = watcher->drains ? static_cast<int32_t>(std::min<uint64_t>(count, INT32_MAX)) : status;
  napi_value global, argument;
  if (napi_get_global(env, &global) != napi_ok || napi_create_int32(env, said, &argument) != napi_ok) return;
  if (napi_make_callback(env, watcher->context, global, callback, 1, &argument, &result) != napi_pending_exception)
    return;
  // As an exception in any other callback of the event loop: uncaughtException.
  napi_value exception;
  if (napi_get_and_clear_last_exception(env, &exception) == napi_ok) napi_fatal_exception(env, exception);
}

Watcher &UnwrapWatcher(Napi::Value value) {
  bool tagged = false;
  void *data = nullptr;
  if (!value.IsObject() || napi_check_object_type_tag(value.Env(), value, &kWatchTag, &tagged) != napi_ok || !tagged ||
      napi_unwrap(value.Env(), value, &data) != napi_ok)
    throw Napi::TypeError::New(value.Env(), "a watcher is needed");
  return *static_cast<Watcher *>(data);
}

}  // namespace

Napi::Value Watch(const Napi::CallbackInfo &info) {
  Napi::Env env = info.Env();
  FdHandle &watched = UnwrapReadable(info[0]);
  if (!info[1].IsFunction()) throw Napi::TypeError::New(env, "the callback must be a function");
  uv_loop_t *loop = nullptr;
  Check(env, napi_get_uv_event_loop(env, &loop));
  int fd = fcntl(watched.fd, F_DUPFD_CLOEXEC, 0);
  if (fd < 0) return Napi::Number::New(env, -errno);

  auto *watcher = new Watcher{};
  int error = uv_poll_init(loop, &watcher->poll, fd);
  if (error < 0) {
    close(fd);
    delete watcher;
    return Napi::Number::New(env, error);
  }
  watcher->fd = fd;
  watcher->drains = watched.kind == Kind::EventFd;
  watcher->references = 2;
  watcher->env = env;
  watcher->poll.data = watcher;
  // From here on the loop owns it, so whatever fails goes through Close.
  napi_status status = napi_add_async_cleanup_hook(
      env, [](napi_async_cleanup_hook_handle, void *data) { static_cast<Watcher *>(data)->Close(); }, watcher,
      &watcher->hook);
  if (status == napi_ok) status = napi_create_reference(env, info[1], 1, &watcher->callback);
  if (status == napi_ok)
    status = napi_async_init(env, nullptr, Napi::String::New(env, "microvisor:watch"), &watcher->context);
  napi_value object = nullptr;
  if (status == napi_ok) status = napi_create_object(env, &object);
  if (status == napi_ok)
    status = napi_wrap(
        env, object, watcher, [](napi_env, void *data, void *) { static_cast<Watcher *>(data)->Release(); }, nullptr,
        nullptr);
  if (status == napi_ok) status = napi_type_tag_object(env, object, &kWatchTag);
  if (status == napi_ok) error = uv_poll_start(&watcher->poll, UV_READABLE, OnReadable);
  if (status != napi_ok || error < 0) {
    watcher->Close();
    Check(env, status);
    return Napi::Number::New(env, error);
  }
  return Napi::Value(env, object);
}

Napi::Value WatchClose(const Napi::CallbackInfo &info) {
  UnwrapWatcher(info[0]).Close();
  return info.Env().Undefined();
}

Napi::Value WatchRef(const Napi::CallbackInfo &info) {
  Watcher &watcher = UnwrapWatcher(info[0]);
  if (!watcher.closing) uv_ref(reinterpret_cast<uv_handle_t *>(&watcher.poll));
  return info.Env().Undefined();
}

Napi::Value WatchUnref(const Napi::CallbackInfo &info) {
  Watcher &watcher = UnwrapWatcher(info[0]);
  if (!watcher.closing) uv_unref(reinterpret_cast<uv_handle_t *>(&watcher.poll));
  return info.Env().Undefined();
}

Napi::Value WatchPause(const Napi::CallbackInfo &info) {
  Watcher &watcher = UnwrapWatcher(info[0]);
  if (!watcher.closing) uv_poll_stop(&watcher.poll);
  return info.Env().Undefined();
}

Napi::Value WatchResume(const Napi::CallbackInfo &info) {
  Watcher &watcher = UnwrapWatcher(info[0]);
  if (!watcher.closing) uv_poll_start(&watcher.poll, UV_READABLE, OnReadable);
  return info.Env().Undefined();
}

}  // namespace microvisor
