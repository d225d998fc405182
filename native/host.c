// What the host offers beside KVM: advice on memory, a thread's processor time.
// madvise(2), clock_gettime(2), gettid(2).
#include "host.h"

#include <errno.h>
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
