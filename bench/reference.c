// The yardstick for the cost of an exit: a plain KVM loop in C with a table of handlers, for the guest of exits/guest.S.
// KVM API (Linux Documentation/virt/kvm/api.rst) 4.10, 4.59, 4.75, 4.97, 4.116 and chapter 5.
//
//   cc -O2 -Wall -Wextra -pthread -o reference reference.c
//   reference GUEST OP MODE FEATURE          reads lines "COUNT STAMPED", answers as `answer` below
//   reference -- COMMAND ...                 runs COMMAND to its end, answers with its processor time and status
//
// It does what the TypeScript loop does for the same exit, in the straightest way, and nothing else.

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

// As in guest.S.
enum { COUNT = 0x500, OP = 0x504, MODE = 0x508, STAMPED = 0x50c, ENTRY = 0x1000, STAMPS = 0x20000, RAM = 0xa0000 };
enum { MOST_STAMPS = 16384, PORT = 0xe9, END_PORT = 0xf4, REAL_MMIO = 0xd0000, WRITTEN = 0x14, FILTERED_MSR = 0x1b0 };
enum { OP_WAIT_HALTED = 7, OP_WAIT_SPINNING = 8, OP_SPIN = 10, PAGE = 4096, IRQ_VECTOR = 0x30, GSI = 24 };
static const uint32_t MMIO = 0xfeb00000, KVM_IDENTITY_MAP = 0xfffbc000, KVM_TSS = 0xfffbd000;
// KVM_COALESCED_MMIO_MAX, whose PAGE_SIZE user space has not.
enum { RING_ENTRIES = (PAGE - sizeof(struct kvm_coalesced_mmio_ring)) / sizeof(struct kvm_coalesced_mmio) };
/** Passes before the clock starts: the process has just been woken up. As in exits/rig.ts. */
enum { LEAD_IN = 64 };
/** Between two interrupts or kicks: the guest is back where it waits. */
static const long PAUSE_NS = 200000;

static int vm_fd, vcpu_fd, irq_fd = -1;
static uint8_t *ram;
static struct kvm_run *run;
static struct kvm_coalesced_mmio_ring *ring;
static bool wants_regs, is_done;
static uint64_t consumed;
static double tsc_khz;

static void fail(const char *what) {
  fprintf(stderr, "%s: %s\n", what, strerror(errno));
  exit(1);
}

static int checked(int result, const char *what) {
  if (result < 0) fail(what);
  return result;
}

static double now(clockid_t clock) {
  struct timespec time;
  clock_gettime(clock, &time);
  return time.tv_sec * 1e9 + time.tv_nsec;
}

// --- The devices -----------------------------------------------------------------------------------------------------

struct handler {
  uint32_t base, length;
  uint32_t (*read)(uint32_t offset, int size);
  void (*write)(uint32_t offset, int size, uint32_t value);
};

static uint32_t console_sum, console_bytes;
static uint32_t console_read(uint32_t offset, int size) { (void)offset, (void)size; return PORT; }
static void console_write(uint32_t offset, int size, uint32_t value) {
  (void)offset, (void)size;
  console_sum += value;
  console_bytes++;
}

static uint32_t select_register;
static uint32_t registers_read(uint32_t offset, int size) { (void)size; return offset == 0 ? 0x74726976 : 0; }
static void registers_write(uint32_t offset, int size, uint32_t value) {
  (void)size;
  if (offset == WRITTEN) select_register = value;
}

static uint32_t end_read(uint32_t offset, int size) { (void)offset, (void)size; return 0xff; }
static void end_write(uint32_t offset, int size, uint32_t value) {
  (void)offset, (void)size, (void)value;
  is_done = true;
}

static sem_t answered;
static double answered_at;
static bool wants_answers;

static struct handler port_handlers[] = {
    {0, 0, end_read, end_write},
    {PORT, 1, console_read, console_write},
    {END_PORT, 1, end_read, end_write},
};
static struct handler mmio_handlers[] = {
    {REAL_MMIO, 0x200, registers_read, registers_write},
    {MMIO, 0x200, registers_read, registers_write},
};
static uint8_t port_table[0x10000];

static struct handler *mmio_handler(uint64_t address) {
  for (size_t i = 0; i < sizeof mmio_handlers / sizeof *mmio_handlers; i++)
    if (address - mmio_handlers[i].base < mmio_handlers[i].length) return &mmio_handlers[i];
  return NULL;
}

// --- The loop --------------------------------------------------------------------------------------------------------

