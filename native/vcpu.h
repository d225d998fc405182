// One vCPU: its fd, the mapping of struct kvm_run, and KVM_RUN itself.
// KVM API 4.7, 4.10 and chapter 5.
#ifndef MICROVISOR_VCPU_H
#define MICROVISOR_VCPU_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/** What JavaScript and KVM_RUN tell each other; JavaScript looks at these bytes through typed arrays. */
struct mv_vcpu_status {
  int32_t last_errno;  // 0, or errno of the last KVM_RUN
  int32_t untimed;     // calls that take no stamps before one does: they take longer than the rest. Below 0: none
  double stamps[2];    // TSC at entry to and return from the ioctl, since the process's first vCPU was created
};

/** What an exit touches lies in one cache line. */
struct mv_vcpu {
  int fd;              // -1 once closed
  int references;       // handle and two ArrayBuffers, all on one thread; 0 when the place is free
  struct mv_vcpu_status status;
  uint64_t tsc_base;
  struct kvm_run *run;  // NULL once unmapped
  size_t run_size;
  uint64_t token;  // of its runner, or 0
};

/** Creates vCPU `id` of the VM and maps it. NULL with errno set when that fails. The caller owns one reference. */
struct mv_vcpu *mv_vcpu_create(int vm_fd, uint32_t id);

/** The vCPU's place among those of the process, a small integer; whether a vCPU is at a place. */
uint32_t mv_vcpu_place(const struct mv_vcpu *vcpu);
int mv_vcpu_is_place(uint32_t place);

/** KVM_RUN of the vCPU at a place. Harmless where there is none. */
void mv_vcpu_run(uint32_t place);

/** The same, and the exit leaves a record in the vCPU's ring, if it has one that is switched on. */
void mv_vcpu_run_traced(uint32_t place);

/** The ring that mv_vcpu_run_traced writes; NULL for none. It must outlive its being set. 0, or -EINVAL for a wrong size. */
long mv_vcpu_set_trace(struct mv_vcpu *vcpu, void *ring, size_t bytes);

/** TSC, as in `stamps`. */
double mv_vcpu_now(const struct mv_vcpu *vcpu);

/** Deregisters the runner and closes the fd; the mapping stays until mv_vcpu_unmap. */
void mv_vcpu_close(struct mv_vcpu *vcpu);
void mv_vcpu_unmap(struct mv_vcpu *vcpu);

/** KVM_SET_SIGNAL_MASK with `set` (8 bytes), or back to the thread's own mask with NULL. 0 or -errno. */
long mv_vcpu_set_signal_mask(int fd, const void *set);

/** KVM_VCPU_TSC_OFFSET: what KVM adds to the host's TSC for this vCPU, modulo 2^64. 0 or -errno (ENXIO: no such attribute). */
long mv_vcpu_get_tsc_offset(int fd, uint64_t *offset);
long mv_vcpu_set_tsc_offset(int fd, uint64_t offset);

/** Drops one reference; the last one closes, unmaps and frees the place. */
void mv_vcpu_release(struct mv_vcpu *vcpu);

#ifdef __cplusplus
}
#endif
#endif
