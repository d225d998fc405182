// Makes a vCPU the processor that a guest expects: CPUID, TSC frequency, MSRs, local APIC.
// KVM API 4.47 (KVM_SET_CPUID2), 4.19 (KVM_SET_MSRS), 4.58 (KVM_SET_LAPIC), 4.55 (KVM_SET_TSC_KHZ).
import type { CpuidEntry } from '../../kvm/entries.js';
import { KvmError } from '../../kvm/errors.js';
import type { VcpuFd } from '../../kvm/vcpu-fd.js';
import { guestCpuid } from './cpuid.js';
import { withBootPins } from './lapic.js';
import { BOOT_MSRS } from './msrs.js';

export interface ConfigureVcpu {
  readonly vcpu: VcpuFd;
  /** System.supportedCpuid(), once for all vCPUs. */
  readonly supportedCpuid: readonly CpuidEntry[];
  /** 0 is the boot processor; also the APIC id, and the id the vCPU was created with. */
  readonly index: number;
  /** Processors of the VM, 1 to 255. */
  readonly cpus: number;
  /** Frequency of the guest's TSC, for a restored snapshot; the host's own by default. */
  readonly tscKhz?: number;
  /** Ids of the host's quirks: some withhold a feature. Most do not, since KVM_SET_CPUID2 is only partly honoured there. */
  readonly quirks?: readonly string[];
}

/**
 * Before the vCPU's first KVM_RUN, on its thread.
 * @throws KvmError when KVM refuses; RangeError for a processor count that APIC ids of 8 bits cannot hold
 */
export function configureVcpu({ vcpu, supportedCpuid, index, cpus, tscKhz, quirks }: ConfigureVcpu): void {
  if (!Number.isInteger(cpus) || cpus < 1 || cpus > 255 || !Number.isInteger(index) || index < 0 || index >= cpus)
    throw new RangeError(`vCPU ${index} of ${cpus}: a VM has 1 to 255 processors, numbered from 0`);
  vcpu.setCpuid2(guestCpuid(supportedCpuid, { index, cpus }, quirks));
  if (tscKhz !== undefined) vcpu.setTscKhz(tscKhz);
  vcpu.setMsrs(BOOT_MSRS);
  if (index === 0) setBootPins(vcpu);
}

function setBootPins(vcpu: VcpuFd): void {
  try {
    vcpu.setLapic(withBootPins(vcpu.getLapic()));
  } catch (error) {
    // A VM without in-kernel interrupt controllers (a first lesson) has no APIC to set.
    if (!(error instanceof KvmError) || error.call !== 'KVM_GET_LAPIC') throw error;
  }
}
