// KVM_RUN as a JavaScript function: the one that is called for each exit, and the only one that goes past Node-API.
// Node-API brackets a call with scopes and checks that touch thirty cache lines, and in place, after seven microseconds
// of kernel, each is a miss. V8 itself calls in two ways, both used here: interpreted code through a callback, optimized
// code by a plain call of a C function ("fast API call": it may not allocate, throw or call JavaScript, nor does it).
#include "enter.h"

#include <v8.h>

#include <cstdint>
#include <cstring>

#include "vcpu.h"

// Node ships all of V8's headers but v8-fast-api-calls.h, although what that declares is exported. So much of it as a
// function of an integer needs, as it is in V8 11.3, Node 20's; other versions do without.
#define MICROVISOR_FAST_CALL (V8_MAJOR_VERSION == 11 && V8_MINOR_VERSION == 3)
#if MICROVISOR_FAST_CALL
namespace v8 {

class CTypeInfo {
 public:
  enum Type : uint8_t { kVoid = 0, kUint32 = 4, kV8Value = 10 };
  Type type;
  uint8_t sequence_type = 0;
  uint8_t flags = 0;
};

class CFunctionInfo {
 public:
  CTypeInfo result;
  unsigned int count;
  const CTypeInfo *arguments;
};

class CFunction {
 public:
  const void *address;
  const CFunctionInfo *info;
};

}  // namespace v8
#endif

namespace microvisor {

namespace {

using Run = void (*)(uint32_t place);

template <Run run>
void Enter(const v8::FunctionCallbackInfo<v8::Value> &info) {
  if (info[0]->IsUint32() && mv_vcpu_is_place(info[0].As<v8::Uint32>()->Value())) {
    run(info[0].As<v8::Uint32>()->Value());
    return;
  }
  v8::Isolate *isolate = info.GetIsolate();
  isolate->ThrowException(
      v8::Exception::TypeError(v8::String::NewFromUtf8Literal(isolate, "the place of a vCPU is needed")));
}

#if MICROVISOR_FAST_CALL
template <Run run>
void FastEnter(const void *, uint32_t place) {
  run(place);
}

const v8::CTypeInfo kArguments[] = {{v8::CTypeInfo::kV8Value}, {v8::CTypeInfo::kUint32}};
const v8::CFunctionInfo kInfo = {{v8::CTypeInfo::kVoid}, 2, kArguments};
template <Run run>
const v8::CFunction kFastEnter = {reinterpret_cast<const void *>(FastEnter<run>), &kInfo};
#endif

template <Run run>
napi_value Function() {
#if MICROVISOR_FAST_CALL
  const v8::CFunction *fast = &kFastEnter<run>;
#else
  const v8::CFunction *fast = nullptr;
#endif
  v8::Isolate *isolate = v8::Isolate::GetCurrent();
  v8::Local<v8::Function> function =
      v8::FunctionTemplate::New(isolate, Enter<run>, v8::Local<v8::Value>(), v8::Local<v8::Signature>(), 1,
                                v8::ConstructorBehavior::kThrow, v8::SideEffectType::kHasSideEffect, fast)
          ->GetFunction(isolate->GetCurrentContext())
          .ToLocalChecked();
  // What Node-API calls a value is V8's local handle.
  napi_value value;
  static_assert(sizeof value == sizeof function);
  std::memcpy(&value, &function, sizeof value);
  return value;
}

}  // namespace

napi_value EnterFunction(napi_env) { return Function<mv_vcpu_run>(); }
napi_value EnterTracedFunction(napi_env) { return Function<mv_vcpu_run_traced>(); }

}  // namespace microvisor
