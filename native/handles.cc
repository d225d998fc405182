// Native objects behind JavaScript handles: typed, closed once, closed at the latest by the collector or the thread's end.
// Node-API: napi_wrap, napi_type_tag_object.
#include "handles.h"

#include <unistd.h>

#include "vm.h"

namespace microvisor {

namespace {

constexpr napi_type_tag kFdTag = {0x6d6963726f766d66, 0x2f64657363726970};
constexpr napi_type_tag kVcpuTag = {0x6d6963726f766d76, 0x2f76637075766370};

bool HasTag(Napi::Value value, const napi_type_tag &tag) {
  bool result = false;
  return value.IsObject() && napi_check_object_type_tag(value.Env(), value, &tag, &result) == napi_ok && result;
}

template <typename Handle>
Handle *Unwrap(Napi::Value value) {
  void *data = nullptr;
  Check(value.Env(), napi_unwrap(value.Env(), value, &data));
  return static_cast<Handle *>(data);
}

template <typename Handle>
napi_value Wrap(napi_env env, Handle *handle, const napi_type_tag &tag, napi_finalize finalize) {
  napi_value object;
  napi_status status = napi_create_object(env, &object);
  if (status == napi_ok) status = napi_wrap(env, object, handle, finalize, nullptr, nullptr);
  if (status != napi_ok) {
    finalize(env, handle, nullptr);
    Check(env, status);
  }
  Check(env, napi_type_tag_object(env, object, &tag));
  return object;
}

Napi::Error Closed(napi_env env) {
  Napi::Error error = Napi::Error::New(env, "the handle is closed");
  error.Set("code", Napi::String::New(env, "ERR_HANDLE_CLOSED"));
  return error;
}

}  // namespace

void Check(napi_env env, napi_status status) {
  if (status != napi_ok) throw Napi::Error::New(env);
}

void FdHandle::Close(napi_env env) {
  if (fd < 0) return;
  // A vCPU of another thread may still hold the VM: its guest must lose this memory before the memory is let go.
  for (const auto &[slot, memory] : slots) {
    mv_vm_set_memory(fd, slot, 0, 0, nullptr, 0);
    napi_delete_reference(env, memory);
  }
  slots.clear();
  close(fd);
  fd = -1;
}

void FdHandle::Release(napi_env env) {
  if (--references > 0) return;
  Close(env);
  delete this;
}

long VcpuHandle::SetTrace(napi_env env, napi_value ring, void *data, size_t length) {
  napi_ref kept = nullptr;
  if (data != nullptr) Check(env, napi_create_reference(env, ring, 1, &kept));
  long result = mv_vcpu_set_trace(vcpu, data, length);
  // Nobody writes the ring before it any more.
  if (trace != nullptr) napi_delete_reference(env, trace);
  trace = kept;
  return result;
}

void VcpuHandle::Close(napi_env env) {
  mv_vcpu_close(vcpu);
  SetTrace(env, nullptr, nullptr, 0);
  if (run_buffer == nullptr) return;
  napi_value buffer = nullptr;
  bool detached = true;
  // Unmapped here only when nothing can see the bytes any more: the buffer was whole until now and is detached now.
  // If somebody transferred it away, the bytes stay until its finalizer.
  if (napi_get_reference_value(env, run_buffer, &buffer) == napi_ok && buffer != nullptr &&
      napi_is_detached_arraybuffer(env, buffer, &detached) == napi_ok && !detached &&
      napi_detach_arraybuffer(env, buffer) == napi_ok)
    mv_vcpu_unmap(vcpu);
  napi_delete_reference(env, run_buffer);
  run_buffer = nullptr;
}

napi_value WrapFd(napi_env env, Kind kind, int fd, FdHandle **created) {
  auto *handle = new FdHandle{kind, fd, 1, {}, 0};
  if (created) *created = handle;
  return Wrap(env, handle, kFdTag, [](napi_env env, void *data, void *) {
    auto *handle = static_cast<FdHandle *>(data);
    int64_t total;
    napi_adjust_external_memory(env, -handle->weight, &total);
    // Also when a function still refers to it: the object that a person would close is gone.
    handle->Close(env);
    handle->Release(env);
  });
}

napi_value WrapVcpu(napi_env env, mv_vcpu *vcpu, napi_value run_buffer) {
  auto *handle = new VcpuHandle{vcpu, nullptr};
  vcpu->references++;
  napi_status status = napi_create_reference(env, run_buffer, 1, &handle->run_buffer);
  napi_value object = Wrap(env, handle, kVcpuTag, [](napi_env env, void *data, void *) {
    auto *handle = static_cast<VcpuHandle *>(data);
    handle->Close(env);
    mv_vcpu_release(handle->vcpu);
    delete handle;
  });
  Check(env, status);
  return object;
}

FdHandle &UnwrapFd(Napi::Value value, Kind kind) {
  static const char *const kWanted[] = {"a handle of /dev/kvm is needed", "a VM handle is needed",
                                        "an eventfd handle is needed", "a TAP handle is needed"};
  FdHandle *handle = HasTag(value, kFdTag) ? Unwrap<FdHandle>(value) : nullptr;
  if (handle == nullptr || handle->kind != kind)
    throw Napi::TypeError::New(value.Env(), kWanted[static_cast<int>(kind)]);
  if (handle->fd < 0) throw Closed(value.Env());
  return *handle;
}

FdHandle &UnwrapReadable(Napi::Value value) {
  bool isTap = HasTag(value, kFdTag) && Unwrap<FdHandle>(value)->kind == Kind::Tap;
  return UnwrapFd(value, isTap ? Kind::Tap : Kind::EventFd);
}

VcpuHandle &UnwrapVcpu(Napi::Value value) {
  if (!HasTag(value, kVcpuTag)) throw Napi::TypeError::New(value.Env(), "a vCPU handle is needed");
  VcpuHandle *handle = Unwrap<VcpuHandle>(value);
  if (handle->vcpu->fd < 0) throw Closed(value.Env());
  return *handle;
}

int UnwrapAnyFd(Napi::Value value) {
  if (HasTag(value, kVcpuTag)) return UnwrapVcpu(value).vcpu->fd;
  if (!HasTag(value, kFdTag)) throw Napi::TypeError::New(value.Env(), "a handle is needed");
  return UnwrapFd(value, Unwrap<FdHandle>(value)->kind).fd;
}

void CloseAny(Napi::Value value) {
  if (HasTag(value, kVcpuTag)) return UnwrapVcpu(value).Close(value.Env());
  if (!HasTag(value, kFdTag)) throw Napi::TypeError::New(value.Env(), "a handle is needed");
  UnwrapFd(value, Unwrap<FdHandle>(value)->kind).Close(value.Env());
}

napi_value ExternalBuffer(napi_env env, mv_vcpu *vcpu, void *data, size_t length, napi_finalize finalize) {
  napi_value buffer;
  vcpu->references++;
  napi_status status = napi_create_external_arraybuffer(env, data, length, finalize, vcpu, &buffer);
  if (status != napi_ok) {
    mv_vcpu_release(vcpu);
    Check(env, status);
  }
  return buffer;
}

}  // namespace microvisor
