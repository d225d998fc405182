// KVM ioctls by number, checked so that the kernel stays inside the buffer it is given.
// KVM API chapter 4; <linux/kvm.h>, <asm-generic/ioctl.h>.
#include "ioctl.h"

#include <errno.h>
#include <linux/kvm.h>
#include <string.h>
#include <sys/ioctl.h>

// Calls whose structure holds a user pointer, or whose number does not tell how much the kernel reads or writes.
// By type and number only, without direction and size, so that a doctored size does not slip through.
static const unsigned char REFUSED[] = {
    _IOC_NR(KVM_RUN),
    _IOC_NR(KVM_CREATE_VM),
    _IOC_NR(KVM_CREATE_VCPU),
    _IOC_NR(KVM_GET_DIRTY_LOG),
    _IOC_NR(KVM_SET_USER_MEMORY_REGION),
    0x49,  // KVM_SET_USER_MEMORY_REGION2, Linux 6.8
    _IOC_NR(KVM_REINJECT_CONTROL),
    _IOC_NR(KVM_XEN_HVM_CONFIG),
    _IOC_NR(KVM_SET_SIGNAL_MASK),
    _IOC_NR(KVM_GET_ONE_REG),
    _IOC_NR(KVM_SET_ONE_REG),
    _IOC_NR(KVM_MEMORY_ENCRYPT_OP),
    _IOC_NR(KVM_MEMORY_ENCRYPT_REG_REGION),
    _IOC_NR(KVM_MEMORY_ENCRYPT_UNREG_REGION),
    _IOC_NR(KVM_CLEAR_DIRTY_LOG),
    _IOC_NR(KVM_X86_SET_MSR_FILTER),
    0xc8, 0xc9, 0xca, 0xcb, 0xd0,  // KVM_XEN_*
    0xcf,                          // KVM_GET_XSAVE2
    _IOC_NR(KVM_SET_DEVICE_ATTR),
    _IOC_NR(KVM_GET_DEVICE_ATTR),
    _IOC_NR(KVM_HAS_DEVICE_ATTR),
};

// Calls whose structure ends in an array: the kernel reads and writes as many entries as the count says.
struct counted {
  unsigned char nr;
  unsigned char count_offset;
  unsigned char header;
  unsigned char entry;
};
static const struct counted COUNTED[] = {
    {_IOC_NR(KVM_GET_MSR_INDEX_LIST), 0, 4, 4},
    {_IOC_NR(KVM_GET_MSR_FEATURE_INDEX_LIST), 0, 4, 4},
    {_IOC_NR(KVM_GET_SUPPORTED_CPUID), 0, 8, 40},
    {_IOC_NR(KVM_GET_EMULATED_CPUID), 0, 8, 40},
    {_IOC_NR(KVM_GET_SUPPORTED_HV_CPUID), 0, 8, 40},
    {_IOC_NR(KVM_SET_CPUID), 0, 8, 24},
    {_IOC_NR(KVM_SET_CPUID2), 0, 8, 40},
    {_IOC_NR(KVM_GET_CPUID2), 0, 8, 40},
    {_IOC_NR(KVM_GET_MSRS), 0, 8, 16},
    {_IOC_NR(KVM_SET_MSRS), 0, 8, 16},
    {_IOC_NR(KVM_SET_GSI_ROUTING), 0, 8, 48},
    {_IOC_NR(KVM_SET_PMU_EVENT_FILTER), 4, 32, 8},
    // The size field counts the bytes of header and data together.
    {_IOC_NR(KVM_GET_NESTED_STATE), 4, 0, 1},
    {_IOC_NR(KVM_SET_NESTED_STATE), 4, 0, 1},
};

static const char *refuses(unsigned long number) {
  if (number > UINT32_MAX || _IOC_TYPE(number) != KVMIO) return "not a KVM ioctl number";
  for (size_t i = 0; i < sizeof REFUSED; i++)
    if (REFUSED[i] == _IOC_NR(number)) return "this ioctl has a function of its own, or passes pointers";
  return NULL;
}

const char *mv_ioctl_refuses_integer(unsigned long number) {
  const char *refusal = refuses(number);
  if (refusal) return refusal;
  return _IOC_SIZE(number) ? "this ioctl takes a buffer, not an integer" : NULL;
}

const char *mv_ioctl_refuses_buffer(unsigned long number, const void *buffer, size_t length) {
  const char *refusal = refuses(number);
  if (refusal) return refusal;
  if (_IOC_SIZE(number) == 0) return "this ioctl takes an integer, not a buffer";
  if (length < _IOC_SIZE(number)) return "the buffer is shorter than the ioctl's structure";
  for (size_t i = 0; i < sizeof COUNTED / sizeof *COUNTED; i++) {
    const struct counted *row = &COUNTED[i];
    uint32_t count;
    if (row->nr != _IOC_NR(number)) continue;
    if (length < row->header || length < row->count_offset + sizeof count)
      return "the buffer is shorter than the ioctl's header";
    memcpy(&count, (const char *)buffer + row->count_offset, sizeof count);
    if (count > (length - row->header) / row->entry) return "the buffer is shorter than its count of entries says";
  }
  return NULL;
}

long mv_ioctl(int fd, unsigned long number, unsigned long argument) {
  int result;
  do result = ioctl(fd, number, argument);
  while (result < 0 && errno == EINTR);
  return result < 0 ? -(long)errno : result;
}
