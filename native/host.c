// What the host offers beside KVM: advice on memory, a thread's processor time and its slice.
// madvise(2), clock_gettime(2), gettid(2), sched_setattr(2).
#include "host.h"

#include <errno.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static const struct {
  const char *name;
  int advice;
} ADVICE[] = {
    {"MERGEABLE", MADV_MERGEABLE},
    {"HUGEPAGE", MADV_HUGEPAGE},
    {"DONTNEED", MADV_DONTNEED},
};

long mv_advise(void *memory, size_t bytes, const char *advice) {
  // Whole pages only: the kernel would round the length up, into bytes that are not the caller's.
  uintptr_t below = (uintptr_t)sysconf(_SC_PAGESIZE) - 1;
  if (((uintptr_t)memory & below) || (bytes & below)) return -EINVAL;
  for (size_t i = 0; i < sizeof ADVICE / sizeof *ADVICE; i++)
    if (strcmp(ADVICE[i].name, advice) == 0)
      return bytes && madvise(memory, bytes, ADVICE[i].advice) < 0 ? -(long)errno : 0;
  return -EINVAL;
}

int64_t mv_thread_cpu_nanoseconds(void) {
  struct timespec time;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

long mv_thread_id(void) { return syscall(SYS_gettid); }

// glibc before 2.41 has neither the structure nor the calls; linux/sched/types.h clashes with its sched.h.
struct attributes {
  uint32_t size, policy;
  uint64_t flags;
  int32_t nice;
  uint32_t priority;
  uint64_t runtime, deadline, period;
};

long mv_set_time_slice(uint64_t nanoseconds) {
  struct attributes now = {.size = sizeof now};
  if (syscall(SYS_sched_getattr, 0, &now, sizeof now, 0) < 0) return -(long)errno;
  // A real-time policy has no slices, and is somebody's choice.
  if (now.policy != SCHED_OTHER && now.policy != SCHED_BATCH) return 0;
  now.runtime = nanoseconds;
  return syscall(SYS_sched_setattr, 0, &now, 0) < 0 ? -(long)errno : 0;
}
