// The addon's face to JavaScript: checks arguments, calls the C functions, answers with a number, a handle or -errno.
// Node-API through node-addon-api. Wrong use throws; what the kernel refuses is returned as -errno.
#include <fcntl.h>
#include <napi.h>

#include <cerrno>
#include <cmath>
#include <string>
#include <vector>

#include "arguments.h"
#include "enter.h"
#include "eventfd.h"
#include "handles.h"
#include "host.h"
#include "io-binding.h"
#include "ioctl.h"
#include "ram-binding.h"
#include "runners.h"
#include "tap.h"
#include "vm.h"
#include "watch.h"

#include <linux/kvm.h>

namespace microvisor {

namespace {

// open(path): a handle for the system ioctls, or -errno
Napi::Value Open(Info info) {
  std::string path = Text(info, 0, "the path");
  // O_NONBLOCK: a FIFO in the place of the device must not hang the program.
  int fd = open(path.c_str(), O_RDWR | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  if (fd < 0) return Result(info, -errno);
  return Napi::Value(info.Env(), WrapFd(info.Env(), Kind::System, fd));
}

// ioctl(handle, number, argument?: integer | Uint8Array): what the kernel returned, or -errno
Napi::Value Ioctl(Info info) {
  int fd = UnwrapAnyFd(info[0]);
  unsigned long number = Unsigned32(info, 1, "the ioctl number");
  unsigned long argument = 0;
  const char *refusal;
  if (info[2].IsUndefined() || info[2].IsNumber()) {
    if (info[2].IsNumber()) argument = Integer(info, 2, "the ioctl's argument", kMaxSafeInteger);
    refusal = mv_ioctl_refuses_integer(number);
  } else {
    Bytes bytes = PrivateBytes(info[2], "the ioctl's buffer");
    argument = reinterpret_cast<uintptr_t>(bytes.data);
    refusal = mv_ioctl_refuses_buffer(number, bytes.data, bytes.length);
  }
  if (refusal) throw Napi::RangeError::New(info.Env(), std::string("ioctl: ") + refusal);
  return Result(info, mv_ioctl(fd, number, argument));
}

Napi::Value FdNumber(Info info) { return Result(info, UnwrapAnyFd(info[0])); }

Napi::Value Close(Info info) {
  CloseAny(info[0]);
  return info.Env().Undefined();
}

// V8 does not count shared memory, of which a machine that has ended keeps a megabyte and a reservation of 10 GiB for
// its RAM until the collector has taken it. So it is told a weight, with which it collects after a few machines.
constexpr int64_t kVmWeight = 16 << 20;

// createVm(system, type): a VM handle, or -errno
Napi::Value CreateVm(Info info) {
  FdHandle &system = UnwrapFd(info[0], Kind::System);
  long fd = mv_ioctl(system.fd, KVM_CREATE_VM, Unsigned32(info, 1, "the VM type"));
  if (fd < 0) return Result(info, fd);
  FdHandle *vm = nullptr;
  napi_value handle = WrapFd(info.Env(), Kind::Vm, static_cast<int>(fd), &vm);
  int64_t total;
  if (napi_adjust_external_memory(info.Env(), kVmWeight, &total) == napi_ok) vm->weight = kVmWeight;
  return Napi::Value(info.Env(), handle);
}

// adoptVm(fd): a handle of a duplicate, or -errno
Napi::Value AdoptVm(Info info) {
  long fd = mv_fd_adopt(static_cast<int>(Integer(info, 0, "the file descriptor", INT32_MAX)), "kvm-vm");
  if (fd < 0) return Result(info, fd);
  return Napi::Value(info.Env(), WrapFd(info.Env(), Kind::Vm, static_cast<int>(fd)));
}

// setMemory(vm, slot, flags, guestPhysAddr, memory): 0 or -errno
Napi::Value SetMemory(Info info) {
  Napi::Env env = info.Env();
  FdHandle &vm = UnwrapFd(info[0], Kind::Vm);
  uint32_t slot = Unsigned32(info, 1, "the slot");
  uint32_t flags = Unsigned32(info, 2, "the flags");
  uint64_t address = Integer(info, 3, "the guest physical address", kMaxSafeInteger);
  Bytes memory = BytesOf(info[4], "the memory");
  // Other buffers can be detached, and then their bytes go while the guest still has them.
  if (memory.length && !memory.shared) throw Napi::TypeError::New(env, "the memory must be shared memory");
  long result = mv_vm_set_memory(vm.fd, slot, flags, address, memory.data, memory.length);
  if (result < 0) return Result(info, result);
  napi_ref reference = nullptr;
  if (memory.length) {
    napi_status status = napi_create_reference(env, info[4], 1, &reference);
    if (status != napi_ok) {
      // A slot whose memory nobody keeps alive must not be.
      mv_vm_set_memory(vm.fd, slot, 0, 0, nullptr, 0);
      Check(env, status);
    }
  }
  auto old = vm.slots.find(slot);
  if (old != vm.slots.end()) {
    napi_delete_reference(env, old->second);
    vm.slots.erase(old);
  }
  if (reference) vm.slots[slot] = reference;
  return Result(info, 0);
}

// dirtyLog(vm, slot, bitmap): 0 or -errno
Napi::Value DirtyLog(Info info) {
  FdHandle &vm = UnwrapFd(info[0], Kind::Vm);
  Bytes bitmap = PrivateBytes(info[2], "the bitmap");
  if (bitmap.length == 0 || bitmap.length % sizeof(uint64_t))
    throw Napi::RangeError::New(info.Env(), "the bitmap's length must be a multiple of 8 bytes, not 0");
  return Result(info, mv_vm_dirty_log(vm.fd, Unsigned32(info, 1, "the slot"), bitmap.data, bitmap.length));
}

// setMsrFilter(vm, flags, ranges: { flags, base, nmsrs, bitmap }[]): 0 or -errno
Napi::Value SetMsrFilter(Info info) {
  Napi::Env env = info.Env();
  FdHandle &vm = UnwrapFd(info[0], Kind::Vm);
  uint32_t flags = Unsigned32(info, 1, "the filter's flags");
  if (!info[2].IsArray()) throw Napi::TypeError::New(env, "the ranges must be an array");
  Napi::Array array = info[2].As<Napi::Array>();
  if (array.Length() > KVM_MSR_FILTER_MAX_RANGES) throw Napi::RangeError::New(env, "an MSR filter has 16 ranges at most");
  // Everything JavaScript can run (getters) runs before the first pointer is taken, for it could detach a bitmap.
  struct Row {
    double flags, base, nmsrs;
    Napi::Value bitmap;
  };
  std::vector<Row> rows;
  for (uint32_t i = 0; i < array.Length() && i < KVM_MSR_FILTER_MAX_RANGES; i++) {
    Napi::Value item = array.Get(i);
    if (!item.IsObject()) throw Napi::TypeError::New(env, "a range must be an object");
    Napi::Object range = item.As<Napi::Object>();
    Row row{};
    for (auto [name, field] : {std::pair{"flags", &row.flags}, {"base", &row.base}, {"nmsrs", &row.nmsrs}}) {
      Napi::Value value = range.Get(name);
      *field = value.IsNumber() ? value.As<Napi::Number>().DoubleValue() : NAN;
      if (!(*field >= 0 && *field <= UINT32_MAX) || *field != std::floor(*field))
        throw Napi::RangeError::New(env, std::string("a range's ") + name + " must be an unsigned 32-bit integer");
    }
    row.bitmap = range.Get("bitmap");
    rows.push_back(row);
  }
  std::vector<mv_msr_range> ranges;
  for (const Row &row : rows) {
    Bytes bitmap = PrivateBytes(row.bitmap, "a range's bitmap");
    auto nmsrs = static_cast<uint32_t>(row.nmsrs);
    if (bitmap.length < (static_cast<uint64_t>(nmsrs) + 7) / 8)
      throw Napi::RangeError::New(env, "a range's bitmap is shorter than its nmsrs says");
    ranges.push_back({static_cast<uint32_t>(row.flags), static_cast<uint32_t>(row.base), nmsrs, bitmap.data});
  }
  return Result(info, mv_vm_set_msr_filter(vm.fd, flags, ranges.data(), ranges.size()));
}

void ReleaseVcpu(napi_env, void *data, void *hint) { mv_vcpu_release(static_cast<mv_vcpu *>(hint ? hint : data)); }

// A function with native data, which it holds until it is collected itself.
napi_value BoundFunction(napi_env env, const char *name, napi_callback callback, void *data, napi_finalize release) {
  napi_value function;
  napi_status status = napi_create_function(env, name, NAPI_AUTO_LENGTH, callback, data, &function);
  if (status == napi_ok) status = napi_add_finalizer(env, function, data, release, nullptr, nullptr);
  if (status != napi_ok) {
    release(env, data, nullptr);
    Check(env, status);
  }
  return function;
}

// createVcpu(vm, id): { handle, place, runBuffer, status }, or -errno
Napi::Value CreateVcpu(Info info) {
  Napi::Env env = info.Env();
  FdHandle &vm = UnwrapFd(info[0], Kind::Vm);
  mv_vcpu *vcpu = mv_vcpu_create(vm.fd, Unsigned32(info, 1, "the vCPU id"));
  if (vcpu == nullptr) return Result(info, -errno);
  struct Release {
    mv_vcpu *vcpu;
    ~Release() { mv_vcpu_release(vcpu); }
  } release{vcpu};
  Napi::Object result = Napi::Object::New(env);
  napi_value run = ExternalBuffer(env, vcpu, vcpu->run, vcpu->run_size, ReleaseVcpu);
  napi_value handle = WrapVcpu(env, vcpu, run);
  napi_value status = ExternalBuffer(env, vcpu, &vcpu->status, sizeof vcpu->status, ReleaseVcpu);
  result.Set("handle", Napi::Value(env, handle));
  result.Set("place", Napi::Number::New(env, mv_vcpu_place(vcpu)));
  result.Set("runBuffer", Napi::Value(env, run));
  result.Set("status", Napi::Value(env, status));
  return result;
}

// tsc(vcpu): cycles since the process's first vCPU was created
Napi::Value Tsc(Info info) { return Napi::Number::New(info.Env(), mv_vcpu_now(UnwrapVcpu(info[0]).vcpu)); }

// setTrace(vcpu, ring?: Uint8Array in shared memory): what enterTraced() writes; without it nothing. 0 or -errno
Napi::Value SetTrace(Info info) {
  VcpuHandle &vcpu = UnwrapVcpu(info[0]);
  Bytes ring{};
  if (!info[1].IsUndefined()) {
    ring = BytesOf(info[1], "the ring");
    if (ring.length == 0) return Result(info, -EINVAL);
  }
  // Other memory could be taken away.
  if (ring.data != nullptr && !ring.shared)
    throw Napi::TypeError::New(info.Env(), "the ring must lie in shared memory");
  return Result(info, vcpu.SetTrace(info.Env(), info[1], ring.data, ring.length));
}

// becomeRunner(vcpu): the token for kick(), or -errno
Napi::Value BecomeRunner(Info info) {
  mv_vcpu *vcpu = UnwrapVcpu(info[0]).vcpu;
  if (vcpu->token) return Result(info, static_cast<long>(vcpu->token));
  int64_t token = mv_runner_add(vcpu->run);
  if (token > 0) vcpu->token = static_cast<uint64_t>(token);
  return Result(info, token);
}

Napi::Value Kick(Info info) {
  return Napi::Boolean::New(info.Env(), mv_runner_kick(Integer(info, 0, "the token", kMaxSafeInteger)) != 0);
}

// setSignalMask(vcpu, set?: Uint8Array of 8 bytes): 0 or -errno
Napi::Value SetSignalMask(Info info) {
  int fd = UnwrapVcpu(info[0]).vcpu->fd;
  if (info[1].IsUndefined()) return Result(info, mv_vcpu_set_signal_mask(fd, nullptr));
  Bytes set = PrivateBytes(info[1], "the signal set");
  if (set.length != 8) throw Napi::RangeError::New(info.Env(), "the signal set must be 8 bytes");
  return Result(info, mv_vcpu_set_signal_mask(fd, set.data));
}

// Adds 1 to the eventfd it was made for: a bare Node-API function, for it runs per interrupt.
napi_value SignalOnce(napi_env env, napi_callback_info info) {
  void *data;
  napi_get_cb_info(env, info, nullptr, nullptr, nullptr, &data);
  auto *eventfd = static_cast<FdHandle *>(data);
  if (eventfd->fd < 0) napi_throw_error(env, "ERR_HANDLE_CLOSED", "the handle is closed");
  else mv_eventfd_signal(eventfd->fd, 1);
  return nullptr;
}

Napi::Value WrapEventFd(Info info, long fd) {
  Napi::Env env = info.Env();
  if (fd < 0) return Result(info, fd);
  FdHandle *eventfd;
  napi_value handle = WrapFd(env, Kind::EventFd, static_cast<int>(fd), &eventfd);
  eventfd->references++;
  napi_value signal = BoundFunction(env, "signal", SignalOnce, eventfd, [](napi_env env, void *data, void *) {
    static_cast<FdHandle *>(data)->Release(env);
  });
  Napi::Object result = Napi::Object::New(env);
  result.Set("handle", Napi::Value(env, handle));
  result.Set("signal", Napi::Value(env, signal));
  return result;
}

// createEventFd(initial), adoptEventFd(fd): { handle, signal }, or -errno
Napi::Value CreateEventFd(Info info) { return WrapEventFd(info, mv_eventfd_create(Unsigned32(info, 0, "the counter"))); }

Napi::Value AdoptEventFd(Info info) {
  return WrapEventFd(info, mv_fd_adopt(static_cast<int>(Integer(info, 0, "the file descriptor", INT32_MAX)), "[eventfd]"));
}

// addToEventFd(eventfd, count: bigint): 0 or -errno
Napi::Value AddToEventFd(Info info) {
  int fd = UnwrapFd(info[0], Kind::EventFd).fd;
  bool lossless = false;
  uint64_t count = info[1].IsBigInt() ? info[1].As<Napi::BigInt>().Uint64Value(&lossless) : 0;
  if (!lossless || count == UINT64_MAX)
    throw Napi::RangeError::New(info.Env(), "the count must be a bigint from 0 to 2^64 - 2");
  return Result(info, mv_eventfd_signal(fd, count));
}

// getTscOffset(vcpu): a bigint, or -errno
Napi::Value GetTscOffset(Info info) {
  uint64_t offset;
  long result = mv_vcpu_get_tsc_offset(UnwrapVcpu(info[0]).vcpu->fd, &offset);
  if (result < 0) return Result(info, result);
  return Napi::BigInt::New(info.Env(), offset);
}

// setTscOffset(vcpu, offset: bigint): 0 or -errno
Napi::Value SetTscOffset(Info info) {
  int fd = UnwrapVcpu(info[0]).vcpu->fd;
  bool lossless = false;
  uint64_t offset = info[1].IsBigInt() ? info[1].As<Napi::BigInt>().Uint64Value(&lossless) : 0;
  if (!lossless) throw Napi::RangeError::New(info.Env(), "the offset must be an unsigned 64-bit bigint");
  return Result(info, mv_vcpu_set_tsc_offset(fd, offset));
}

// readEventFd(eventfd): the counter, undefined when it is 0, or -errno
Napi::Value ReadEventFd(Info info) {
  uint64_t count;
  long result = mv_eventfd_read(UnwrapFd(info[0], Kind::EventFd).fd, &count);
  if (result == -EAGAIN) return info.Env().Undefined();
  if (result < 0) return Result(info, result);
  return Napi::BigInt::New(info.Env(), count);
}

// adoptTap(fd): a handle of a duplicate, or -errno
Napi::Value AdoptTap(Info info) {
  long fd = mv_tap_adopt(static_cast<int>(Integer(info, 0, "the file descriptor", INT32_MAX)));
  if (fd < 0) return Result(info, fd);
  return Napi::Value(info.Env(), WrapFd(info.Env(), Kind::Tap, static_cast<int>(fd)));
}

// readTap(tap, buffer), writeTap(tap, frame): bytes, or -errno
Napi::Value ReadTap(Info info) {
  int fd = UnwrapFd(info[0], Kind::Tap).fd;
  Bytes buffer = BytesOf(info[1], "the buffer");
  return Result(info, mv_tap_read(fd, buffer.data, buffer.length));
}

Napi::Value WriteTap(Info info) {
  int fd = UnwrapFd(info[0], Kind::Tap).fd;
  Bytes frame = BytesOf(info[1], "the frame");
  return Result(info, mv_tap_write(fd, frame.data, frame.length));
}

// advise(memory, advice): 0 or -errno
Napi::Value Advise(Info info) {
  Bytes memory = BytesOf(info[0], "the memory");
  return Result(info, mv_advise(memory.data, memory.length, Text(info, 1, "the advice").c_str()));
}

Napi::Value ThreadCpuNanoseconds(Info info) { return Napi::BigInt::New(info.Env(), mv_thread_cpu_nanoseconds()); }

Napi::Value ThreadId(Info info) { return Result(info, mv_thread_id()); }

// setTimeSlice(nanoseconds): 0 or -errno
Napi::Value SetTimeSlice(Info info) {
  return Result(info, mv_set_time_slice(Integer(info, 0, "the slice", kMaxSafeInteger)));
}

Napi::Object Init(Napi::Env env, Napi::Object exports) {
  const struct {
    const char *name;
    Napi::Value (*function)(Info);
  } functions[] = {
      {"open", Open},
      {"ioctl", Ioctl},
      {"fdNumber", FdNumber},
      {"close", Close},
      {"createVm", CreateVm},
      {"adoptVm", AdoptVm},
      {"setMemory", SetMemory},
      {"dirtyLog", DirtyLog},
      {"setMsrFilter", SetMsrFilter},
      {"createVcpu", CreateVcpu},
      {"tsc", Tsc},
      {"setTrace", SetTrace},
      {"becomeRunner", BecomeRunner},
      {"kick", Kick},
      {"setSignalMask", SetSignalMask},
      {"createEventFd", CreateEventFd},
      {"adoptEventFd", AdoptEventFd},
      {"addToEventFd", AddToEventFd},
      {"readEventFd", ReadEventFd},
      {"watch", Watch},
      {"watchClose", WatchClose},
      {"watchRef", WatchRef},
      {"watchUnref", WatchUnref},
      {"watchPause", WatchPause},
      {"watchResume", WatchResume},
      {"adoptTap", AdoptTap},
      {"readTap", ReadTap},
      {"writeTap", WriteTap},
      {"ioCreate", IoCreate},
      {"ioClose", IoClose},
      {"ioLock", IoLock},
      {"ioSize", IoSize},
      {"getTscOffset", GetTscOffset},
      {"setTscOffset", SetTscOffset},
      {"ramMap", RamMap},
      {"ramGuard", RamGuard},
      {"ramClear", RamClear},
      {"ramUsed", RamUsed},
      {"ramFile", RamFile},
      {"ramSeal", RamSeal},
      {"advise", Advise},
      {"threadCpuNanoseconds", ThreadCpuNanoseconds},
      {"threadId", ThreadId},
      {"setTimeSlice", SetTimeSlice},
  };
  for (const auto &row : functions) exports.Set(row.name, Napi::Function::New(env, row.function, row.name));
  exports.Set("enter", Napi::Value(env, EnterFunction(env)));
  exports.Set("enterTraced", Napi::Value(env, EnterTracedFunction(env)));
  return exports;
}

NODE_API_MODULE(microvisor, Init)

}  // namespace

}  // namespace microvisor
