// The yardstick for the cost of a Linux boot: a plain VMM in C that boots an ELF vmlinux to user space, one vCPU.
// KVM API (Linux Documentation/virt/kvm/api.rst); Linux Documentation/arch/x86/boot.rst, 64-bit boot protocol.
//
//   cc -O2 -Wall -Wextra -o boot-reference boot-reference.c
//
// It does what the TypeScript VMM does for the same guest, in the straightest way: in-kernel interrupt controllers,
// boot_params and an MP table, a 16550, and with --quirks the remedies for a KVM that has no hardware virtualization.

#define _GNU_SOURCE
#include <asm/bootparam.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <linux/kvm.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

// --- Where everything lies, as in src/memory/layout.ts ---------------------------------------------------------------

enum {
  BOOT_GDT = 0x500,
  ZERO_PAGE = 0x7000,
  BOOT_STACK = 0x8ff0,
  BOOT_PML4 = 0x9000,
  CMDLINE = 0x20000,
  CMDLINE_MAX = 2048,
  EBDA = 0x9fc00,
  VIDEO_HOLE = 0xa0000,
  HIGH_MEMORY = 0x100000,
};
static const uint64_t KVM_IDENTITY_MAP = 0xfffbc000, KVM_TSS = 0xfffbd000;
static const uint32_t IOAPIC_BASE = 0xfec00000, LAPIC_BASE = 0xfee00000;

enum { COM1 = 0x3f8, COM1_GSI = 4, I8042_COMMAND = 0x64, CMOS_INDEX = 0x70, CMOS_DATA = 0x71, PM1A_CONTROL = 0x604 };
enum { SLP_EN = 1 << 13, SLP_TYP_S5 = 5 << 10 };

enum { MSR_IA32_MISC_ENABLE = 0x1a0, MSR_MTRR_DEF_TYPE = 0x2ff };
enum { MSR_STAR = 0xc0000081, MSR_LSTAR = 0xc0000082, MSR_SYSCALL_MASK = 0xc0000084 };

// --- The machine -----------------------------------------------------------------------------------------------------

static struct {
  const char *kernel, *initrd, *cmdline, *until, *mark, *report;
  size_t until_length, mark_length;
  uint64_t mem;
  bool quirks;
} options = {.cmdline = "console=ttyS0", .mem = 128 << 20};

static int vm_fd, vcpu_fd;
static uint8_t *ram;
static struct kvm_run *run;

struct stamp {
  double cpu_ms, wall_ms;
};
static struct timespec start;
static struct stamp at_first_run, at_mark, at_end;
static uint64_t exits[64];
static uint64_t assists_int3, assists_fwait, assists_flag, assists_cmpxchg16b, assists_syscall, assists_page_fault;
static const char *outcome;

static struct stamp now(void) {
  struct timespec cpu, wall;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &cpu);
  clock_gettime(CLOCK_MONOTONIC, &wall);
  return (struct stamp){
      .cpu_ms = cpu.tv_sec * 1e3 + cpu.tv_nsec / 1e6,
      .wall_ms = (wall.tv_sec - start.tv_sec) * 1e3 + (wall.tv_nsec - start.tv_nsec) / 1e6,
  };
}

__attribute__((noreturn, format(printf, 2, 3))) static void fail(int status, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  fputs("boot-reference: ", stderr);
  vfprintf(stderr, format, arguments);
  fputc('\n', stderr);
  va_end(arguments);
  exit(status);
}

// An ioctl that has to work; its name and errno are the message when it does not.
#define must(fd, request, argument) must_ioctl(fd, request, (uintptr_t)(argument), #request)
static int must_ioctl(int fd, unsigned long request, uintptr_t argument, const char *name) {
  int result = ioctl(fd, request, argument);
  if (result < 0) fail(125, "%s: %s", name, strerror(errno));
  return result;
}

// --- 16550A on COM1: output only, nobody types here ------------------------------------------------------------------

enum { IER_THRI = 0x02, LCR_DLAB = 0x80, LSR_THRE_TEMT = 0x60, MSR_DCD_DSR_CTS = 0xb0, IIR_NONE = 1, IIR_THRE = 2 };

static struct {
  uint8_t ier, fcr, lcr, mcr, scr, dll, dlm;
  bool thre_pending;
  int irq;
  char line[4096];
  size_t length;
} uart;

static void uart_flush(void) {
  for (size_t done = 0; done < uart.length;) {
    ssize_t n = write(STDOUT_FILENO, uart.line + done, uart.length - done);
    if (n < 0 && errno != EINTR) break;
    if (n > 0) done += n;
  }
  uart.length = 0;
}

