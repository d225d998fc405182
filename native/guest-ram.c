// Guest RAM as the host's kernel sees it: which pages are in use, and files mapped under it copy-on-write.
// mmap(2), memfd_create(2), sigaction(2) for SIGBUS, Linux Documentation/admin-guide/mm/pagemap.rst.
#include "guest-ram.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "eventfd.h"

#define GUARDS 4096

// Read by the signal handler without a lock: `end` is stored last and cleared first.
static struct guard {
  uintptr_t start;
  uintptr_t end;  // 0: free
  int eventfd;
} guards[GUARDS];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct sigaction previous;
static int is_installed;

static uintptr_t page_size(void) { return (uintptr_t)sysconf(_SC_PAGESIZE); }

static int is_whole_pages(const void *memory, size_t bytes) {
  return (((uintptr_t)memory | bytes) & (page_size() - 1)) == 0;
}

// On the thread that touched the page. A page of zeros in its place lets the thread go on until its owner ends the VM.
static void on_bus_error(int signal, siginfo_t *info, void *context) {
  (void)context;
  int error = errno;
  uintptr_t page = (uintptr_t)info->si_addr & ~(page_size() - 1);
  for (size_t i = 0; i < GUARDS; i++) {
    uintptr_t end = __atomic_load_n(&guards[i].end, __ATOMIC_ACQUIRE);
    if (page >= end || page < guards[i].start) continue;
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;
    if (mmap((void *)page, page_size(), PROT_READ | PROT_WRITE, flags, -1, 0) == MAP_FAILED) break;
    mv_eventfd_signal(guards[i].eventfd, 1);
    errno = error;
    return;
  }
  // Nobody's: the access is made once more, and does what it would have done without us.
  sigaction(signal, &previous, NULL);
}

long mv_ram_map(void *memory, size_t bytes, uint64_t offset, uint64_t length, int fd, uint64_t position) {
  uintptr_t below = page_size() - 1;
  struct stat status;
  if (!is_whole_pages(memory, bytes) || ((offset | length | position) & below)) return -EINVAL;
  if (length == 0 || offset > bytes || length > bytes - offset) return -EINVAL;
  if (fstat(fd, &status) < 0) return -errno;
  if (position > (uint64_t)status.st_size || length > (uint64_t)status.st_size - position) return -EINVAL;
  int flags = MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE;
  void *at = mmap((char *)memory + offset, length, PROT_READ | PROT_WRITE, flags, fd, (off_t)position);
  return at == MAP_FAILED ? -errno : 0;
}

long mv_ram_guard(void *memory, size_t bytes, int eventfd) {
  long result = -ENOSPC;
  long own = mv_fd_adopt(eventfd, "[eventfd]");
  if (own < 0) return own;
  pthread_mutex_lock(&lock);
  if (!is_installed) {
    struct sigaction action = {.sa_sigaction = on_bus_error, .sa_flags = SA_SIGINFO};
    sigemptyset(&action.sa_mask);
    if (sigaction(SIGBUS, &action, &previous) < 0) result = -errno;
    else is_installed = 1;
  }
  for (size_t i = 0; is_installed && i < GUARDS; i++) {
    if (guards[i].end) continue;
    guards[i].start = (uintptr_t)memory;
    guards[i].eventfd = (int)own;
    __atomic_store_n(&guards[i].end, (uintptr_t)memory + bytes, __ATOMIC_RELEASE);
    result = 0;
    break;
  }
  pthread_mutex_unlock(&lock);
  if (result < 0) close((int)own);
  return result;
}

long mv_ram_clear(void *memory, size_t bytes) {
  if (!is_whole_pages(memory, bytes)) return -EINVAL;
  int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE;
  if (bytes && mmap(memory, bytes, PROT_READ | PROT_WRITE, flags, -1, 0) == MAP_FAILED) return -errno;
  pthread_mutex_lock(&lock);
  for (size_t i = 0; i < GUARDS; i++) {
    if (guards[i].end == 0 || guards[i].start != (uintptr_t)memory) continue;
    __atomic_store_n(&guards[i].end, 0, __ATOMIC_RELEASE);
    close(guards[i].eventfd);
  }
  pthread_mutex_unlock(&lock);
  return 0;
}

static int is_zero(const void *page, size_t bytes) {
  // Equal to itself one byte further on, and the first byte is 0.
  return *(const char *)page == 0 && memcmp(page, (const char *)page + 1, bytes - 1) == 0;
}

long mv_ram_used(const void *memory, size_t bytes, uint8_t *bitmap) {
  enum { ENTRIES = 1024 };
  // Bits 63 and 62 of an entry: in RAM, in swap.
  const uint64_t there = (uint64_t)3 << 62;
  uint64_t entries[ENTRIES];
  size_t page = page_size();
  if (!is_whole_pages(memory, bytes)) return -EINVAL;
  int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
  for (size_t first = 0; first < bytes / page; first += ENTRIES) {
    size_t left = bytes / page - first;
    size_t count = left < ENTRIES ? left : ENTRIES;
    off_t at = (off_t)(((uintptr_t)memory / page + first) * sizeof *entries);
    ssize_t want = (ssize_t)(count * sizeof *entries);
    // Without an answer every page is looked at, which takes longer and faults it in.
    if (fd < 0 || pread(fd, entries, (size_t)want, at) != want) memset(entries, 0xff, (size_t)want);
    for (size_t i = 0; i < count; i++) {
      size_t index = first + i;
      uint8_t bit = (uint8_t)(1 << (index & 7));
      if ((bitmap[index >> 3] & bit) == 0 && (entries[i] & there) == 0) continue;
      if (is_zero((const char *)memory + index * page, page)) bitmap[index >> 3] &= (uint8_t)~bit;
      else bitmap[index >> 3] |= bit;
    }
  }
  if (fd >= 0) close(fd);
  return 0;
}

long mv_ram_file(const char *name) {
  int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
  return fd < 0 ? -errno : fd;
}

long mv_ram_seal(int fd) {
  int seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL;
  return fcntl(fd, F_ADD_SEALS, seals) < 0 ? -errno : 0;
}
