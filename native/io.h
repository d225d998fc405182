// Transfers between memory and one open file, off the calling thread: batches in, completions out through shared words.
// preadv2(2), pwritev(2), fdatasync(2), fallocate(2), io_uring(7). Functions return 0 or more, or -errno.
#ifndef MICROVISOR_IO_H
#define MICROVISOR_IO_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum mv_io_op { MV_IO_READ, MV_IO_WRITE, MV_IO_SYNC, MV_IO_PUNCH, MV_IO_OPS };

/** Memory that transfers may name. */
struct mv_io_region {
  uint8_t *data;
  size_t length;
};

/** Requests in flight at most; a tag is below it. */
#define MV_IO_DEPTH 512

/**
 * The words that both sides see. `head` counts completions, modulo 2^32; completion n is in cell n % MV_IO_DEPTH.
 * The caller sets `asleep` before it waits for the eventfd and then looks at `head` once more.
 * Requests: MV_IO_REQUEST words (op, tag, position low and high, length low and high, segments, 0), then for every
 * segment region, offset, length.
 */
struct mv_io_words {
  uint32_t head;
  uint32_t asleep;
  uint32_t unused[14];
  struct {
    uint32_t tag;
    uint32_t error;
  } cells[MV_IO_DEPTH];
  uint32_t requests[];
};
#define MV_IO_REQUEST 8
#define MV_IO_SEGMENT 3

struct mv_io;

/**
 * Duplicates both descriptors. Regions and words must stay until mv_io_close has returned. NULL and errno on failure.
 * `uring` 0 does without io_uring also where the kernel has it.
 */
struct mv_io *mv_io_create(int fd, int eventfd, const struct mv_io_region *regions, unsigned count,
                           struct mv_io_words *words, size_t words_bytes, int uring);
/**
 * Takes the requests in the first `used` words. A segment outside its region completes with EFAULT; words that make no
 * request at all are -EINVAL. Some requests may be complete when this returns; the eventfd says nothing of these.
 */
long mv_io_submit(struct mv_io *io, uint32_t used);
/** What has begun is waited for, what has not is dropped. Frees `io`. */
void mv_io_close(struct mv_io *io);

/** Locks the whole file for as long as this open file description lives; -EAGAIN when somebody else has it. */
long mv_io_lock(int fd, int exclusive);
/** Bytes of a regular file or a block device. */
int64_t mv_io_size(int fd);

#ifdef __cplusplus
}
#endif
#endif
