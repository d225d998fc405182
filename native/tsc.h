// The processor's time stamp counter.
// Intel SDM volume 3, 17.17; unserialized on purpose: a fence costs more than the error.
#ifndef MICROVISOR_TSC_H
#define MICROVISOR_TSC_H

#include <stdint.h>
#include <x86intrin.h>

static inline uint64_t mv_tsc(void) { return __rdtsc(); }

#endif
