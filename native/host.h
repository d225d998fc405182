// What the host offers beside KVM: advice on memory, a thread's processor time and its slice.
// madvise(2), clock_gettime(2), sched_setattr(2). Functions return 0 or -errno.
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

/**
 * How long the calling thread may run before others of its priority get their turn. The kernel keeps it between 0.1 and
 * 100 ms; one before Linux 6.12 has the same slice for all, and takes no notice.
 */
long mv_set_time_slice(uint64_t nanoseconds);

#ifdef __cplusplus
}
#endif
#endif
