// The I/O engine's face to JavaScript: checks arguments, and keeps the memory that threads write alive until they are gone.
// Node-API: napi_wrap, napi_type_tag_object, environment cleanup hooks.
#include "io-binding.h"

#include <cerrno>
#include <vector>

#include "handles.h"
#include "io.h"

namespace microvisor {

namespace {

using Info = const Napi::CallbackInfo &;

constexpr napi_type_tag kIoTag = {0x6d6963726f766d69, 0x2f6f656e67696e65};

// Owners: the handle and the submit function. All on one thread.
struct Io {
  mv_io *io;  // nullptr once closed
  napi_env env;
  int references;
  std::vector<napi_ref> memory;

  void Close() {
    if (!io) return;
    mv_io_close(io);
    io = nullptr;
    for (napi_ref reference : memory) napi_delete_reference(env, reference);
    memory.clear();
    napi_remove_env_cleanup_hook(env, AtExit, this);
  }

  void Release() {
    if (--references > 0) return;
    Close();
    delete this;
  }

  // The process or the worker ends with transfers under way: their memory is about to go.
  static void AtExit(void *data) { static_cast<Io *>(data)->Close(); }
};

mv_io_region SharedBytes(Napi::Value value, const char *name) {
  napi_env env = value.Env();
  napi_typedarray_type type;
  size_t length = 0;
  void *data = nullptr;
  napi_value buffer;
  bool is_typed_array = false, is_array_buffer = false;
  Check(env, napi_is_typedarray(env, value, &is_typed_array));
  if (is_typed_array) {
    Check(env, napi_get_typedarray_info(env, value, &type, &length, &data, &buffer, nullptr));
    Check(env, napi_is_arraybuffer(env, buffer, &is_array_buffer));
    is_typed_array = type == napi_uint8_array;
  }
  // Other buffers can be detached, and then a thread would write into memory that is somebody else's.
  if (!is_typed_array || is_array_buffer)
    throw Napi::TypeError::New(env, std::string(name) + " must be a Uint8Array in shared memory");
  return {static_cast<uint8_t *>(data), length};
}

int Fd(Napi::Value value) {
  double number = value.IsNumber() ? value.As<Napi::Number>().DoubleValue() : -1;
  if (!(number >= 0 && number <= INT32_MAX) || number != static_cast<int>(number))
    throw Napi::RangeError::New(value.Env(), "the file descriptor must be an integer from 0");
  return static_cast<int>(number);
}

// As bare as KVM_RUN: one call a batch.
napi_value Submit(napi_env env, napi_callback_info info) {
  void *data;
  napi_value argument, result;
  size_t count = 1;
  uint32_t used = 0;
  napi_get_cb_info(env, info, &count, &argument, nullptr, &data);
  auto *io = static_cast<Io *>(data);
  if (!io->io) {
    napi_throw_error(env, "ERR_HANDLE_CLOSED", "the handle is closed");
    return nullptr;
  }
  if (napi_get_value_uint32(env, argument, &used) != napi_ok) used = UINT32_MAX;
  if (napi_create_int32(env, static_cast<int32_t>(mv_io_submit(io->io, used)), &result) != napi_ok) return nullptr;
  return result;
}

}  // namespace

Napi::Value IoCreate(Info info) {
  Napi::Env env = info.Env();
  int fd = Fd(info[0]);
  int eventfd = Fd(info[1]);
  if (!info[2].IsArray()) throw Napi::TypeError::New(env, "the regions must be an array");
  Napi::Array array = info[2].As<Napi::Array>();
  std::vector<Napi::Value> values;
  for (uint32_t i = 0; i < array.Length(); i++) values.push_back(array.Get(i));
  std::vector<mv_io_region> regions;
  for (Napi::Value value : values) regions.push_back(SharedBytes(value, "a region"));
  mv_io_region words = SharedBytes(info[3], "the words");
  if (reinterpret_cast<uintptr_t>(words.data) % sizeof(uint32_t))
    throw Napi::RangeError::New(env, "the words must be aligned to 4 bytes");
  values.push_back(info[3]);

  mv_io *created = mv_io_create(fd, eventfd, regions.data(), static_cast<unsigned>(regions.size()),
                                reinterpret_cast<mv_io_words *>(words.data), words.length, info[4].ToBoolean() ? 1 : 0);
  if (!created) return Napi::Number::New(env, -errno);
  auto *io = new Io{created, env, 1, {}};
  auto release = [](napi_env, void *data, void *) { static_cast<Io *>(data)->Release(); };
  napi_value object = nullptr, submit = nullptr;
  napi_status status = napi_add_env_cleanup_hook(env, Io::AtExit, io);
  for (size_t i = 0; status == napi_ok && i < values.size(); i++) {
    napi_ref reference = nullptr;
    status = napi_create_reference(env, values[i], 1, &reference);
    if (status == napi_ok) io->memory.push_back(reference);
  }
  if (status == napi_ok) status = napi_create_object(env, &object);
  if (status == napi_ok) status = napi_wrap(env, object, io, release, nullptr, nullptr);
  if (status != napi_ok) {
    io->Release();
    Check(env, status);
  }
  Check(env, napi_type_tag_object(env, object, &kIoTag));
  Check(env, napi_create_function(env, "submit", NAPI_AUTO_LENGTH, Submit, io, &submit));
  io->references++;
  status = napi_add_finalizer(env, submit, io, release, nullptr, nullptr);
  if (status != napi_ok) {
    io->Release();
    Check(env, status);
  }
  Napi::Object result = Napi::Object::New(env);
  result.Set("handle", Napi::Value(env, object));
  result.Set("submit", Napi::Value(env, submit));
  return result;
}

Napi::Value IoClose(Info info) {
  Napi::Env env = info.Env();
  bool tagged = false;
  void *data = nullptr;
  if (!info[0].IsObject() || napi_check_object_type_tag(env, info[0], &kIoTag, &tagged) != napi_ok || !tagged ||
      napi_unwrap(env, info[0], &data) != napi_ok)
    throw Napi::TypeError::New(env, "a handle of the I/O engine is needed");
  static_cast<Io *>(data)->Close();
  return env.Undefined();
}

Napi::Value IoLock(Info info) {
  return Napi::Number::New(info.Env(), mv_io_lock(Fd(info[0]), info[1].ToBoolean() ? 1 : 0));
}

Napi::Value IoSize(Info info) { return Napi::Number::New(info.Env(), static_cast<double>(mv_io_size(Fd(info[0])))); }

}  // namespace microvisor