// The pin is edge-triggered: one pulse for each time that the transmitter becomes empty and nobody knows yet.
static void uart_raise_thre(void) {
  if (uart.thre_pending || !(uart.ier & IER_THRI)) return;
  uart.thre_pending = true;
  eventfd_write(uart.irq, 1);
}

static bool line_ends_with(const char *text, size_t length) {
  return text && uart.length >= length && !memcmp(uart.line + uart.length - length, text, length);
}

static void uart_send(uint8_t byte) {
  uart.line[uart.length++] = (char)byte;
  if (at_mark.wall_ms == 0 && line_ends_with(options.mark, options.mark_length)) at_mark = now();
  if (line_ends_with(options.until, options.until_length)) outcome = "until";
  if (byte == '\n' || uart.length == sizeof uart.line) uart_flush();
  uart_raise_thre();
}

static void uart_write(unsigned offset, uint8_t value) {
  bool dlab = uart.lcr & LCR_DLAB;
  switch (offset) {
    case 0: if (dlab) uart.dll = value; else uart_send(value); break;
    case 1:
      if (dlab) { uart.dlm = value; break; }
      uart.ier = value & 0x0f;
      if (!(uart.ier & IER_THRI)) uart.thre_pending = false;
      uart_raise_thre();
      break;
    case 2: uart.fcr = value; break;
    case 3: uart.lcr = value; break;
    case 4: uart.mcr = value & 0x1f; break;
    case 7: uart.scr = value; break;
  }
}

static uint8_t uart_read(unsigned offset) {
  bool dlab = uart.lcr & LCR_DLAB;
  switch (offset) {
    case 0: return dlab ? uart.dll : 0;
    case 1: return dlab ? uart.dlm : uart.ier;
    case 2: {
      uint8_t fifos = uart.fcr & 1 ? 0xc0 : 0;
      if (!uart.thre_pending) return fifos | IIR_NONE;
      uart.thre_pending = false;
      return fifos | IIR_THRE;
    }
    case 3: return uart.lcr;
    case 4: return uart.mcr;
    case 5: return LSR_THRE_TEMT;
    case 6:
      // Loopback: RTS, DTR, OUT1, OUT2 come back as CTS, DSR, RI, DCD; this is how a driver tells a 16550 from nothing.
      if (!(uart.mcr & 0x10)) return MSR_DCD_DSR_CTS;
      return (uart.mcr & 0x0c) << 4 | (uart.mcr & 0x01) << 5 | (uart.mcr & 0x02) << 3;
    default: return uart.scr;
  }
}

// --- Ports -----------------------------------------------------------------------------------------------------------

static uint8_t cmos_index;

static void port_write(uint16_t port, unsigned size, const uint8_t *data) {
  if ((port & ~7) == COM1) uart_write(port - COM1, *data);
  else if (port == CMOS_INDEX) cmos_index = *data & 0x7f;
  else if (port == I8042_COMMAND && *data == 0xfe) outcome = "reset";
  else if (port == PM1A_CONTROL && size == 2 && (data[0] | data[1] << 8) == (SLP_EN | SLP_TYP_S5)) outcome = "poweroff";
}

static uint8_t port_read(uint16_t port) {
  if ((port & ~7) == COM1) return uart_read(port - COM1);
  if (port == I8042_COMMAND) return 0;
  // No time of day: only "valid RAM and time", and never an update in progress.
  if (port == CMOS_DATA) return cmos_index == 0x0d ? 0x80 : 0;
  return 0xff;
}

static void serve_io(void) {
  uint8_t *data = (uint8_t *)run + run->io.data_offset;
  for (uint32_t i = 0; i < run->io.count; i++, data += run->io.size) {
    if (run->io.direction == KVM_EXIT_IO_OUT) port_write(run->io.port, run->io.size, data);
    else {
      memset(data, 0xff, run->io.size);
      data[0] = port_read(run->io.port);
    }
  }
}

// --- Guest memory by linear address, for the remedies ----------------------------------------------------------------

// The RAM behind a linear address of the guest (4-level paging), or null. A run of `size` bytes that leaves its page
// is not followed.
static void *linear(uint64_t address, size_t size) {
  uint64_t table = run->s.regs.sregs.cr3 & 0x000ffffffffff000;
  for (int shift = 39;; shift -= 9) {
    uint64_t entry, at = table + (address >> shift & 511) * 8;
    if (at + 8 > options.mem) return NULL;
    memcpy(&entry, ram + at, 8);
    if (!(entry & 1)) return NULL;
    uint64_t offset_mask = (1ull << shift) - 1;
    table = entry & 0x000ffffffffff000;
    if (shift != 12 && !(entry & 0x80 && shift < 39)) continue;
    uint64_t physical = (table & ~offset_mask) | (address & offset_mask);
    if ((address & 0xfff) + size > 0x1000 || physical + size > options.mem) return NULL;
    return ram + physical;
  }
}

