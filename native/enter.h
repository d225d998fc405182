// KVM_RUN as JavaScript functions.
#ifndef MICROVISOR_ENTER_H
#define MICROVISOR_ENTER_H

#include <node_api.h>

namespace microvisor {

/** enter(place): KVM_RUN of the vCPU at that place. What is no place throws, but not where V8 calls past the checks. */
napi_value EnterFunction(napi_env env);

/** enterTraced(place): the same, and the exit leaves a record in the vCPU's ring: native/trace.h. */
napi_value EnterTracedFunction(napi_env env);

}  // namespace microvisor
#endif
