// The VM calls whose structures hold user pointers, so that no address reaches JavaScript.
// KVM API 4.8, 4.35, 4.97. Every function returns 0 or more, or -errno.
#ifndef MICROVISOR_VM_H
#define MICROVISOR_VM_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/** KVM_SET_USER_MEMORY_REGION; `bytes` 0 deletes the slot. */
long mv_vm_set_memory(int fd, uint32_t slot, uint32_t flags, uint64_t guest_phys_addr, void *memory, uint64_t bytes);

/** KVM_GET_DIRTY_LOG into `length` bytes; EFAULT when the slot has more pages than `length` has bits. */
long mv_vm_dirty_log(int fd, uint32_t slot, void *bitmap, size_t length);

struct mv_msr_range {
  uint32_t flags;
  uint32_t base;
  uint32_t nmsrs;
  const uint8_t *bitmap;
};

/** KVM_X86_SET_MSR_FILTER; the caller has checked that each bitmap holds `nmsrs` bits. At most 16 ranges. */
long mv_vm_set_msr_filter(int fd, uint32_t flags, const struct mv_msr_range *ranges, size_t count);

#ifdef __cplusplus
}
#endif
#endif