// --- The remedy for `syscall` that leaves CPL at 3 -------------------------------------------------------------------
// The fetch at LSTAR then faults. A breakpoint on the guest's #PF handler turns such a fault into the entry.

static uint64_t lstar, page_fault_handler;
static bool is_stepping;

static void debug_control(uint32_t control) {
  struct kvm_guest_debug debug = {.control = KVM_GUESTDBG_ENABLE | control};
  debug.arch.debugreg[0] = page_fault_handler;
  debug.arch.debugreg[7] = 0x402;
  must(vcpu_fd, KVM_SET_GUEST_DEBUG, &debug);
}

static void arm_lstar_filter(void) {
  struct kvm_enable_cap cap = {.cap = KVM_CAP_X86_USER_SPACE_MSR, .args = {KVM_MSR_EXIT_REASON_FILTER}};
  must(vm_fd, KVM_ENABLE_CAP, &cap);
  static uint8_t denied[8];
  struct kvm_msr_filter filter = {.flags = KVM_MSR_FILTER_DEFAULT_ALLOW};
  filter.ranges[0] = (struct kvm_msr_filter_range){
      .flags = KVM_MSR_FILTER_WRITE, .base = MSR_LSTAR, .nmsrs = 1, .bitmap = denied};
  must(vm_fd, KVM_X86_SET_MSR_FILTER, &filter);
}

struct one_msr {
  struct kvm_msrs head;
  struct kvm_msr_entry entry;
};

static void set_msr(uint32_t index, uint64_t data) {
  struct one_msr msrs = {.head.nmsrs = 1, .entry = {.index = index, .data = data}};
  if (must(vcpu_fd, KVM_SET_MSRS, &msrs) != 1) fail(125, "KVM_SET_MSRS refused MSR 0x%x", index);
}

static uint64_t get_msr(uint32_t index) {
  struct one_msr msrs = {.head.nmsrs = 1, .entry.index = index};
  must(vcpu_fd, KVM_GET_MSRS, &msrs);
  return msrs.entry.data;
}

// The guest's write of LSTAR: by now its page-fault gate is in place.
static void lstar_written(void) {
  set_msr(MSR_LSTAR, lstar = run->msr.data);
  run->msr.error = 0;
  uint64_t gate[2];
  void *at = linear(run->s.regs.sregs.idt.base + 14 * 16, sizeof gate);
  if (!at) fail(125, "LSTAR was written before there was an IDT");
  memcpy(gate, at, sizeof gate);
  page_fault_handler = (gate[0] & 0xffff) | (gate[0] >> 32 & 0xffff0000) | gate[1] << 32;
  debug_control(KVM_GUESTDBG_USE_HW_BP);
}

static void load_segment(struct kvm_segment *segment, uint16_t selector, uint8_t type, bool is_code) {
  *segment = (struct kvm_segment){.limit = 0xffffffff, .selector = selector, .type = type, .present = 1, .s = 1,
                                  .g = 1, .l = is_code, .db = !is_code};
}

// First instructions of a page-fault handler that need no processor to step over.
static const struct {
  uint8_t bytes[4], size, length;
  uint32_t clear;
} first_instructions[] = {
    {{0x0f, 0x01, 0xca}, 3, 3, 1 << 18},      // clac
    {{0x90}, 1, 1, 0},                        // nop
    {{0x66, 0x90}, 2, 2, 0},                  // nop, two bytes
    {{0x0f, 0x1f, 0x00}, 3, 3, 0},            // nop, three bytes: clac where there is no SMAP
    {{0xfc}, 1, 1, 1 << 10},                  // cld
    {{0xf3, 0x0f, 0x1e, 0xfa}, 4, 4, 0},      // endbr64
};

static void step_over(struct kvm_regs *regs) {
  const uint8_t *code = linear(regs->rip, 4);
  for (size_t i = 0; code && i < sizeof first_instructions / sizeof *first_instructions; i++) {
    if (memcmp(code, first_instructions[i].bytes, first_instructions[i].size)) continue;
    regs->rip += first_instructions[i].length;
    regs->rflags &= ~(uint64_t)first_instructions[i].clear;
    run->kvm_dirty_regs = KVM_SYNC_X86_REGS;
    return;
  }
  is_stepping = true;
  debug_control(KVM_GUESTDBG_SINGLESTEP);
}

