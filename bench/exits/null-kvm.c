// A KVM that does nothing, preloaded: KVM_RUN returns at once with the next exit of the loop that the mailbox names.
// What a VMM costs on it is its own cost, with warm caches. KVM API 4.10, 4.116 and chapter 5; exits/guest.S.
//
//   cc -O2 -Wall -Wextra -shared -fPIC -o null-kvm.so null-kvm.c
//   NULL_KVM_EVICT=KIB   KVM_RUN also walks so much code and data, as a kernel would
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { COUNT = 0x500, OP = 0x504, MODE = 0x508, PORT = 0xe9, END_PORT = 0xf4, REAL_MMIO = 0xd0000, WRITTEN = 0x14 };
enum { STRING_BYTES = 64, PAGE = 4096, RUN_BYTES = 3 * PAGE, FDS = 1024 };
// KVM_COALESCED_MMIO_MAX, whose PAGE_SIZE user space has not.
enum { RING_ENTRIES = (PAGE - sizeof(struct kvm_coalesced_mmio_ring)) / sizeof(struct kvm_coalesced_mmio) };
static const uint32_t MMIO = 0xfeb00000;

struct vm {
  const uint8_t *ram;
  bool coalesces;
};

struct vcpu {
  struct vm *vm;
  struct kvm_run *run;
  bool has_read;  // the mailbox
  uint32_t left;
};

static struct vm *vms[FDS];
static struct vcpu *vcpus[FDS];
static void (*evict_code)(void);
static uint8_t *evict_data;
static size_t evict_bytes;

static int real_ioctl(int fd, unsigned long number, void *argument) { return syscall(SYS_ioctl, fd, number, argument); }

