// One vCPU: its fd, the mapping of struct kvm_run, and KVM_RUN itself.
// KVM API 4.7 (KVM_CREATE_VCPU), 4.10 (KVM_RUN), 4.21 (KVM_SET_SIGNAL_MASK), chapter 5;
// Documentation/virt/kvm/devices/vcpu.rst §4 (KVM_VCPU_TSC_CTRL).
#include "vcpu.h"

#include <errno.h>
#include <linux/kvm.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "ioctl.h"
#include "runners.h"
#include "trace.h"
#include "tsc.h"

/** Of a process. */
#define VCPUS 4096

// Page 0 is struct kvm_run, then port data, then the ring of coalesced writes; the capability names the ring's page.
// Asked of the kernel and not of JavaScript: a page too many would be a SIGBUS.
static size_t run_size(int vm_fd) {
  long ring = mv_ioctl(vm_fd, KVM_CHECK_EXTENSION, KVM_CAP_COALESCED_MMIO);
  long last = ring > KVM_PIO_PAGE_OFFSET ? ring : KVM_PIO_PAGE_OFFSET;
  return (size_t)(last + 1) * (size_t)sysconf(_SC_PAGESIZE);
}

// One time for all vCPUs of the process, so that their traces can be laid side by side.
static uint64_t tsc_base(void) {
  static uint64_t base;
  uint64_t none = 0, now = mv_tsc();
  return __atomic_compare_exchange_n(&base, &none, now, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED) ? now : none;
}

// By place. JavaScript names a vCPU by a number that any program could make up, and a pointer could not be checked.
static struct mv_vcpu vcpus[VCPUS] __attribute__((aligned(64)));
// By place as well, and apart: who is not traced touches none of it.
static struct mv_trace traces[VCPUS];

static struct mv_vcpu *take_place(void) {
  for (size_t i = 0; i < VCPUS; i++) {
    int none = 0;
    // Other threads look for places, too.
    if (__atomic_compare_exchange_n(&vcpus[i].references, &none, 1, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))
      return &vcpus[i];
  }
  return NULL;
}

static void leave_place(struct mv_vcpu *vcpu) { __atomic_store_n(&vcpu->references, 0, __ATOMIC_RELEASE); }

static struct mv_trace *trace_of(const struct mv_vcpu *vcpu) { return &traces[vcpu - vcpus]; }

struct mv_vcpu *mv_vcpu_create(int vm_fd, uint32_t id) {
  struct mv_vcpu *vcpu = take_place();
  if (!vcpu) {
    errno = ENOSPC;
    return NULL;
  }
  vcpu->run_size = run_size(vm_fd);
  vcpu->token = 0;
  vcpu->status = (struct mv_vcpu_status){.untimed = -1};
  long fd = mv_ioctl(vm_fd, KVM_CREATE_VCPU, id);
  if (fd < 0) {
    leave_place(vcpu);
    errno = (int)-fd;
    return NULL;
  }
  vcpu->fd = (int)fd;
  void *run = mmap(NULL, vcpu->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu->fd, 0);
  if (run == MAP_FAILED) {
    int error = errno;
    close(vcpu->fd);
    leave_place(vcpu);
    errno = error;
    return NULL;
  }
  vcpu->run = run;
  vcpu->tsc_base = tsc_base();
  return vcpu;
}

uint32_t mv_vcpu_place(const struct mv_vcpu *vcpu) { return (uint32_t)(vcpu - vcpus); }

int mv_vcpu_is_place(uint32_t place) {
  return place < VCPUS && __atomic_load_n(&vcpus[place].references, __ATOMIC_RELAXED) > 0;
}

// Signed, for that conversion is one instruction; it is good for a century of cycles.
static double stamp(const struct mv_vcpu *vcpu, uint64_t tsc) { return (double)(int64_t)(tsc - vcpu->tsc_base); }

double mv_vcpu_now(const struct mv_vcpu *vcpu) { return stamp(vcpu, mv_tsc()); }

static void failed(struct mv_vcpu *vcpu) {
  vcpu->status.last_errno = errno;
  // As the kernel has it for EINTR; a call that failed early leaves the exit before, which is served by now.
  if (vcpu->run) vcpu->run->exit_reason = KVM_EXIT_INTR;
}