static void serve_debug(void) {
  struct kvm_regs *regs = &run->s.regs.regs;
  if (is_stepping) {
    is_stepping = false;
    debug_control(KVM_GUESTDBG_USE_HW_BP);
    return;
  }
  struct { uint64_t error, rip, cs, rflags, rsp; } *frame = linear(regs->rsp, sizeof *frame);
  if (!frame || frame->rip != lstar || (frame->cs & 3) != 3) {
    assists_page_fault++;
    step_over(regs);
    return;
  }
  assists_syscall++;
  static uint64_t star, mask;
  if (!star) {
    star = get_msr(MSR_STAR);
    mask = get_msr(MSR_SYSCALL_MASK);
  }
  uint16_t selector = star >> 32;
  regs->rip = lstar;
  regs->rsp = frame->rsp;
  regs->rflags = frame->rflags & ~(mask | 1 << 16);
  load_segment(&run->s.regs.sregs.cs, selector, 0xb, true);
  load_segment(&run->s.regs.sregs.ss, selector + 8, 0x3, false);
  run->kvm_dirty_regs = KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS;
}

// --- The remedy for instructions that KVM's emulator lacks -----------------------------------------------------------

static __u64 *general(unsigned number) {
  struct kvm_regs *r = &run->s.regs.regs;
  // struct kvm_regs has RSI, RDI, RSP, RBP where the encoding has RSP, RBP, RSI, RDI, and RBX before RCX.
  __u64 *const order[] = {&r->rax, &r->rcx, &r->rdx, &r->rbx, &r->rsp, &r->rbp, &r->rsi, &r->rdi,
                             &r->r8,  &r->r9,  &r->r10, &r->r11, &r->r12, &r->r13, &r->r14, &r->r15};
  return order[number];
}

// The memory operand of 64-bit mode that starts with the ModRM byte at `code`; null for a register. `*length` becomes
// the size of ModRM, SIB and displacement.
static void *memory_operand(const uint8_t *code, uint8_t rex, uint64_t base, uint64_t after, size_t size, size_t *length) {
  unsigned mod = code[0] >> 6, rm = code[0] & 7;
  const uint8_t *at = code + 1;
  uint64_t address = base;
  bool is_relative = false;
  if (mod == 3) return NULL;
  if (rm == 4) {
    unsigned sib = *at++, index = (sib >> 3 & 7) | (rex & 2) << 2;
    if (index != 4) address += *general(index) << (sib >> 6);
    if ((sib & 7) == 5 && mod == 0) mod = 4;
    else address += *general((sib & 7) | (rex & 1) << 3);
  } else if (rm == 5 && mod == 0) {
    mod = 4;
    is_relative = true;
  } else address += *general(rm | (rex & 1) << 3);
  if (mod == 1) address += (int8_t)*at++;
  if (mod == 2 || mod == 4) {
    int32_t displacement;
    memcpy(&displacement, at, 4);
    address += displacement;
    at += 4;
  }
  *length = at - code;
  if (is_relative) address += after + *length;
  return linear(address, size);
}

static bool cmpxchg16b(const uint8_t *code, uint8_t rex, uint64_t base, uint64_t after, size_t *length) {
  struct kvm_regs *r = &run->s.regs.regs;
  uint64_t *pair = memory_operand(code, rex, base, after, 16, length);
  if (!pair) return false;
  // One vCPU: nobody writes between the comparison and the exchange.
  if (pair[0] == r->rax && pair[1] == r->rdx) {
    pair[0] = r->rbx;
    pair[1] = r->rcx;
    r->rflags |= 1 << 6;
  } else {
    r->rax = pair[0];
    r->rdx = pair[1];
    r->rflags &= ~(1ull << 6);
  }
  assists_cmpxchg16b++;
  return true;
}

static void inject(uint8_t vector) {
  struct kvm_vcpu_events events;
  must(vcpu_fd, KVM_GET_VCPU_EVENTS, &events);
  events.exception.injected = 1;
  events.exception.nr = vector;
  events.exception.has_error_code = 0;
  must(vcpu_fd, KVM_SET_VCPU_EVENTS, &events);
}

