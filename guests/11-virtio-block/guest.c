// Lesson 11: a disk driver. It reads sector 0 and prints its text, and writes a line into sector 1.
// VIRTIO 1.2 §5.2.6 (block device operation): a request is a header, the data, and a byte for the answer.
#include "virtio-driver.h"

#define BLOCK 2
#define SECTOR 512

enum { IN = 0, OUT = 1 };  // what the device does with the data: it reads from the disk, or writes to it
enum { OK = 0, IOERR = 1, UNSUPPORTED = 2, NO_ANSWER = 0xff };

struct request_header {
  uint32_t type;
  uint32_t reserved;
  uint64_t sector;
};

static struct request_header header;
static uint8_t data[SECTOR];
static volatile uint8_t status;

// Three descriptors make one chain. Those that the device only reads come first, then those that it writes (§2.7.4.2).
static uint8_t request(uint32_t type, uint64_t sector) {
  header = (struct request_header){.type = type, .sector = sector};
  status = NO_ANSWER;
  uint16_t direction = type == IN ? WRITE : 0;
  queue.descriptors[0] =
      (struct descriptor){.address = (uint32_t)&header, .length = sizeof header, .flags = NEXT, .next = 1};
  queue.descriptors[1] =
      (struct descriptor){.address = (uint32_t)data, .length = SECTOR, .flags = NEXT | direction, .next = 2};
  queue.descriptors[2] = (struct descriptor){.address = (uint32_t)&status, .length = 1, .flags = WRITE};
  submit();
  return status;
}

ENTRY void start(void) {
  const char *problem = start_device(BLOCK);
  if (problem) {
    print(problem);
    finish(1);
  }
  print("The disk has ");
  print_hex(read_register(CONFIG), 4);  // its size in sectors is the first field of the configuration (§5.2.4)
  print(" sectors (hexadecimal). Sector 0 says: ");
  if (request(IN, 0) != OK) finish(2);
  data[SECTOR - 1] = 0;
  print((const char *)data);

  static const char line[] = "Written by a guest of 512 bytes a turn.\n";
  for (uint32_t i = 0; i < SECTOR; i++) data[i] = i < sizeof line ? (uint8_t)line[i] : 0;
  if (request(OUT, 1) != OK) finish(3);
  finish(0);
}
