// The ring that a vCPU's exits are traced in.
#include "trace.h"

#include <errno.h>

long mv_trace_set(struct mv_trace *trace, void *ring, size_t bytes) {
  size_t records = bytes / sizeof(struct mv_trace_record) - 1;
  *trace = (struct mv_trace){0};
  if (!ring) return 0;
  int is_power = records >= 2 && records <= UINT32_MAX && (records & (records - 1)) == 0;
  if (bytes % sizeof(struct mv_trace_record) != 0 || !is_power || (uintptr_t)ring % 8 != 0) return -EINVAL;
  trace->mask = (uint32_t)(records - 1);
  trace->ring = ring;
  return 0;
}
