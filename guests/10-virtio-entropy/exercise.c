// Exercise 10: bring the device up (VIRTIO 1.2 §3.1.1 and §4.2.3.2), so that the buffer below is filled.
// Names of registers and bits: guests/ladder/virtio.h. The submission is done already.
#include "virtio.h"

#define ENTROPY 4
#define BYTES 32

static struct queue queue;
static uint8_t random[BYTES];

static void start_device(void) {
  // Your turn, each step by write_register(REGISTER, value):
  //   1. STATUS: 0 resets the device; then ACKNOWLEDGE; then ACKNOWLEDGE | DRIVER.
  //   2. Accept VERSION_1_HIGH in the second 32 bits of the features (DRIVER_FEATURES_SEL 1), and nothing else.
  //   3. STATUS: with FEATURES_OK as well.
  //   4. Queue 0: QUEUE_SEL, QUEUE_NUM, QUEUE_DESC_LOW, QUEUE_DRIVER_LOW, QUEUE_DEVICE_LOW (the addresses of the three
  //      parts of `queue`, as uint32_t), and at last QUEUE_READY.
  //   5. STATUS: with DRIVER_OK as well.
}

ENTRY void start(void) {
  start_device();

  queue.descriptors[0] = (struct descriptor){.address = (uint32_t)random, .length = BYTES, .flags = WRITE};
  queue.avail.ring[0] = 0;
  barrier();
  queue.avail.index = 1;
  barrier();
  write_register(QUEUE_NOTIFY, 0);
  // A device that was not started never uses anything; any other gets as many exits as it takes.
  while (queue.used.index == 0 && (read_register(STATUS) & (DRIVER_OK | NEEDS_RESET)) == DRIVER_OK) barrier();

  print(queue.used.index == 1 ? "used: " : "not used: ");
  for (int i = 0; i < BYTES; i++) print_hex(random[i], 2);
  print("\n");
  finish(0);
}