// Performs the instruction that KVM reports; false when this is not one of those known here.
static bool assist(void) {
  struct kvm_regs *r = &run->s.regs.regs;
  if (run->internal.suberror != KVM_INTERNAL_ERROR_EMULATION || run->emulation_failure.ndata < 3 ||
      !(run->emulation_failure.flags & KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES)) return false;
  const uint8_t *code = run->emulation_failure.insn_bytes;
  uint8_t rex = 0;
  uint64_t base = 0;
  size_t at = 0, operand = 0;
  for (; at < 8; at++) {
    if (code[at] == 0x64) base = run->s.regs.sregs.fs.base;
    else if (code[at] == 0x65) base = run->s.regs.sregs.gs.base;
    else if (code[at] != 0xf0 && code[at] != 0x2e && code[at] != 0x3e) break;
  }
  if ((code[at] & 0xf0) == 0x40) rex = code[at++];
  const uint8_t *opcode = code + at;
  if (opcode[0] == 0xcc) {
    assists_int3++;
    inject(3);
    at += 1;
  } else if (opcode[0] == 0x9b) {
    assists_fwait++;
    at += 1;
  } else if (opcode[0] == 0x0f && opcode[1] == 0x01 && (opcode[2] & 0xfe) == 0xca) {
    assists_flag++;
    if (opcode[2] == 0xca) r->rflags &= ~(1ull << 18);
    else r->rflags |= 1 << 18;
    at += 3;
  } else if (opcode[0] == 0x0f && opcode[1] == 0xc7 && (opcode[2] & 0x38) == 8 && rex & 8) {
    if (!cmpxchg16b(opcode + 2, rex, base, r->rip + at + 2, &operand)) return false;
    at += 2 + operand;
  } else return false;
  r->rip += at;
  run->kvm_dirty_regs = KVM_SYNC_X86_REGS;
  return true;
}

// --- What the guest finds in memory ----------------------------------------------------------------------------------

static int open_file(const char *name, uint64_t *size) {
  int fd = open(name, O_RDONLY | O_CLOEXEC);
  struct stat status;
  if (fd < 0 || fstat(fd, &status)) fail(2, "%s: %s", name, strerror(errno));
  if (!S_ISREG(status.st_mode)) fail(2, "%s: not a regular file", name);
  *size = status.st_size;
  return fd;
}

static void read_at(int fd, const char *name, uint64_t offset, void *to, uint64_t size) {
  for (uint64_t done = 0; done < size;) {
    ssize_t n = pread(fd, (char *)to + done, size - done, offset + done);
    if (n <= 0) fail(2, "%s: cannot read %llu bytes at %llu", name, (unsigned long long)size, (unsigned long long)offset);
    done += n;
  }
}

static uint64_t load_kernel(void) {
  uint64_t size;
  int fd = open_file(options.kernel, &size);
  Elf64_Ehdr header;
  read_at(fd, options.kernel, 0, &header, sizeof header);
  if (memcmp(header.e_ident, ELFMAG, SELFMAG) || header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_machine != EM_X86_64)
    fail(2, "%s: not an ELF64 kernel for x86-64", options.kernel);
  for (unsigned i = 0; i < header.e_phnum; i++) {
    Elf64_Phdr segment;
    read_at(fd, options.kernel, header.e_phoff + i * sizeof segment, &segment, sizeof segment);
    if (segment.p_type != PT_LOAD) continue;
    if (segment.p_paddr < HIGH_MEMORY || segment.p_paddr > options.mem || segment.p_memsz > options.mem - segment.p_paddr ||
        segment.p_filesz > segment.p_memsz) fail(2, "%s: a segment does not fit into RAM", options.kernel);
    read_at(fd, options.kernel, segment.p_offset, ram + segment.p_paddr, segment.p_filesz);
  }
  close(fd);
  return header.e_entry;
}

static void place_boot_params(void) {
  struct boot_params *params = (void *)(ram + ZERO_PAGE);
  if (strlen(options.cmdline) >= CMDLINE_MAX) fail(2, "--cmdline: longer than %d bytes", CMDLINE_MAX - 1);
  strcpy((char *)ram + CMDLINE, options.cmdline);
  params->hdr.boot_flag = 0xaa55;
  params->hdr.header = 0x53726448;
  params->hdr.version = 0x020f;
  params->hdr.type_of_loader = 0xff;
  params->hdr.loadflags = LOADED_HIGH;
  params->hdr.cmd_line_ptr = CMDLINE;
  params->hdr.cmdline_size = CMDLINE_MAX - 1;
  params->e820_entries = 3;
  params->e820_table[0] = (struct boot_e820_entry){0, EBDA, 1};
  params->e820_table[1] = (struct boot_e820_entry){EBDA, VIDEO_HOLE - EBDA, 2};
  params->e820_table[2] = (struct boot_e820_entry){HIGH_MEMORY, options.mem - HIGH_MEMORY, 1};
  if (options.initrd) {
    uint64_t size;
    int fd = open_file(options.initrd, &size);
    if (size > options.mem / 2) fail(2, "%s: does not fit into RAM", options.initrd);
    params->hdr.ramdisk_image = (options.mem - size) & ~0xfffull;
    params->hdr.ramdisk_size = size;
    read_at(fd, options.initrd, 0, ram + params->hdr.ramdisk_image, size);
    close(fd);
  }
}

static uint8_t *put(uint8_t *at, const void *bytes, size_t size) {
  memcpy(at, bytes, size);
  return at + size;
}

