// Which thread runs which vCPU, for the whole process: how any thread gets a vCPU out of KVM_RUN.
// KVM API 5 (immediate_exit), 4.10 (EINTR).
#ifndef MICROVISOR_RUNNERS_H
#define MICROVISOR_RUNNERS_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct kvm_run;

/** Registers the calling thread as the one that runs `run`, and lets the kick's signal through to it.
 *  Returns a token above 0, or -errno: ENOSPC (table full), EBUSY (no signal for the kick is free). */
int64_t mv_runner_add(struct kvm_run *run);

/** After this no signal is sent for the token, and its `run` is not touched. */
void mv_runner_remove(uint64_t token);

/** 1 when the runner exists and was kicked, 0 when it is gone. */
int mv_runner_kick(uint64_t token);

#ifdef __cplusplus
}
#endif
#endif
