// Native objects behind JavaScript handles: typed, closed once, closed at the latest by the collector or the thread's end.
// Node-API: napi_wrap, napi_type_tag_object.
#ifndef MICROVISOR_HANDLES_H
#define MICROVISOR_HANDLES_H

#include <napi.h>

#include <cstdint>
#include <map>

#include "vcpu.h"

namespace microvisor {

/** What a file descriptor is; each handle type has a tag of its own, so a foreign object is never unwrapped. */
enum class Kind { System, Vm, EventFd, Tap };

/** An owned file descriptor. A VM also keeps the memory of its slots alive. */
struct FdHandle {
  Kind kind;
  int fd;              // -1 once closed
  int references = 1;  // the handle, and for an eventfd the function that signals it
  std::map<uint32_t, napi_ref> slots;
  int64_t weight = 0;  // bytes that V8 believes to go with the object

  void Close(napi_env env);
  void Release(napi_env env);
};

struct VcpuHandle {
  mv_vcpu *vcpu;
  napi_ref run_buffer;
  napi_ref trace = nullptr;  // the ring, while exits are written there

  void Close(napi_env env);
  long SetTrace(napi_env env, napi_value ring, void *data, size_t length);
};

/** The JavaScript handle of a new descriptor. */
napi_value WrapFd(napi_env env, Kind kind, int fd, FdHandle **created = nullptr);
napi_value WrapVcpu(napi_env env, mv_vcpu *vcpu, napi_value run_buffer);

/** The descriptor behind a value. Throws a TypeError when it is none of this kind, an Error when it is closed. */
FdHandle &UnwrapFd(Napi::Value value, Kind kind);
VcpuHandle &UnwrapVcpu(Napi::Value value);
/** A descriptor whose readiness the event loop can watch: an eventfd or a TAP. */
FdHandle &UnwrapReadable(Napi::Value value);

/** Any of them, as a file descriptor. */
int UnwrapAnyFd(Napi::Value value);
/** Closes any of them. */
void CloseAny(Napi::Value value);

/** An external ArrayBuffer over `data`; holds a reference to the vCPU. */
napi_value ExternalBuffer(napi_env env, mv_vcpu *vcpu, void *data, size_t length, napi_finalize finalize);

/** Throws the pending JavaScript exception, or the last Node-API error. */
void Check(napi_env env, napi_status status);

}  // namespace microvisor
#endif
