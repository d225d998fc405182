// Exercise 11, solved: a request is a chain of three descriptors.
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
  struct descriptor *chain = queue.descriptors;
  chain[0] = (struct descriptor){.address = (uint32_t)&header, .length = sizeof header, .flags = NEXT, .next = 1};
  chain[1] = (struct descriptor){
      .address = (uint32_t)data, .length = SECTOR, .flags = NEXT | (type == IN ? WRITE : 0), .next = 2};
  chain[2] = (struct descriptor){.address = (uint32_t)&status, .length = 1, .flags = WRITE};
  submit();
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