// Apart from the other way, which runs for nearly every exit and is short.
static __attribute__((noinline)) void run_timed(struct mv_vcpu *vcpu) {
  vcpu->status.untimed = -1;
  uint64_t before = mv_tsc();
  int result = ioctl(vcpu->fd, KVM_RUN, 0);
  uint64_t after = mv_tsc();
  if (result < 0) failed(vcpu);
  vcpu->status.stamps[0] = stamp(vcpu, before);
  vcpu->status.stamps[1] = stamp(vcpu, after);
}

void mv_vcpu_run(uint32_t place) {
  if (__builtin_expect(place >= VCPUS, 0)) return;
  struct mv_vcpu *vcpu = &vcpus[place];
  vcpu->status.last_errno = 0;
  if (--vcpu->status.untimed < 0) run_timed(vcpu);
  else if (__builtin_expect(ioctl(vcpu->fd, KVM_RUN, 0) < 0, 0)) failed(vcpu);
}

// For a reader who wants every exit the stamps of every exit are taken; the statistics still get those that they want.
void mv_vcpu_run_traced(uint32_t place) {
  if (__builtin_expect(place >= VCPUS, 0)) return;
  struct mv_vcpu *vcpu = &vcpus[place];
  struct mv_trace *trace = &traces[place];
  if (__builtin_expect(!trace->ring, 0) || !mv_trace_begin(trace, vcpu->run)) return mv_vcpu_run(place);
  vcpu->status.last_errno = 0;
  uint64_t before = mv_tsc();
  int result = ioctl(vcpu->fd, KVM_RUN, 0);
  uint64_t after = mv_tsc();
  double entered = stamp(vcpu, before), exited = stamp(vcpu, after);
  if (--vcpu->status.untimed < 0) {
    vcpu->status.untimed = -1;
    vcpu->status.stamps[0] = entered;
    vcpu->status.stamps[1] = exited;
  }
  if (__builtin_expect(result < 0, 0)) {
    failed(vcpu);
    mv_trace_interruption(trace, entered);
  } else mv_trace_exit(trace, vcpu->run, entered, exited);
}

long mv_vcpu_set_trace(struct mv_vcpu *vcpu, void *ring, size_t bytes) {
  return mv_trace_set(trace_of(vcpu), ring, bytes);
}

void mv_vcpu_close(struct mv_vcpu *vcpu) {
  // A closed one has no struct kvm_run to be read.
  mv_vcpu_set_trace(vcpu, NULL, 0);
  if (vcpu->token) mv_runner_remove(vcpu->token);
  vcpu->token = 0;
  if (vcpu->fd >= 0) close(vcpu->fd);
  vcpu->fd = -1;
}

void mv_vcpu_unmap(struct mv_vcpu *vcpu) {
  if (vcpu->run) munmap(vcpu->run, vcpu->run_size);
  vcpu->run = NULL;
}

long mv_vcpu_set_signal_mask(int fd, const void *set) {
  // The kernel's sigset is 8 bytes, whatever sigset_t is in libc.
  struct {
    struct kvm_signal_mask mask;
    unsigned char set[8];
  } argument = {.mask.len = 8};
  if (!set) return mv_ioctl(fd, KVM_SET_SIGNAL_MASK, 0);
  memcpy(argument.set, set, sizeof argument.set);
  return mv_ioctl(fd, KVM_SET_SIGNAL_MASK, (uintptr_t)&argument);
}

static long tsc_offset(int fd, unsigned long call, uint64_t *offset) {
  struct kvm_device_attr attribute = {
      .group = KVM_VCPU_TSC_CTRL,
      .attr = KVM_VCPU_TSC_OFFSET,
      .addr = (uintptr_t)offset,
  };
  return mv_ioctl(fd, call, (uintptr_t)&attribute);
}

long mv_vcpu_get_tsc_offset(int fd, uint64_t *offset) { return tsc_offset(fd, KVM_GET_DEVICE_ATTR, offset); }

long mv_vcpu_set_tsc_offset(int fd, uint64_t offset) { return tsc_offset(fd, KVM_SET_DEVICE_ATTR, &offset); }

void mv_vcpu_release(struct mv_vcpu *vcpu) {
  if (vcpu->references > 1) {
    vcpu->references--;
    return;
  }
  mv_vcpu_close(vcpu);
  mv_vcpu_unmap(vcpu);
  leave_place(vcpu);
}
