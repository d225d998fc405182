// Exercise 11: a copy of one sector. Write `request`, so that sector 2 of the disk gets what sector 5 has.
// VIRTIO 1.2 §5.2.6 (block device operation), §2.7.5 (descriptors). The device is brought up by lesson 10's driver.
#include "virtio-driver.h"

#define BLOCK 2
#define SECTOR 512

enum { IN = 0, OUT = 1 };  // what the device does with the data: it reads from the disk, or writes to it

struct request_header {
  uint32_t type;
  uint32_t reserved;
  uint64_t sector;
};

static struct request_header header;
static uint8_t data[SECTOR];
static volatile uint8_t status;

// Moves `data` from (IN) or to (OUT) a sector of the disk. Returns the device's answer: 0 when all is well.
static uint8_t request(uint32_t type, uint64_t sector) {
  header = (struct request_header){.type = type, .sector = sector};
  status = 0xff;
  // Your turn: descriptors 0 to 2 of `queue` are a chain of header, data and status. The first two have NEXT, and .next
  // says the number of the one that follows. What the device writes has WRITE: the status always, the data for IN.
  // Then submit().
  return status;
}

ENTRY void start(void) {
  const char *problem = start_device(BLOCK);
  if (problem) {
    print(problem);
    finish(1);
  }
  if (request(IN, 5) != 0) finish(2);
  if (request(OUT, 2) != 0) finish(3);
  finish(0);
}