static void serve_io(void) {
  struct handler *handler = &port_handlers[port_table[run->io.port]];
  uint8_t *data = (uint8_t *)run + run->io.data_offset;
  int size = run->io.size;
  uint32_t offset = run->io.port - handler->base;
  for (uint32_t i = 0; i < run->io.count; i++, data += size) {
    uint32_t value = 0;
    if (run->io.direction == KVM_EXIT_IO_OUT) {
      memcpy(&value, data, size);
      handler->write(offset, size, value);
    } else {
      value = handler->read(offset, size);
      memcpy(data, &value, size);
    }
  }
}

static void serve_mmio(void) {
  struct handler *handler = mmio_handler(run->mmio.phys_addr);
  uint32_t value = 0;
  if (!handler) return;
  uint32_t offset = run->mmio.phys_addr - handler->base;
  if (run->mmio.is_write) {
    memcpy(&value, run->mmio.data, 4);
    handler->write(offset, run->mmio.len, value);
  } else {
    value = handler->read(offset, run->mmio.len);
    memcpy(run->mmio.data, &value, 4);
  }
}

static void drain(void) {
  while (ring->first != __atomic_load_n(&ring->last, __ATOMIC_ACQUIRE)) {
    struct kvm_coalesced_mmio *entry = &ring->coalesced_mmio[ring->first];
    uint32_t value = 0;
    memcpy(&value, entry->data, 4);
    if (entry->pio) port_handlers[port_table[entry->phys_addr]].write(0, entry->len, value);
    else {
      struct handler *handler = mmio_handler(entry->phys_addr);
      if (handler) handler->write(entry->phys_addr - handler->base, entry->len, value);
    }
    __atomic_store_n(&ring->first, (ring->first + 1) % RING_ENTRIES, __ATOMIC_RELEASE);
  }
}

static void read_regs(void) {
  struct kvm_regs regs;
  if (run->kvm_valid_regs) consumed += run->s.regs.regs.rip;
  else {
    checked(ioctl(vcpu_fd, KVM_GET_REGS, &regs), "KVM_GET_REGS");
    consumed += regs.rip;
  }
}

/** Until the guest says that it is done. False: a kick. */
static bool run_guest(void) {
  is_done = false;
  while (!is_done) {
    int result = ioctl(vcpu_fd, KVM_RUN, 0);
    drain();
    if (result < 0) {
      if (errno != EINTR && errno != EAGAIN) fail("KVM_RUN");
      if (run->immediate_exit) return false;
      continue;
    }
    switch (run->exit_reason) {
      case KVM_EXIT_IO:
        if (wants_regs) read_regs();
        serve_io();
        if (wants_answers && run->io.port == PORT) {
          answered_at = now(CLOCK_MONOTONIC);
          sem_post(&answered);
        }
        break;
      case KVM_EXIT_MMIO:
        serve_mmio();
        break;
      case KVM_EXIT_X86_RDMSR:
        run->msr.data = 0;
        run->msr.error = 0;
        break;
      default:
        fprintf(stderr, "exit reason %u\n", run->exit_reason);
        exit(1);
    }
  }
  return true;
}

// --- Interrupts and kicks from a second thread -----------------------------------------------------------------------

static double latencies[MOST_STAMPS];
static uint32_t wanted_latencies;
static pid_t vcpu_thread;

static void on_kick(int signal) { (void)signal, run->immediate_exit = 1; }

static void *other_thread(void *kicks) {
  for (uint32_t i = 0; i < wanted_latencies; i++) {
    struct timespec pause = {.tv_nsec = PAUSE_NS};
    nanosleep(&pause, NULL);
    double from = now(CLOCK_MONOTONIC);
    if (kicks) {
      run->immediate_exit = 1;
      syscall(SYS_tgkill, getpid(), vcpu_thread, SIGRTMIN);
    } else {
      checked(eventfd_write(irq_fd, 1), "irqfd");
    }
    sem_wait(&answered);
    latencies[i] = answered_at - from;
  }
  return NULL;
}

static void run_answering(uint32_t count, bool kicks) {
  pthread_t thread;
  wanted_latencies = count;
  wants_answers = !kicks;
  pthread_create(&thread, NULL, other_thread, kicks ? run : NULL);
  if (!kicks) run_guest();
  else
    for (uint32_t i = 0; i < count; i++) {
      if (run_guest()) exit(1);
      answered_at = now(CLOCK_MONOTONIC);
      run->immediate_exit = 0;
      sem_post(&answered);
    }
  pthread_join(thread, NULL);
  wants_answers = false;
}

// --- The machine -----------------------------------------------------------------------------------------------------

