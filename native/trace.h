// The trace: each exit of a vCPU as a record in a ring of shared memory, written by the vCPU's thread, read by anyone.
// Here and not in TypeScript: it takes 116 instructions on 13 cache lines, of which compiled JavaScript took 281 on 50, and
// after a KVM_RUN nearly each line is a miss (`npm run bench -- exit-account`). Partners: src/vcpu/observe/trace.ts has the
// layout for readers, src/vcpu/observe/trace-reader.ts reads. KVM API 5 (struct kvm_run).
#ifndef MICROVISOR_TRACE_H
#define MICROVISOR_TRACE_H

#include <linux/kvm.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/** Bytes that every mapping of struct kvm_run has after an offset below this one: two pages, less a value. */
#define MV_RUN_LEAST (2 * 4096 - 4)

/** A cache line. */
struct mv_trace_record {
  double entered, exited;  // as mv_vcpu_status.stamps
  uint32_t exit_reason;
  uint32_t value;    // what goes over the bus
  uint8_t exit[32];  // the first bytes of the exit's union, as KVM gave them
  uint8_t unused[8];
};

struct mv_trace_ring {
  int32_t head;  // records written so far, modulo 2^32
  int32_t off;   // written by readers: above 0 while nobody wants records
  double tsc_khz;
  uint8_t unused[48];
  struct mv_trace_record records[];
};

/** The writer's own. */
struct mv_trace {
  struct mv_trace_ring *ring;  // NULL: nothing is traced
  uint32_t mask;
  struct mv_trace_record *unserved;  // the newest record: what a read gave is known when the guest is entered again
  double since;  // when KVM_RUN was first called since the last exit; 0 where no kick came in between
};

_Static_assert(sizeof(struct mv_trace_record) == 64 && sizeof(struct mv_trace_ring) == 64, "lines of 64 bytes");

/** A ring has a power of two of records, 2 or more. 0 or -EINVAL. */
long mv_trace_set(struct mv_trace *trace, void *ring, size_t bytes);

// What goes over the bus: of a `rep ins` or `rep outs` the first item, of eight bytes the low half.
static inline void mv_trace_value(struct mv_trace_record *record, const struct kvm_run *run) {
  // Behind struct kvm_run comes the page of port data. A program may have written nonsense into the first.
  if (record->exit_reason == KVM_EXIT_IO && run->io.data_offset < MV_RUN_LEAST)
    memcpy(&record->value, (const uint8_t *)run + run->io.data_offset, sizeof record->value);
  else if (record->exit_reason == KVM_EXIT_MMIO)
    memcpy(&record->value, run->mmio.data, sizeof record->value);
}

static inline struct mv_trace_record *mv_trace_next(const struct mv_trace *trace) {
  return &trace->ring->records[(uint32_t)trace->ring->head & trace->mask];
}

/** Before KVM_RUN: completes the last record. Whether the exit that comes is to be recorded. */
static inline int mv_trace_begin(struct mv_trace *trace, const struct kvm_run *run) {
  if (trace->unserved) mv_trace_value(trace->unserved, run);
  trace->unserved = NULL;
  if (__builtin_expect(__atomic_load_n(&trace->ring->off, __ATOMIC_RELAXED) > 0, 0)) {
    trace->since = 0;
    return 0;
  }
  // No reader believes in the oldest record any more: its line comes while the guest runs.
  __builtin_prefetch(mv_trace_next(trace), 1);
  return 1;
}

/** After it: the exit, before it is served, so that one which never ends is seen, too. */
static inline void mv_trace_exit(struct mv_trace *trace, const struct kvm_run *run, double entered, double exited) {
  struct mv_trace_record *record = mv_trace_next(trace);
  record->entered = trace->since == 0 ? entered : trace->since;
  trace->since = 0;
  record->exited = exited;
  record->exit_reason = run->exit_reason;
  memcpy(record->exit, &run->io, sizeof record->exit);
  mv_trace_value(record, run);
  trace->unserved = record;
  // Partner: TraceReader, which believes a record only when it is behind the head, before and after it was copied.
  __atomic_store_n(&trace->ring->head, (int32_t)((uint32_t)trace->ring->head + 1), __ATOMIC_RELEASE);
}

/** After a KVM_RUN that a kick ended: the exit that comes was entered to before, as far as anybody is concerned. */
static inline void mv_trace_interruption(struct mv_trace *trace, double entered) {
  if (trace->since == 0) trace->since = entered;
}

#endif
