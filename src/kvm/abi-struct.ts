// The kernel's structures as rows: each key is the C member, so that a test can hold the rows to the header.
// KVM API chapter 4; <linux/kvm.h>, <asm/kvm.h>.
import { defineStruct } from '../memory/struct.js';

export const kvmRegs = defineStruct('kvm_regs', 144, {
  rax: [0, 'u64'],
  rbx: [8, 'u64'],
  rcx: [16, 'u64'],
  rdx: [24, 'u64'],
  rsi: [32, 'u64'],
  rdi: [40, 'u64'],
  rsp: [48, 'u64'],
  rbp: [56, 'u64'],
  r8: [64, 'u64'],
  r9: [72, 'u64'],
  r10: [80, 'u64'],
  r11: [88, 'u64'],
  r12: [96, 'u64'],
  r13: [104, 'u64'],
  r14: [112, 'u64'],
  r15: [120, 'u64'],
  rip: [128, 'u64'],
  rflags: [136, 'u64'],
});

export const kvmSegment = defineStruct('kvm_segment', 24, {
  base: [0, 'u64'],
  limit: [8, 'u32'],
  selector: [12, 'u16'],
  type: [14, 'u8'],
  present: [15, 'u8'],
  dpl: [16, 'u8'],
  db: [17, 'u8'],
  s: [18, 'u8'],
  l: [19, 'u8'],
  g: [20, 'u8'],
  avl: [21, 'u8'],
  unusable: [22, 'u8'],
});

export const kvmDtable = defineStruct('kvm_dtable', 16, {
  base: [0, 'u64'],
  limit: [8, 'u16'],
});

export const kvmSregs = defineStruct('kvm_sregs', 312, {
  cs: [0, 'bytes24'],
  ds: [24, 'bytes24'],
  es: [48, 'bytes24'],
  fs: [72, 'bytes24'],
  gs: [96, 'bytes24'],
  ss: [120, 'bytes24'],
  tr: [144, 'bytes24'],
  ldt: [168, 'bytes24'],
  gdt: [192, 'bytes16'],
  idt: [208, 'bytes16'],
  cr0: [224, 'u64'],
  cr2: [232, 'u64'],
  cr3: [240, 'u64'],
  cr4: [248, 'u64'],
  cr8: [256, 'u64'],
  efer: [264, 'u64'],
  apic_base: [272, 'u64'],
  interrupt_bitmap: [280, 'bytes32'],
});

export const kvmFpu = defineStruct('kvm_fpu', 416, {
  fpr: [0, 'bytes128'],
  fcw: [128, 'u16'],
  fsw: [130, 'u16'],
  ftwx: [132, 'u8'],
  last_opcode: [134, 'u16'],
  last_ip: [136, 'u64'],
  last_dp: [144, 'u64'],
  xmm: [152, 'bytes256'],
  mxcsr: [408, 'u32'],
});

export const kvmVcpuEvents = defineStruct('kvm_vcpu_events', 64, {
  'exception.injected': [0, 'u8'],
  'exception.nr': [1, 'u8'],
  'exception.has_error_code': [2, 'u8'],
  'exception.pending': [3, 'u8'],
  'exception.error_code': [4, 'u32'],
  'interrupt.injected': [8, 'u8'],
  'interrupt.nr': [9, 'u8'],
  'interrupt.soft': [10, 'u8'],
  'interrupt.shadow': [11, 'u8'],
  'nmi.injected': [12, 'u8'],
  'nmi.pending': [13, 'u8'],
  'nmi.masked': [14, 'u8'],
  sipi_vector: [16, 'u32'],
  flags: [20, 'u32'],
  'smi.smm': [24, 'u8'],
  'smi.pending': [25, 'u8'],
  'smi.smm_inside_nmi': [26, 'u8'],
  'smi.latched_init': [27, 'u8'],
  'triple_fault.pending': [28, 'u8'],
  exception_has_payload: [55, 'u8'],
  exception_payload: [56, 'u64'],
});

export const kvmDebugregs = defineStruct('kvm_debugregs', 128, {
  'db[0]': [0, 'u64'],
  'db[1]': [8, 'u64'],
  'db[2]': [16, 'u64'],
  'db[3]': [24, 'u64'],
  dr6: [32, 'u64'],
  dr7: [40, 'u64'],
  flags: [48, 'u64'],
});

export const kvmMpState = defineStruct('kvm_mp_state', 4, { mp_state: [0, 'u32'] });

export const kvmMsrs = defineStruct('kvm_msrs', 8, { nmsrs: [0, 'u32'] });
export const kvmMsrEntry = defineStruct('kvm_msr_entry', 16, { index: [0, 'u32'], data: [8, 'u64'] });
export const kvmMsrList = defineStruct('kvm_msr_list', 4, { nmsrs: [0, 'u32'] });

