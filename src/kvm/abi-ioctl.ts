// The ioctl numbers, built from direction, number and the size of the structure that they carry.
// KVM API chapter 4; <linux/kvm.h>, <asm-generic/ioctl.h>.
import * as struct from './abi-struct.js';

const KVMIO = 0xae;
const NONE = 0;
const WRITE = 1;
const READ = 2;

function ioc(direction: number, nr: number, size: number): number {
  return ((direction << 30) | (size << 16) | (KVMIO << 8) | nr) >>> 0;
}
const io = (nr: number): number => ioc(NONE, nr, 0);
const ior = (nr: number, { size }: { readonly size: number }): number => ioc(READ, nr, size);
const iow = (nr: number, { size }: { readonly size: number }): number => ioc(WRITE, nr, size);
const iowr = (nr: number, { size }: { readonly size: number }): number => ioc(READ | WRITE, nr, size);
const U64 = { size: 8 };

// On /dev/kvm
export const KVM_GET_API_VERSION = io(0x00);
export const KVM_CREATE_VM = io(0x01);
export const KVM_GET_MSR_INDEX_LIST = iowr(0x02, struct.kvmMsrList);
export const KVM_CHECK_EXTENSION = io(0x03);
export const KVM_GET_VCPU_MMAP_SIZE = io(0x04);
export const KVM_GET_SUPPORTED_CPUID = iowr(0x05, struct.kvmCpuid2);
export const KVM_GET_EMULATED_CPUID = iowr(0x09, struct.kvmCpuid2);
export const KVM_GET_MSR_FEATURE_INDEX_LIST = iowr(0x0a, struct.kvmMsrList);

// On a VM
export const KVM_CREATE_VCPU = io(0x41);
/** struct kvm_dirty_log; the addon builds it, for it holds a pointer. */
export const KVM_GET_DIRTY_LOG = iow(0x42, { size: 16 });
/** struct kvm_userspace_memory_region; the addon builds it, for it holds a pointer. */
export const KVM_SET_USER_MEMORY_REGION = iow(0x46, { size: 32 });
export const KVM_SET_TSS_ADDR = io(0x47);
export const KVM_SET_IDENTITY_MAP_ADDR = iow(0x48, U64);
export const KVM_CREATE_IRQCHIP = io(0x60);
export const KVM_IRQ_LINE = iow(0x61, struct.kvmIrqLevel);
export const KVM_GET_IRQCHIP = iowr(0x62, struct.kvmIrqchip);
export const KVM_SET_IRQCHIP = ior(0x63, struct.kvmIrqchip);
export const KVM_REGISTER_COALESCED_MMIO = iow(0x67, struct.kvmCoalescedMmioZone);
export const KVM_UNREGISTER_COALESCED_MMIO = iow(0x68, struct.kvmCoalescedMmioZone);
export const KVM_SET_GSI_ROUTING = iow(0x6a, struct.kvmIrqRouting);
export const KVM_IRQFD = iow(0x76, struct.kvmIrqfd);
export const KVM_CREATE_PIT2 = iow(0x77, struct.kvmPitConfig);
export const KVM_SET_BOOT_CPU_ID = io(0x78);
export const KVM_IOEVENTFD = iow(0x79, struct.kvmIoeventfd);
export const KVM_SET_CLOCK = iow(0x7b, struct.kvmClockData);
export const KVM_GET_CLOCK = ior(0x7c, struct.kvmClockData);
export const KVM_GET_PIT2 = ior(0x9f, struct.kvmPitState2);
export const KVM_SET_PIT2 = iow(0xa0, struct.kvmPitState2);
export const KVM_SIGNAL_MSI = iow(0xa5, struct.kvmMsi);
/** struct kvm_msr_filter; the addon builds it, for it holds pointers. */
export const KVM_X86_SET_MSR_FILTER = iow(0xc6, { size: 392 });

// On a vCPU
export const KVM_RUN = io(0x80);
export const KVM_GET_REGS = ior(0x81, struct.kvmRegs);
export const KVM_SET_REGS = iow(0x82, struct.kvmRegs);
export const KVM_GET_SREGS = ior(0x83, struct.kvmSregs);
export const KVM_SET_SREGS = iow(0x84, struct.kvmSregs);
export const KVM_TRANSLATE = iowr(0x85, struct.kvmTranslation);
export const KVM_GET_MSRS = iowr(0x88, struct.kvmMsrs);
export const KVM_SET_MSRS = iow(0x89, struct.kvmMsrs);
/** struct kvm_signal_mask; the addon builds it, for its second half is not counted in the number. */
export const KVM_SET_SIGNAL_MASK = iow(0x8b, { size: 4 });
export const KVM_GET_FPU = ior(0x8c, struct.kvmFpu);
export const KVM_SET_FPU = iow(0x8d, struct.kvmFpu);
export const KVM_GET_LAPIC = ior(0x8e, struct.kvmLapicState);
export const KVM_SET_LAPIC = iow(0x8f, struct.kvmLapicState);
export const KVM_SET_CPUID2 = iow(0x90, struct.kvmCpuid2);
export const KVM_GET_CPUID2 = iowr(0x91, struct.kvmCpuid2);
export const KVM_GET_MP_STATE = ior(0x98, struct.kvmMpState);
export const KVM_SET_MP_STATE = iow(0x99, struct.kvmMpState);
export const KVM_NMI = io(0x9a);
export const KVM_SET_GUEST_DEBUG = iow(0x9b, struct.kvmGuestDebug);
export const KVM_GET_VCPU_EVENTS = ior(0x9f, struct.kvmVcpuEvents);
export const KVM_SET_VCPU_EVENTS = iow(0xa0, struct.kvmVcpuEvents);
export const KVM_GET_DEBUGREGS = ior(0xa1, struct.kvmDebugregs);
export const KVM_SET_DEBUGREGS = iow(0xa2, struct.kvmDebugregs);
/** On a VM and on a vCPU alike. */
export const KVM_ENABLE_CAP = iow(0xa3, struct.kvmEnableCap);
export const KVM_SET_TSC_KHZ = io(0xa2);
export const KVM_GET_TSC_KHZ = io(0xa3);
export const KVM_GET_XSAVE = ior(0xa4, struct.kvmXsave);
export const KVM_SET_XSAVE = iow(0xa5, struct.kvmXsave);
export const KVM_GET_XCRS = ior(0xa6, struct.kvmXcrs);
export const KVM_SET_XCRS = iow(0xa7, struct.kvmXcrs);
export const KVM_KVMCLOCK_CTRL = io(0xad);