static void route_interrupt(void) {
  struct {
    struct kvm_irq_routing table;
    struct kvm_irq_routing_entry entry;
  } routes = {{.nr = 1},
              {.gsi = GSI, .type = KVM_IRQ_ROUTING_MSI, .u.msi = {.address_lo = 0xfee00000, .data = IRQ_VECTOR}}};
  irq_fd = checked(eventfd(0, EFD_CLOEXEC), "eventfd");
  struct kvm_irqfd irqfd = {.fd = irq_fd, .gsi = GSI};
  checked(ioctl(vm_fd, KVM_SET_GSI_ROUTING, &routes), "KVM_SET_GSI_ROUTING");
  checked(ioctl(vm_fd, KVM_IRQFD, &irqfd), "KVM_IRQFD");
}

static void filter_msr(void) {
  uint8_t deny[4] = {0};
  struct kvm_enable_cap cap = {.cap = KVM_CAP_X86_USER_SPACE_MSR, .args = {KVM_MSR_EXIT_REASON_FILTER}};
  struct kvm_msr_filter filter = {
      .flags = KVM_MSR_FILTER_DEFAULT_ALLOW,
      .ranges = {{.flags = KVM_MSR_FILTER_READ, .nmsrs = 1, .base = FILTERED_MSR, .bitmap = deny}},
  };
  checked(ioctl(vm_fd, KVM_ENABLE_CAP, &cap), "KVM_ENABLE_CAP");
  checked(ioctl(vm_fd, KVM_X86_SET_MSR_FILTER, &filter), "KVM_X86_SET_MSR_FILTER");
}

static void add_feature(const char *feature, uint32_t mmio) {
  const struct {
    uint32_t address, size, pio;
  } written[] = {{PORT, 1, 1}, {mmio + WRITTEN, 4, 0}};
  for (int i = 0; i < 2; i++) {
    if (strcmp(feature, "coalesced") == 0) {
      struct kvm_coalesced_mmio_zone zone = {.addr = written[i].address, .size = written[i].size, .pio = written[i].pio};
      checked(ioctl(vm_fd, KVM_REGISTER_COALESCED_MMIO, &zone), "KVM_REGISTER_COALESCED_MMIO");
    } else if (strcmp(feature, "ioeventfd") == 0) {
      struct kvm_ioeventfd bell = {
          .addr = written[i].address,
          .len = written[i].size,
          .fd = checked(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), "eventfd"),
          .flags = written[i].pio ? KVM_IOEVENTFD_FLAG_PIO : 0,
      };
      checked(ioctl(vm_fd, KVM_IOEVENTFD, &bell), "KVM_IOEVENTFD");
    }
  }
  if (strcmp(feature, "msr-filter") == 0) filter_msr();
  if (strcmp(feature, "sync-regs") == 0) run->kvm_valid_regs = KVM_SYNC_X86_REGS;
  wants_regs = strcmp(feature, "sync-regs") == 0 || strcmp(feature, "get-regs") == 0;
}