export const kvmCpuid2 = defineStruct('kvm_cpuid2', 8, { nent: [0, 'u32'] });
export const kvmCpuidEntry2 = defineStruct('kvm_cpuid_entry2', 40, {
  function: [0, 'u32'],
  index: [4, 'u32'],
  flags: [8, 'u32'],
  eax: [12, 'u32'],
  ebx: [16, 'u32'],
  ecx: [20, 'u32'],
  edx: [24, 'u32'],
});

export const kvmXsave = defineStruct('kvm_xsave', 4096, { region: [0, 'bytes4096'] });
export const kvmXcrs = defineStruct('kvm_xcrs', 392, {
  nr_xcrs: [0, 'u32'],
  flags: [4, 'u32'],
  xcrs: [8, 'bytes256'],
});
export const kvmXcr = defineStruct('kvm_xcr', 16, { xcr: [0, 'u32'], value: [8, 'u64'] });

export const kvmLapicState = defineStruct('kvm_lapic_state', 1024, { regs: [0, 'bytes1024'] });

export const kvmGuestDebug = defineStruct('kvm_guest_debug', 72, {
  control: [0, 'u32'],
  'arch.debugreg[0]': [8, 'u64'],
  'arch.debugreg[1]': [16, 'u64'],
  'arch.debugreg[2]': [24, 'u64'],
  'arch.debugreg[3]': [32, 'u64'],
  'arch.debugreg[4]': [40, 'u64'],
  'arch.debugreg[5]': [48, 'u64'],
  'arch.debugreg[6]': [56, 'u64'],
  'arch.debugreg[7]': [64, 'u64'],
});

export const kvmTranslation = defineStruct('kvm_translation', 24, {
  linear_address: [0, 'u64'],
  physical_address: [8, 'u64'],
  valid: [16, 'u8'],
  writeable: [17, 'u8'],
  usermode: [18, 'u8'],
});

export const kvmEnableCap = defineStruct('kvm_enable_cap', 104, {
  cap: [0, 'u32'],
  flags: [4, 'u32'],
  'args[0]': [8, 'u64'],
  'args[1]': [16, 'u64'],
  'args[2]': [24, 'u64'],
  'args[3]': [32, 'u64'],
});

export const kvmIrqLevel = defineStruct('kvm_irq_level', 8, { irq: [0, 'u32'], level: [4, 'u32'] });

export const kvmIrqchip = defineStruct('kvm_irqchip', 520, { chip_id: [0, 'u32'], chip: [8, 'bytes512'] });

export const kvmPitConfig = defineStruct('kvm_pit_config', 64, { flags: [0, 'u32'] });
export const kvmPitState2 = defineStruct('kvm_pit_state2', 112, { channels: [0, 'bytes72'], flags: [72, 'u32'] });

export const kvmIrqfd = defineStruct('kvm_irqfd', 32, {
  fd: [0, 'u32'],
  gsi: [4, 'u32'],
  flags: [8, 'u32'],
  resamplefd: [12, 'u32'],
});

export const kvmIoeventfd = defineStruct('kvm_ioeventfd', 64, {
  datamatch: [0, 'u64'],
  addr: [8, 'u64'],
  len: [16, 'u32'],
  fd: [20, 'i32'],
  flags: [24, 'u32'],
});

export const kvmMsi = defineStruct('kvm_msi', 32, {
  address_lo: [0, 'u32'],
  address_hi: [4, 'u32'],
  data: [8, 'u32'],
  flags: [12, 'u32'],
  devid: [16, 'u32'],
});

export const kvmIrqRouting = defineStruct('kvm_irq_routing', 8, { nr: [0, 'u32'], flags: [4, 'u32'] });
export const kvmIrqRoutingEntry = defineStruct('kvm_irq_routing_entry', 48, {
  gsi: [0, 'u32'],
  type: [4, 'u32'],
  flags: [8, 'u32'],
  'u.irqchip.irqchip': [16, 'u32'],
  'u.irqchip.pin': [20, 'u32'],
  'u.msi.address_lo': [16, 'u32'],
  'u.msi.address_hi': [20, 'u32'],
  'u.msi.data': [24, 'u32'],
  'u.msi.devid': [28, 'u32'],
});

export const kvmCoalescedMmioZone = defineStruct('kvm_coalesced_mmio_zone', 16, {
  addr: [0, 'u64'],
  size: [8, 'u32'],
  pio: [12, 'u32'],
});
export const kvmCoalescedMmio = defineStruct('kvm_coalesced_mmio', 24, {
  phys_addr: [0, 'u64'],
  len: [8, 'u32'],
  pio: [12, 'u32'],
  data: [16, 'bytes8'],
});
export const kvmCoalescedMmioRing = defineStruct('kvm_coalesced_mmio_ring', 8, {
  first: [0, 'u32'],
  last: [4, 'u32'],
});

export const kvmClockData = defineStruct('kvm_clock_data', 48, {
  clock: [0, 'u64'],
  flags: [8, 'u32'],
  realtime: [16, 'u64'],
  host_tsc: [24, 'u64'],
});