static void seal(uint8_t *table, size_t size, size_t checksum) {
  uint8_t sum = 0;
  for (size_t i = 0; i < size; i++) sum += table[i];
  table[checksum] = -sum;
}

// MP specification 1.4 §4: one processor, the ISA bus, the IOAPIC, its pins edge-triggered and active high.
static void place_mp_table(void) {
  uint8_t *pointer = ram + EBDA, *table = pointer + 16, *at = table + 44;
  uint16_t entries = 5;
  at = put(at, (uint8_t[20]){0, 0, 0x14, 3, [5] = 6, [8] = 1, [9] = 2}, 20);
  at = put(at, (uint8_t[8]){1, 0, 'I', 'S', 'A', ' ', ' ', ' '}, 8);
  at = put(at, (uint8_t[4]){2, 0, 0x11, 1}, 4);
  at = put(at, &IOAPIC_BASE, 4);
  for (uint8_t pin = 0; pin < 24; pin++) {
    if (pin == 2) continue;
    at = put(at, (uint8_t[8]){3, 0, 5, 0, 0, pin, 0, pin}, 8);
    entries++;
  }
  at = put(at, (uint8_t[8]){4, 3, 0, 0, 0, 0, 0, 0}, 8);
  at = put(at, (uint8_t[8]){4, 1, 0, 0, 0, 0, 0xff, 1}, 8);
  uint16_t length = at - table;
  put(table, "PCMP", 4);
  put(table + 4, &length, 2);
  table[6] = 4;
  put(table + 8, "MICROVSRBOOT-REF    ", 20);
  put(table + 34, &entries, 2);
  put(table + 36, &LAPIC_BASE, 4);
  seal(table, length, 7);
  uint32_t where = EBDA + 16;
  put(pointer, "_MP_", 4);
  put(pointer + 4, &where, 4);
  pointer[8] = 1;
  pointer[9] = 4;
  seal(pointer, 16, 10);
}

// The GDT of the boot protocol and an identity map of the first 4 GiB.
static void place_boot_tables(void) {
  static const uint64_t gdt[] = {0, 0, 0x00af9b000000ffff, 0x00cf93000000ffff};
  memcpy(ram + BOOT_GDT, gdt, sizeof gdt);
  uint64_t *pml4 = (void *)(ram + BOOT_PML4), *pdpt = pml4 + 512, *directories = pdpt + 512;
  pml4[0] = (BOOT_PML4 + 0x1000) | 3;
  for (unsigned i = 0; i < 4; i++) pdpt[i] = (BOOT_PML4 + 0x2000 + i * 0x1000) | 3;
  for (uint64_t i = 0; i < 4 * 512; i++) directories[i] = i << 21 | 0x83;
}

// --- Setting up ------------------------------------------------------------------------------------------------------

static void set_cpuid(int kvm) {
  enum { ROOM = 256 };
  struct kvm_cpuid2 *cpuid = calloc(1, sizeof *cpuid + ROOM * sizeof *cpuid->entries);
  cpuid->nent = ROOM;
  must(kvm, KVM_GET_SUPPORTED_CPUID, cpuid);
  for (unsigned i = 0; i < cpuid->nent; i++) {
    struct kvm_cpuid_entry2 *e = &cpuid->entries[i];
    if (e->function == 1) {
      e->ebx = (e->ebx & 0xffff) | 1 << 16;
      // Hypervisor, TSC deadline, x2APIC; no performance counters.
      e->ecx = (e->ecx | 1u << 31 | 1 << 24 | 1 << 21) & ~(1u << 15);
      e->edx &= ~(1u << 28);
    } else if (e->function == 6) e->ecx &= ~8u;
    else if (e->function == 0xa || e->function == 0x15 || e->function == 0x16) e->eax = e->ebx = e->ecx = e->edx = 0;
    else if (e->function == 0xb || e->function == 0x1f) {
      e->eax = 0;
      e->ebx = e->index < 2;
      e->ecx = e->index | (e->index < 2 ? (e->index + 1) << 8 : 0);
      e->edx = 0;
    }
  }
  must(vcpu_fd, KVM_SET_CPUID2, cpuid);
  free(cpuid);
}