// One jump a cache line, so that code is walked and not only fetched ahead.
__attribute__((constructor)) static void prepare(void) {
  const char *kib = getenv("NULL_KVM_EVICT");
  evict_bytes = kib ? strtoul(kib, NULL, 10) << 10 : 0;
  if (!evict_bytes) return;
  uint8_t *code = mmap(NULL, evict_bytes, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  evict_data = mmap(NULL, evict_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
  for (size_t at = 0; at < evict_bytes; at += 64) memcpy(code + at, (uint8_t[]){0xeb, 62}, 2);
  code[evict_bytes - 64] = 0xc3;
  evict_code = (void (*)(void))(uintptr_t)code;
}

static void evict(void) {
  evict_code();
  for (size_t at = 0; at < evict_bytes; at += 64) *(volatile uint8_t *)(evict_data + at) += 1;
}

static uint32_t mailbox(const struct vm *vm, uint32_t at) { return *(const volatile uint32_t *)(vm->ram + at); }

static void exit_io(struct kvm_run *run, uint8_t direction, uint16_t port, uint32_t count) {
  run->exit_reason = KVM_EXIT_IO;
  run->io.direction = direction;
  run->io.size = 1;
  run->io.port = port;
  run->io.count = count;
  run->io.data_offset = PAGE;
}

static void exit_mmio(struct kvm_run *run, uint32_t address, bool is_write) {
  run->exit_reason = KVM_EXIT_MMIO;
  run->mmio.phys_addr = address;
  run->mmio.len = 4;
  run->mmio.is_write = is_write;
}

// As the kernel's coalesced_mmio_write. False: the ring is full.
static bool coalesce(struct kvm_run *run, bool pio, uint32_t address, uint32_t length) {
  struct kvm_coalesced_mmio_ring *ring = (void *)((char *)run + 2 * PAGE);
  uint32_t last = ring->last, next = (last + 1) % RING_ENTRIES;
  if (next == __atomic_load_n(&ring->first, __ATOMIC_ACQUIRE)) return false;
  ring->coalesced_mmio[last].phys_addr = address;
  ring->coalesced_mmio[last].len = length;
  ring->coalesced_mmio[last].pio = pio;
  __atomic_store_n(&ring->last, next, __ATOMIC_RELEASE);
  return true;
}

static int run_vcpu(struct vcpu *vcpu) {
  struct kvm_run *run = vcpu->run;
  if (evict_code) evict();
  if (__atomic_load_n(&run->immediate_exit, __ATOMIC_RELAXED)) return errno = EINTR, -1;
  if (!vcpu->has_read) vcpu->left = mailbox(vcpu->vm, COUNT);
  vcpu->has_read = true;
  uint32_t op = mailbox(vcpu->vm, OP);
  uint32_t mmio = mailbox(vcpu->vm, MODE) ? MMIO : REAL_MMIO;
  if (vcpu->vm->coalesces)
    while (vcpu->left && coalesce(run, op == 0, op == 0 ? PORT : mmio + WRITTEN, op == 0 ? 1 : 4)) vcpu->left--;
  if (vcpu->left-- == 0) {
    vcpu->has_read = false;
    exit_io(run, KVM_EXIT_IO_OUT, END_PORT, 1);
    return 0;
  }
  switch (op) {
    case 0: exit_io(run, KVM_EXIT_IO_OUT, PORT, 1); return 0;
    case 1: exit_io(run, KVM_EXIT_IO_IN, PORT, 1); return 0;
    case 2: exit_io(run, KVM_EXIT_IO_OUT, PORT, STRING_BYTES); return 0;
    case 3: exit_mmio(run, mmio + WRITTEN, true); return 0;
    case 4: exit_mmio(run, mmio, false); return 0;
    default: return errno = ENOTSUP, -1;
  }
}

static int new_file(const char *name) {
  int fd = memfd_create(name, MFD_CLOEXEC);
  if (fd >= FDS) return close(fd), errno = EMFILE, -1;
  if (fd >= 0 && ftruncate(fd, RUN_BYTES) < 0) return -1;
  return fd;
}

static int create_vm(void) {
  int fd = new_file("anon_inode:kvm-vm");
  if (fd >= 0) vms[fd] = calloc(1, sizeof **vms);
  return fd;
}

static int create_vcpu(struct vm *vm) {
  int fd = new_file("anon_inode:kvm-vcpu:0");
  if (fd < 0) return fd;
  vcpus[fd] = calloc(1, sizeof **vcpus);
  vcpus[fd]->vm = vm;
  vcpus[fd]->run = mmap(NULL, RUN_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  return fd;
}

static int open_kvm(const char *path, int flags, mode_t mode) {
  if (strcmp(path, "/dev/kvm") == 0) return new_file("null-kvm");
  return openat(AT_FDCWD, path, flags, mode);
}

int open(const char *path, int flags, ...) {
  va_list rest;
  va_start(rest, flags);
  mode_t mode = va_arg(rest, mode_t);
  va_end(rest);
  return open_kvm(path, flags, mode);
}

int open64(const char *path, int flags, ...) {
  va_list rest;
  va_start(rest, flags);
  mode_t mode = va_arg(rest, mode_t);
  va_end(rest);
  return open_kvm(path, flags, mode);
}

static int serve(int fd, unsigned long number, void *argument) {
  switch (number) {
    case KVM_GET_API_VERSION: return KVM_API_VERSION;
    case KVM_GET_VCPU_MMAP_SIZE: return RUN_BYTES;
    case KVM_CHECK_EXTENSION: return (uintptr_t)argument == KVM_CAP_COALESCED_MMIO ? 2 : 1;
    case KVM_CREATE_VM: return create_vm();
    case KVM_GET_TSC_KHZ: return 1000000;
    case KVM_CREATE_VCPU: return create_vcpu(vms[fd]);
    case KVM_SET_USER_MEMORY_REGION:
      vms[fd]->ram = (void *)(uintptr_t)((struct kvm_userspace_memory_region *)argument)->userspace_addr;
      return 0;
    case KVM_REGISTER_COALESCED_MMIO: vms[fd]->coalesces = true; return 0;
    case KVM_GET_SUPPORTED_CPUID: ((struct kvm_cpuid2 *)argument)->nent = 0; return 0;
    default: return 0;
  }
}

int ioctl(int fd, unsigned long number, ...) {
  va_list rest;
  va_start(rest, number);
  void *argument = va_arg(rest, void *);
  va_end(rest);
  if (number == KVM_RUN && fd >= 0 && fd < FDS && vcpus[fd]) return run_vcpu(vcpus[fd]);
  if (_IOC_TYPE(number) == KVMIO) return serve(fd, number, argument);
  return real_ioctl(fd, number, argument);
}
