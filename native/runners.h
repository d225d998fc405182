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
 *  Returns a token above 0, or -errno: ENOSPC (table full), EBUSY (no real-time signal is free). */
int64_t mv_runner_add(struct kvm_run *run);

/** After this no signal is sent for the token, and its `run` is not touched. */
void mv_runner_remove(uint64_t token);

/** 1 when the runner exists and was kicked, 0 when it is gone. */
int mv_runner_kick(uint64_t token);

#ifdef __cplusplus
}
#else

#include <stddef.h>

/** Which vCPU this thread is in, for the signal handler. Initial-exec: the handler reads it, and the dynamic model may
 *  allocate on first use. */
extern _Thread_local struct kvm_run *mv_current_run __attribute__((tls_model("initial-exec")));

/** Around KVM_RUN. Inline, for they run per exit. */
static inline void mv_runner_entering(struct kvm_run *run) { __atomic_store_n(&mv_current_run, run, __ATOMIC_RELAXED); }
static inline void mv_runner_left(void) { __atomic_store_n(&mv_current_run, (struct kvm_run *)NULL, __ATOMIC_RELAXED); }
#endif
#endif
