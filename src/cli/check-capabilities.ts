// The KVM capabilities that matter to Microvisor, and what for.
// KVM API 4.4 (KVM_CHECK_EXTENSION) and the chapter that each names.

export interface CapabilityRow {
  readonly name: `KVM_CAP_${string}`;
  readonly why: string;
  /** Without it no VM of ours starts. */
  readonly needed: boolean;
  /** KVM_CHECK_EXTENSION answers a number that says something by itself. */
  readonly counts?: true;
}

export const CAPABILITY_ROWS: readonly CapabilityRow[] = [
  { name: 'KVM_CAP_USER_MEMORY', why: 'guest RAM is memory of ours', needed: true },
  { name: 'KVM_CAP_IRQCHIP', why: 'interrupt controllers in the kernel', needed: true },
  { name: 'KVM_CAP_PIT2', why: 'the timer that Linux calibrates by', needed: true },
  { name: 'KVM_CAP_EXT_CPUID', why: 'CPUID as our table has it', needed: true },
  { name: 'KVM_CAP_SET_TSS_ADDR', why: 'Intel processors need three pages', needed: true },
  { name: 'KVM_CAP_SET_IDENTITY_MAP_ADDR', why: 'and one more', needed: true },
  { name: 'KVM_CAP_MP_STATE', why: 'processors that wait for SIPI; halted ones', needed: true },
  { name: 'KVM_CAP_IRQFD', why: 'interrupts without a call into the kernel', needed: true },
  { name: 'KVM_CAP_IOEVENTFD', why: 'doorbells without an exit', needed: true },
  { name: 'KVM_CAP_IMMEDIATE_EXIT', why: 'a stop that no guest can miss', needed: true },
  { name: 'KVM_CAP_VCPU_EVENTS', why: 'exceptions that the assist injects', needed: true },
  { name: 'KVM_CAP_SYNC_REGS', why: 'registers without a call into the kernel', needed: false },
  { name: 'KVM_CAP_SET_GUEST_DEBUG', why: 'breakpoints, single steps', needed: false },
  { name: 'KVM_CAP_X86_USER_SPACE_MSR', why: 'to see writes of MSRs (quirk remedies)', needed: false },
  { name: 'KVM_CAP_X86_MSR_FILTER', why: 'the same', needed: false },
  { name: 'KVM_CAP_COALESCED_MMIO', why: 'writes collected without exits', needed: false },
  { name: 'KVM_CAP_COALESCED_PIO', why: 'the same for ports', needed: false },
  { name: 'KVM_CAP_TSC_DEADLINE_TIMER', why: "the guest's cheapest timer", needed: false },
  { name: 'KVM_CAP_ADJUST_CLOCK', why: 'kvmclock after a pause', needed: false },
  { name: 'KVM_CAP_KVMCLOCK_CTRL', why: 'no soft-lockup alarm after a pause', needed: false },
  { name: 'KVM_CAP_TSC_CONTROL', why: 'a TSC frequency of our choice', needed: false },
  { name: 'KVM_CAP_SIGNAL_MSI', why: 'message-signalled interrupts', needed: false },
  { name: 'KVM_CAP_XSAVE', why: 'extended state for snapshots', needed: false },
  { name: 'KVM_CAP_XCRS', why: 'the same', needed: false },
  { name: 'KVM_CAP_READONLY_MEM', why: 'memory that the guest cannot write', needed: false },
  { name: 'KVM_CAP_NESTED_STATE', why: 'snapshots of guests that run VMs', needed: false },
  { name: 'KVM_CAP_X86_SMM', why: 'system management mode', needed: false },
  { name: 'KVM_CAP_PMU_CAPABILITY', why: 'performance counters can be switched off', needed: false },
  { name: 'KVM_CAP_NR_VCPUS', why: 'recommended number of vCPUs', needed: false, counts: true },
  { name: 'KVM_CAP_MAX_VCPUS', why: 'largest number of vCPUs', needed: false, counts: true },
  { name: 'KVM_CAP_NR_MEMSLOTS', why: 'memory slots', needed: false, counts: true },
];