static void set_registers(uint64_t entry) {
  struct kvm_lapic_state lapic;
  must(vcpu_fd, KVM_GET_LAPIC, &lapic);
  // LINT0 carries the 8259's interrupts, LINT1 NMIs.
  uint32_t ext_int = 7 << 8, nmi = 4 << 8;
  memcpy(lapic.regs + 0x350, &ext_int, 4);
  memcpy(lapic.regs + 0x360, &nmi, 4);
  must(vcpu_fd, KVM_SET_LAPIC, &lapic);
  set_msr(MSR_IA32_MISC_ENABLE, 1);
  set_msr(MSR_MTRR_DEF_TYPE, 1 << 11 | 6);

  struct kvm_sregs sregs;
  must(vcpu_fd, KVM_GET_SREGS, &sregs);
  load_segment(&sregs.cs, 0x10, 0xb, true);
  struct kvm_segment *data[] = {&sregs.ds, &sregs.es, &sregs.fs, &sregs.gs, &sregs.ss};
  for (unsigned i = 0; i < 5; i++) load_segment(data[i], 0x18, 0x3, false);
  sregs.gdt = (struct kvm_dtable){.base = BOOT_GDT, .limit = 31};
  sregs.idt = (struct kvm_dtable){0};
  sregs.cr3 = BOOT_PML4;
  sregs.cr4 = 1 << 5;
  sregs.cr0 = 0x80000011;
  sregs.efer = 1 << 8 | 1 << 10;
  must(vcpu_fd, KVM_SET_SREGS, &sregs);
  struct kvm_regs regs = {.rip = entry, .rsi = ZERO_PAGE, .rsp = BOOT_STACK, .rflags = 2};
  must(vcpu_fd, KVM_SET_REGS, &regs);
}

