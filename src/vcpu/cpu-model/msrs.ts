// MSRs in which a vCPU starts, where they differ from KVM's own reset values or where firmware would have set them.
// Intel SDM vol. 4 table 2-2, vol. 3A §11.11 (MTRRs), Linux Documentation/arch/x86/boot.rst.
import type { MsrEntry } from '../../kvm/entries.js';
import * as msr from '../../kvm/msr.js';

interface BootMsr extends MsrEntry {
  readonly why: string;
}

const MISC_ENABLE_FAST_STRING = 1n << 0n;
/** MTRRs enabled, default type write-back, no ranges. */
const MTRR_ENABLE_WRITE_BACK = (1n << 11n) | 6n;

export const BOOT_MSRS: readonly BootMsr[] = [
  { index: msr.MSR_IA32_SYSENTER_CS, data: 0n, why: 'no 32-bit system call entry yet' },
  { index: msr.MSR_IA32_SYSENTER_ESP, data: 0n, why: 'no 32-bit system call entry yet' },
  { index: msr.MSR_IA32_SYSENTER_EIP, data: 0n, why: 'no 32-bit system call entry yet' },
  { index: msr.MSR_STAR, data: 0n, why: 'no system call entry yet' },
  { index: msr.MSR_CSTAR, data: 0n, why: 'no system call entry yet' },
  { index: msr.MSR_LSTAR, data: 0n, why: 'no system call entry yet' },
  { index: msr.MSR_SYSCALL_MASK, data: 0n, why: 'no system call entry yet' },
  { index: msr.MSR_KERNEL_GS_BASE, data: 0n, why: 'no per-CPU area yet' },
  {
    index: msr.MSR_IA32_MISC_ENABLE,
    data: MISC_ENABLE_FAST_STRING,
    why: 'firmware enables fast strings; Linux drops ERMS without them',
  },
  {
    index: msr.MSR_MTRRdefType,
    data: MTRR_ENABLE_WRITE_BACK,
    why: 'firmware makes RAM cacheable; with MTRRs off Linux would take all of it for uncacheable and drop PAT',
  },
];
