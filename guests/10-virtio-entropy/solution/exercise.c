// Exercise 10, solved: the steps of §3.1.1, in their order.
#include "virtio.h"

#define ENTROPY 4
#define BYTES 32

static struct queue queue;
static uint8_t random[BYTES];

static void start_device(void) {
  write_register(STATUS, 0);
  write_register(STATUS, ACKNOWLEDGE);
  write_register(STATUS, ACKNOWLEDGE | DRIVER);
  write_register(DRIVER_FEATURES_SEL, 1);
  write_register(DRIVER_FEATURES, VERSION_1_HIGH);
  write_register(STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK);
  write_register(QUEUE_SEL, 0);
  write_register(QUEUE_NUM, QUEUE_SIZE);
  write_register(QUEUE_DESC_LOW, (uint32_t)queue.descriptors);
  write_register(QUEUE_DRIVER_LOW, (uint32_t)&queue.avail);
  write_register(QUEUE_DEVICE_LOW, (uint32_t)&queue.used);
  write_register(QUEUE_READY, 1);
  write_register(STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
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
