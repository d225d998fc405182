// The start of a virtio-mmio device, and one chain through its queue, by polling: lesson 10's driver, and lesson 11's.
// VIRTIO 1.2 §3.1.1 (driver initialization), §4.2.3 (MMIO), §2.7.13 (supplying buffers), §2.7.14 (used buffers).
#ifndef VIRTIO_DRIVER_H
#define VIRTIO_DRIVER_H

#include "virtio.h"

static struct queue queue;

// §3.1.1, in its order: each step tells the device how far we are. Returns what went wrong, or 0.
static const char *start_device(uint32_t device_id) {
  if (read_register(MAGIC_VALUE) != 0x74726976 || read_register(VERSION) != 2) return "no virtio-mmio device of version 2";
  if (read_register(DEVICE_ID) != device_id) return "not the device that was expected";

  write_register(STATUS, 0);  // reset
  write_register(STATUS, ACKNOWLEDGE);
  write_register(STATUS, ACKNOWLEDGE | DRIVER);

  // We want nothing but the one feature that every device of today has.
  write_register(DRIVER_FEATURES_SEL, 0);
  write_register(DRIVER_FEATURES, 0);
  write_register(DRIVER_FEATURES_SEL, 1);
  write_register(DRIVER_FEATURES, VERSION_1_HIGH);
  write_register(STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK);
  if (!(read_register(STATUS) & FEATURES_OK)) return "the device refuses our features";

  write_register(QUEUE_SEL, 0);
  if (read_register(QUEUE_NUM_MAX) < QUEUE_SIZE) return "the queue is too small";
  write_register(QUEUE_NUM, QUEUE_SIZE);
  write_register(QUEUE_DESC_LOW, (uint32_t)queue.descriptors);
  write_register(QUEUE_DRIVER_LOW, (uint32_t)&queue.avail);
  write_register(QUEUE_DEVICE_LOW, (uint32_t)&queue.used);
  write_register(QUEUE_READY, 1);
  if (read_register(QUEUE_READY) != 1) return "the device refuses our queue";

  write_register(STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
  return 0;
}

// Offers the chain that begins at descriptor 0, and waits until the device has used it. Returns how many bytes it wrote.
static uint32_t submit(void) {
  uint16_t index = queue.avail.index;
  queue.avail.ring[index % QUEUE_SIZE] = 0;
  barrier();  // the ring's entry before the index that offers it
  queue.avail.index = (uint16_t)(index + 1);
  barrier();  // the offer before the kick
  write_register(QUEUE_NOTIFY, 0);
  while (queue.used.index == index)
    if (read_register(STATUS) & NEEDS_RESET) return 0;
  barrier();  // the device's index before what it stands for
  return queue.used.ring[index % QUEUE_SIZE].length;
}

#endif
