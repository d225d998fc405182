// The names of VIRTIO 1.2 that a driver uses: registers of virtio-mmio (§4.2.2), status (§2.1), split virtqueue (§2.7).
#ifndef VIRTIO_H
#define VIRTIO_H

#include "guest.h"

// The machine's first virtio device; a kernel would learn it from its command line or from ACPI.
#define DEVICE 0xd0000000u

enum {
  MAGIC_VALUE = 0x000,  // reads "virt"
  VERSION = 0x004,
  DEVICE_ID = 0x008,  // 2 block, 4 entropy (§5)
  DEVICE_FEATURES = 0x010,
  DEVICE_FEATURES_SEL = 0x014,  // which 32 bits DEVICE_FEATURES shows
  DRIVER_FEATURES = 0x020,
  DRIVER_FEATURES_SEL = 0x024,  // which 32 bits DRIVER_FEATURES sets
  QUEUE_SEL = 0x030,            // the queue that the registers below are about
  QUEUE_NUM_MAX = 0x034,
  QUEUE_NUM = 0x038,
  QUEUE_READY = 0x044,
  QUEUE_NOTIFY = 0x050,
  INTERRUPT_STATUS = 0x060,
  INTERRUPT_ACK = 0x064,
  STATUS = 0x070,
  QUEUE_DESC_LOW = 0x080,  // GPA of each part; the high half is 4 bytes further, and 0 after a reset
  QUEUE_DRIVER_LOW = 0x090,
  QUEUE_DEVICE_LOW = 0x0a0,
  CONFIG = 0x100,
};

enum { ACKNOWLEDGE = 1, DRIVER = 2, DRIVER_OK = 4, FEATURES_OK = 8, NEEDS_RESET = 64, FAILED = 128 };

// VIRTIO_F_VERSION_1 is feature 32: bit 0 of the second 32 bits.
#define VERSION_1_HIGH 1u

// Entries of our queue: a power of two, at most QUEUE_NUM_MAX.
#define QUEUE_SIZE 8

enum { NEXT = 1, WRITE = 2 };  // flags: `next` is valid; the device writes this buffer

struct descriptor {
  uint64_t address;
  uint32_t length;
  uint16_t flags;
  uint16_t next;
};

// The driver's ring: heads of chains that are offered to the device.
struct avail_ring {
  uint16_t flags;
  uint16_t index;  // counts up without end; the slot is index % QUEUE_SIZE
  uint16_t ring[QUEUE_SIZE];
  uint16_t used_event;  // part of the ring even where EVENT_IDX was not accepted (§2.7)
};

// The device's ring: chains that it is done with, and how many bytes it wrote into each.
struct used_ring {
  uint16_t flags;
  uint16_t index;
  struct {
    uint32_t head;
    uint32_t length;
  } ring[QUEUE_SIZE];
  uint16_t avail_event;
};

// Where each part must lie: §2.7 wants multiples of 16, 2 and 4.
struct queue {
  _Alignas(16) struct descriptor descriptors[QUEUE_SIZE];
  _Alignas(2) volatile struct avail_ring avail;
  _Alignas(4) volatile struct used_ring used;
};

static inline uint32_t read_register(uint32_t offset) { return *(volatile uint32_t *)(DEVICE + offset); }
static inline void write_register(uint32_t offset, uint32_t value) { *(volatile uint32_t *)(DEVICE + offset) = value; }

#endif
