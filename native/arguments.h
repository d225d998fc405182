// Arguments of the addon's functions, checked: wrong use throws.
// Node-API through node-addon-api.
#ifndef MICROVISOR_ARGUMENTS_H
#define MICROVISOR_ARGUMENTS_H

#include <napi.h>

#include <cmath>
#include <cstdint>
#include <string>

#include "handles.h"

namespace microvisor {

using Info = const Napi::CallbackInfo &;

constexpr double kMaxSafeInteger = 9007199254740991.0;

// An integer of 0 to `max`. Strings, fractions, NaN, negatives and BigInts throw.
inline uint64_t Integer(Info info, size_t index, const char *name, double max) {
  Napi::Value value = info[index];
  double number = value.IsNumber() ? value.As<Napi::Number>().DoubleValue() : NAN;
  if (!(number >= 0 && number <= max) || number != std::floor(number))
    throw Napi::RangeError::New(info.Env(), std::string(name) + " must be an integer from 0 to " +
                                                Napi::Number::New(info.Env(), max).ToString().Utf8Value());
  return static_cast<uint64_t>(number);
}

inline uint32_t Unsigned32(Info info, size_t index, const char *name) {
  return static_cast<uint32_t>(Integer(info, index, name, UINT32_MAX));
}

inline std::string Text(Info info, size_t index, const char *name) {
  std::string text = info[index].IsString() ? info[index].As<Napi::String>().Utf8Value() : "";
  if (text.empty() || text.find('\0') != std::string::npos)
    throw Napi::TypeError::New(info.Env(), std::string(name) + " must be a string, not empty, without NUL");
  return text;
}

struct Bytes {
  uint8_t *data;
  size_t length;
  bool shared;
};

inline Bytes BytesOf(Napi::Value value, const char *name) {
  napi_env env = value.Env();
  napi_typedarray_type type;
  Bytes bytes{};
  void *data = nullptr;
  napi_value buffer;
  bool is_typed_array = false, is_array_buffer = false;
  Check(env, napi_is_typedarray(env, value, &is_typed_array));
  if (is_typed_array) {
    Check(env, napi_get_typedarray_info(env, value, &type, &bytes.length, &data, &buffer, nullptr));
    is_typed_array = type == napi_uint8_array;
  }
  if (!is_typed_array) throw Napi::TypeError::New(env, std::string(name) + " must be a Uint8Array");
  // A SharedArrayBuffer is no ArrayBuffer to Node-API.
  Check(env, napi_is_arraybuffer(env, buffer, &is_array_buffer));
  bytes.data = static_cast<uint8_t *>(data);
  bytes.shared = !is_array_buffer;
  return bytes;
}

inline Bytes PrivateBytes(Napi::Value value, const char *name) {
  Bytes bytes = BytesOf(value, name);
  // Another thread could change a checked count before the kernel reads it.
  if (bytes.shared) throw Napi::TypeError::New(value.Env(), std::string(name) + " must not lie in shared memory");
  return bytes;
}

inline Napi::Value Result(Info info, long result) { return Napi::Number::New(info.Env(), static_cast<double>(result)); }

}  // namespace microvisor
#endif