static void create_machine(const char *guest, uint32_t mode, const char *feature) {
  static struct {
    struct kvm_cpuid2 head;
    struct kvm_cpuid_entry2 entries[256];
  } cpuid = {.head = {.nent = 256}};
  int kvm = checked(open("/dev/kvm", O_RDWR | O_CLOEXEC), "open /dev/kvm");
  vm_fd = checked(ioctl(kvm, KVM_CREATE_VM, 0), "KVM_CREATE_VM");
  uint64_t identity = KVM_IDENTITY_MAP;
  checked(ioctl(vm_fd, KVM_SET_IDENTITY_MAP_ADDR, &identity), "KVM_SET_IDENTITY_MAP_ADDR");
  checked(ioctl(vm_fd, KVM_SET_TSS_ADDR, KVM_TSS), "KVM_SET_TSS_ADDR");
  checked(ioctl(vm_fd, KVM_CREATE_IRQCHIP), "KVM_CREATE_IRQCHIP");
  ram = mmap(NULL, RAM, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  struct kvm_userspace_memory_region region = {.memory_size = RAM, .userspace_addr = (uintptr_t)ram};
  checked(ioctl(vm_fd, KVM_SET_USER_MEMORY_REGION, &region), "KVM_SET_USER_MEMORY_REGION");
  int file = checked(open(guest, O_RDONLY | O_CLOEXEC), guest);
  if (read(file, ram + ENTRY, 0x4000) <= 0) fail(guest);
  close(file);

  vcpu_fd = checked(ioctl(vm_fd, KVM_CREATE_VCPU, 0), "KVM_CREATE_VCPU");
  run = mmap(NULL, 3 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu_fd, 0);
  if (run == MAP_FAILED) fail("mmap");
  ring = (void *)((char *)run + 2 * PAGE);
  checked(ioctl(kvm, KVM_GET_SUPPORTED_CPUID, &cpuid), "KVM_GET_SUPPORTED_CPUID");
  checked(ioctl(vcpu_fd, KVM_SET_CPUID2, &cpuid), "KVM_SET_CPUID2");
  struct kvm_sregs sregs;
  checked(ioctl(vcpu_fd, KVM_GET_SREGS, &sregs), "KVM_GET_SREGS");
  sregs.cs.base = sregs.cs.selector = 0;
  checked(ioctl(vcpu_fd, KVM_SET_SREGS, &sregs), "KVM_SET_SREGS");
  struct kvm_regs regs = {.rip = ENTRY, .rflags = 2};
  checked(ioctl(vcpu_fd, KVM_SET_REGS, &regs), "KVM_SET_REGS");
  tsc_khz = ioctl(vcpu_fd, KVM_GET_TSC_KHZ, 0);
  route_interrupt();
  for (size_t i = 0; i < sizeof port_handlers / sizeof *port_handlers; i++)
    memset(port_table + port_handlers[i].base, i, port_handlers[i].length);
  add_feature(feature, mode == 0 ? REAL_MMIO : MMIO);
}

static void post(uint32_t at, uint32_t value) { memcpy(ram + at, &value, sizeof value); }

static int ascending(const void *a, const void *b) {
  double difference = *(const double *)a - *(const double *)b;
  return (difference > 0) - (difference < 0);
}

// How often the thread lost its processor to others.
static long preemptions(void) {
  struct rusage usage;
  getrusage(RUSAGE_THREAD, &usage);
  return usage.ru_nivcsw;
}

static void answer(double cpu, double wall, long preempted, uint32_t samples) {
  double p50 = 0, p99 = 0;
  if (samples) {
    qsort(latencies, samples, sizeof *latencies, ascending);
    p50 = latencies[samples / 2];
    p99 = latencies[(uint32_t)(samples * 0.99)];
  }
  printf("%.0f %.0f %ld %.1f %.1f %.0f\n", cpu, wall, preempted, p50, p99, tsc_khz);
  fflush(stdout);
}

static int serve(const char *guest, uint32_t op, uint32_t mode, const char *feature) {
  uint32_t count, stamped;
  create_machine(guest, mode, feature);
  sem_init(&answered, 0, 0);
  vcpu_thread = gettid();
  struct sigaction action = {.sa_handler = on_kick};
  sigaction(SIGRTMIN, &action, NULL);
  post(MODE, mode);
  run_guest();
  while (scanf("%u %u", &count, &stamped) == 2) {
    bool kicks = op == OP_SPIN, answers = op == OP_WAIT_HALTED || op == OP_WAIT_SPINNING;
    if (stamped && count > MOST_STAMPS) count = MOST_STAMPS;
    if ((kicks || answers) && count > MOST_STAMPS) count = MOST_STAMPS;
    post(OP, op);
    post(STAMPED, stamped);
    if (!kicks && !answers) {
      post(COUNT, count < LEAD_IN ? count : LEAD_IN);
      run_guest();
    }
    post(COUNT, count);
    long preempted = preemptions();
    double wall = now(CLOCK_MONOTONIC), cpu = now(CLOCK_THREAD_CPUTIME_ID);
    if (kicks || answers) run_answering(count, kicks);
    else run_guest();
    cpu = now(CLOCK_THREAD_CPUTIME_ID) - cpu;
    wall = now(CLOCK_MONOTONIC) - wall;
    preempted = preemptions() - preempted;
    if (stamped && !kicks && !answers)
      for (uint32_t i = 0; i < count; i++) {
        uint32_t cycles;
        memcpy(&cycles, ram + STAMPS + 4 * i, sizeof cycles);
        latencies[i] = cycles / tsc_khz * 1e6;
      }
    answer(cpu, wall, preempted, stamped || kicks || answers ? count : 0);
  }
  return 0;
}

static int run_command(char **command) {
  int status;
  struct rusage usage;
  pid_t child = checked(fork(), "fork");
  if (child == 0) {
    execvp(command[0], command);
    perror(command[0]);
    _exit(127);
  }
  checked(wait4(child, &status, 0, &usage), "wait4");
  double seconds = usage.ru_utime.tv_sec + usage.ru_stime.tv_sec;
  printf("%.0f %d\n", seconds * 1e9 + (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1e3,
         WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
  return 0;
}

int main(int argc, char **argv) {
  if (argc > 2 && strcmp(argv[1], "--") == 0) return run_command(argv + 2);
  if (argc < 5) {
    fprintf(stderr, "reference GUEST OP MODE FEATURE\nreference -- COMMAND ...\n");
    return 2;
  }
  return serve(argv[1], strtoul(argv[2], NULL, 0), strtoul(argv[3], NULL, 0), argv[4]);
}
