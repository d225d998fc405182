// Where the fields of struct kvm_run lie: byte offsets into VcpuFd.runBuffer.
// KVM API 5 (The kvm_run structure); <linux/kvm.h>, <asm/kvm.h>.

/** The union of all exits' details. */
const EXIT = 32;
/** struct kvm_sync_regs. */
const SYNC = 304;

export const KVM_RUN_OFFSET = {
  // From user space to the kernel
  request_interrupt_window: 0,
  immediate_exit: 1,
  // From the kernel
  exit_reason: 8,
  ready_for_interrupt_injection: 12,
  if_flag: 13,
  flags: 14,
  cr8: 16,
  apic_base: 24,
  hw: { hardware_exit_reason: EXIT },
  fail_entry: { hardware_entry_failure_reason: EXIT, cpu: EXIT + 8 },
  ex: { exception: EXIT, error_code: EXIT + 4 },
  /** `data_offset` is relative to the start of the buffer. */
  io: { direction: EXIT, size: EXIT + 1, port: EXIT + 2, count: EXIT + 4, data_offset: EXIT + 8 },
  debug: { arch: { exception: EXIT, pc: EXIT + 8, dr6: EXIT + 16, dr7: EXIT + 24 } },
  mmio: { phys_addr: EXIT, data: EXIT + 8, len: EXIT + 16, is_write: EXIT + 20 },
  hypercall: { nr: EXIT, args: EXIT + 8, ret: EXIT + 56, longmode: EXIT + 64 },
  tpr_access: { rip: EXIT, is_write: EXIT + 8 },
  internal: { suberror: EXIT, ndata: EXIT + 4, data: EXIT + 8 },
  emulation_failure: {
    suberror: EXIT,
    ndata: EXIT + 4,
    flags: EXIT + 8,
    insn_size: EXIT + 16,
    insn_bytes: EXIT + 17,
  },
  system_event: { type: EXIT, ndata: EXIT + 4, data: EXIT + 8 },
  eoi: { vector: EXIT },
  msr: { error: EXIT, reason: EXIT + 8, index: EXIT + 12, data: EXIT + 16 },
  notify: { flags: EXIT },
  // Both ways: KVM_SYNC_X86_* classes that the kernel stores, and those that user space changed
  kvm_valid_regs: 288,
  kvm_dirty_regs: 296,
  s: { regs: { regs: SYNC, sregs: SYNC + 144, events: SYNC + 456 } },
} as const;

/** sizeof(struct kvm_run) in bytes. */
export const KVM_RUN_SIZE = SYNC + 2048;

/** The ring of coalesced writes: page KVM_COALESCED_MMIO_PAGE_OFFSET of the same buffer, shared by all vCPUs of a VM. */
export const COALESCED_RING_OFFSET = {
  base: 2 * 4096,
  first: 2 * 4096,
  last: 2 * 4096 + 4,
  entries: 2 * 4096 + 8,
  entry: { phys_addr: 0, len: 8, pio: 12, data: 16 },
} as const;

/** Size of one entry of the ring in bytes. */
export const COALESCED_RING_STRIDE = 24;

/** KVM_COALESCED_MMIO_MAX: entries in the ring; it is full when one is left. */
export const COALESCED_RING_ENTRIES = Math.floor((4096 - 8) / COALESCED_RING_STRIDE);