static void create_machine(void) {
  int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
  if (kvm < 0) fail(2, "/dev/kvm: %s", strerror(errno));
  vm_fd = must(kvm, KVM_CREATE_VM, 0);
  must(vm_fd, KVM_SET_TSS_ADDR, KVM_TSS);
  must(vm_fd, KVM_SET_IDENTITY_MAP_ADDR, &KVM_IDENTITY_MAP);
  must(vm_fd, KVM_CREATE_IRQCHIP, 0);
  struct kvm_pit_config pit = {.flags = KVM_PIT_SPEAKER_DUMMY};
  must(vm_fd, KVM_CREATE_PIT2, &pit);
  ram = mmap(NULL, options.mem, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (ram == MAP_FAILED) fail(2, "--mem: %s", strerror(errno));
  struct kvm_userspace_memory_region slot = {.memory_size = options.mem, .userspace_addr = (uintptr_t)ram};
  must(vm_fd, KVM_SET_USER_MEMORY_REGION, &slot);
  uart.irq = eventfd(0, EFD_CLOEXEC);
  struct kvm_irqfd irqfd = {.fd = uart.irq, .gsi = COM1_GSI};
  must(vm_fd, KVM_IRQFD, &irqfd);
  vcpu_fd = must(vm_fd, KVM_CREATE_VCPU, 0);
  run = mmap(NULL, must(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), PROT_READ | PROT_WRITE, MAP_SHARED, vcpu_fd, 0);
  if (run == MAP_FAILED) fail(125, "mmap of kvm_run: %s", strerror(errno));
  if (options.quirks) {
    arm_lstar_filter();
    run->kvm_valid_regs = KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS;
  }
  set_cpuid(kvm);
}

// --- Running and reporting -------------------------------------------------------------------------------------------

static void run_until_end(void) {
  at_first_run = now();
  while (!outcome) {
    if (ioctl(vcpu_fd, KVM_RUN, 0) < 0) {
      if (errno == EINTR || errno == EAGAIN) continue;
      fail(125, "KVM_RUN: %s", strerror(errno));
    }
    exits[run->exit_reason & 63]++;
    switch (run->exit_reason) {
      case KVM_EXIT_IO: serve_io(); break;
      case KVM_EXIT_MMIO: if (!run->mmio.is_write) memset(run->mmio.data, 0xff, 8); break;
      case KVM_EXIT_DEBUG: serve_debug(); break;
      case KVM_EXIT_X86_WRMSR: lstar_written(); break;
      case KVM_EXIT_INTERNAL_ERROR: if (!options.quirks || !assist()) outcome = "internal-error"; break;
      case KVM_EXIT_SHUTDOWN: outcome = "triple-fault"; break;
      default: outcome = "unknown-exit"; break;
    }
  }
  at_end = now();
}

static void dump(void) {
  struct kvm_regs r;
  struct kvm_sregs s;
  if (ioctl(vcpu_fd, KVM_GET_REGS, &r) || ioctl(vcpu_fd, KVM_GET_SREGS, &s)) return;
  fprintf(stderr, "rip %016llx rsp %016llx rflags %llx cr2 %016llx cr3 %llx cs %x\n", r.rip, r.rsp, r.rflags, s.cr2, s.cr3,
          s.cs.selector);
  fprintf(stderr, "rax %016llx rbx %016llx rcx %016llx rdx %016llx rsi %016llx rdi %016llx\n", r.rax, r.rbx, r.rcx, r.rdx,
          r.rsi, r.rdi);
  if (run->exit_reason != KVM_EXIT_INTERNAL_ERROR) return;
  fprintf(stderr, "suberror %u, instruction", run->internal.suberror);
  for (unsigned i = 0; i < run->emulation_failure.insn_size && i < 15; i++)
    fprintf(stderr, " %02x", run->emulation_failure.insn_bytes[i]);
  fputc('\n', stderr);
}

static void print_stamp(FILE *to, const char *name, struct stamp stamp) {
  fprintf(to, "  \"%s\": { \"cpuMs\": %.3f, \"wallMs\": %.3f },\n", name, stamp.cpu_ms, stamp.wall_ms);
}

static void report(void) {
  FILE *to = options.report ? fopen(options.report, "w") : stderr;
  if (!to) fail(2, "%s: %s", options.report, strerror(errno));
  fprintf(to, "{\n  \"outcome\": \"%s\",\n", outcome);
  print_stamp(to, "firstRun", at_first_run);
  if (at_mark.wall_ms) print_stamp(to, "mark", at_mark);
  print_stamp(to, "end", at_end);
  static const char *names[64] = {
      [KVM_EXIT_IO] = "IO", [KVM_EXIT_DEBUG] = "DEBUG", [KVM_EXIT_MMIO] = "MMIO", [KVM_EXIT_INTR] = "INTR",
      [KVM_EXIT_SHUTDOWN] = "SHUTDOWN", [KVM_EXIT_INTERNAL_ERROR] = "INTERNAL_ERROR", [KVM_EXIT_X86_WRMSR] = "X86_WRMSR"};
  fputs("  \"exits\": {", to);
  const char *comma = "";
  for (unsigned i = 0; i < 64; i++) {
    if (!exits[i]) continue;
    if (names[i]) fprintf(to, "%s \"%s\": %llu", comma, names[i], (unsigned long long)exits[i]);
    else fprintf(to, "%s \"%u\": %llu", comma, i, (unsigned long long)exits[i]);
    comma = ",";
  }
  fprintf(to,
          " },\n  \"assists\": { \"int3\": %llu, \"fwait\": %llu, \"clac-stac\": %llu, \"cmpxchg16b\": %llu, "
          "\"syscall\": %llu, \"page-fault\": %llu }\n}\n",
          (unsigned long long)assists_int3, (unsigned long long)assists_fwait, (unsigned long long)assists_flag,
          (unsigned long long)assists_cmpxchg16b, (unsigned long long)assists_syscall,
          (unsigned long long)assists_page_fault);
  if (to != stderr) fclose(to);
}

static void read_options(int argc, char **argv) {
  static const struct option known[] = {
      {"kernel", required_argument, NULL, 'k'}, {"initrd", required_argument, NULL, 'i'},
      {"cmdline", required_argument, NULL, 'c'}, {"mem", required_argument, NULL, 'm'},
      {"until", required_argument, NULL, 'u'}, {"mark", required_argument, NULL, 'f'},
      {"report", required_argument, NULL, 'r'}, {"quirks", no_argument, NULL, 'q'}, {NULL, 0, NULL, 0}};
  for (int option; (option = getopt_long(argc, argv, "", known, NULL)) != -1;) {
    switch (option) {
      case 'k': options.kernel = optarg; break;
      case 'i': options.initrd = optarg; break;
      case 'c': options.cmdline = optarg; break;
      case 'u': options.until_length = strlen(options.until = optarg); break;
      case 'f': options.mark_length = strlen(options.mark = optarg); break;
      case 'r': options.report = optarg; break;
      case 'q': options.quirks = true; break;
      case 'm': {
        unsigned long mib = strtoul(optarg, NULL, 10);
        if (mib < 16 || mib > 3072) fail(2, "--mem wants 16 to 3072 (MiB), not '%s'", optarg);
        options.mem = (uint64_t)mib << 20;
        break;
      }
      default: fail(2, "usage: --kernel FILE [--initrd FILE] [--cmdline TEXT] [--mem MiB] [--quirks] [--until TEXT] "
                       "[--mark TEXT] [--report FILE]");
    }
  }
  if (!options.kernel || optind != argc) fail(2, "--kernel FILE is wanted, and nothing but options");
}

int main(int argc, char **argv) {
  clock_gettime(CLOCK_MONOTONIC, &start);
  read_options(argc, argv);
  create_machine();
  uint64_t entry = load_kernel();
  place_boot_params();
  place_mp_table();
  place_boot_tables();
  set_registers(entry);
  run_until_end();
  uart_flush();
  report();
  bool is_good = !strcmp(outcome, "until") || !strcmp(outcome, "poweroff") || !strcmp(outcome, "reset");
  if (!is_good) dump();
  return is_good ? 0 : 125;
}
