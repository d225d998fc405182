// What the host offers beside KVM: advice on memory, a thread's processor time.
// madvise(2), clock_gettime(2). Functions return 0 or -errno.
#ifndef MICROVISOR_HOST_H
#define MICROVISOR_HOST_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/** Advice by name: MERGEABLE, HUGEPAGE, DONTNEED; -EINVAL for others and for memory that is not whole pages. */
long mv_advise(void *memory, size_t bytes, const char *advice);

/** Processor time of the calling thread in nanoseconds. */
int64_t mv_thread_cpu_nanoseconds(void);

/** The calling thread's id, as in /proc/self/task. */
long mv_thread_id(void);

#ifdef __cplusplus
}
#endif
#endif
