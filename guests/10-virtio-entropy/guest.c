// Lesson 10: a driver. It brings up a virtio entropy device and has it fill a buffer with random bytes.
// VIRTIO 1.2 §5.4 (entropy device); the driver itself is ladder/virtio-driver.h.
#include "virtio-driver.h"

#define ENTROPY 4
#define BYTES 16

static uint8_t random[BYTES];

ENTRY void start(void) {
  const char *problem = start_device(ENTROPY);
  if (problem) {
    print(problem);
    finish(1);
  }

  // One descriptor, one buffer; WRITE: it is the device that writes. There is no request: to offer the buffer says all.
  queue.descriptors[0] = (struct descriptor){.address = (uint32_t)random, .length = BYTES, .flags = WRITE};
  uint32_t length = submit();

  print_hex(length, 2);
  print(" bytes: ");
  for (int i = 0; i < BYTES; i++) print_hex(random[i], 2);
  print("\n");
  finish(0);
}
