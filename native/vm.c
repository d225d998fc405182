// The VM calls whose structures hold user pointers, so that no address reaches JavaScript.
// KVM API 4.8 (KVM_GET_DIRTY_LOG), 4.35 (KVM_SET_USER_MEMORY_REGION), 4.97 (KVM_X86_SET_MSR_FILTER).
#include "vm.h"

#include <errno.h>
#include <linux/kvm.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "ioctl.h"

long mv_vm_set_memory(int fd, uint32_t slot, uint32_t flags, uint64_t guest_phys_addr, void *memory, uint64_t bytes) {
  struct kvm_userspace_memory_region region = {
      .slot = slot,
      .flags = flags,
      .guest_phys_addr = guest_phys_addr,
      .memory_size = bytes,
      .userspace_addr = (uintptr_t)memory,
  };
  return mv_ioctl(fd, KVM_SET_USER_MEMORY_REGION, (uintptr_t)&region);
}

long mv_vm_dirty_log(int fd, uint32_t slot, void *bitmap, size_t length) {
  // The kernel writes as much as the slot has, whatever the caller believes, and nobody here knows the slot for
  // certain: another handle on the VM may have replaced it. So the bitmap ends at a page that faults.
  size_t page = (size_t)sysconf(_SC_PAGESIZE);
  size_t body = (length + page - 1) / page * page;
  char *area = mmap(NULL, body + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (area == MAP_FAILED) return -(long)errno;
  long result = mprotect(area + body, page, PROT_NONE) < 0 ? -(long)errno : 0;
  if (result == 0) {
    struct kvm_dirty_log log = {.slot = slot, .dirty_bitmap = area + body - length};
    result = mv_ioctl(fd, KVM_GET_DIRTY_LOG, (uintptr_t)&log);
  }
  if (result >= 0) memcpy(bitmap, area + body - length, length);
  munmap(area, body + page);
  return result;
}

long mv_vm_set_msr_filter(int fd, uint32_t flags, const struct mv_msr_range *ranges, size_t count) {
  struct kvm_msr_filter filter = {.flags = flags};
  if (count > KVM_MSR_FILTER_MAX_RANGES) return -E2BIG;
  for (size_t i = 0; i < count; i++)
    filter.ranges[i] = (struct kvm_msr_filter_range){
        .flags = ranges[i].flags,
        .base = ranges[i].base,
        .nmsrs = ranges[i].nmsrs,
        // The kernel only reads it.
        .bitmap = (uint8_t *)ranges[i].bitmap,
    };
  return mv_ioctl(fd, KVM_X86_SET_MSR_FILTER, (uintptr_t)&filter);
}
