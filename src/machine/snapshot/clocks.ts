// The two clocks of a guest at one moment: kvmclock, and the host's TSC, from which the guest's TSC is an offset away.
// Linux compares the two, and gives the TSC up when they come apart.
// KVM API 4.29 (KVM_CLOCK_HOST_TSC); Documentation/virt/kvm/devices/vcpu.rst §4.1.
import { KVM_CLOCK_HOST_TSC } from '../../kvm/abi.js';
import type { VmFd } from '../../kvm/vm-fd.js';
import type { TscReading } from '../../vcpu/saved-vcpu.js';

export interface Clocks {
  /** kvmclock in nanoseconds. */
  readonly clock: bigint;
  /** Cycles of the host's TSC, modulo 2^64. */
  readonly hostTsc: bigint;
}

/** @param tsc an earlier reading, for a KVM that does not tell the host's TSC by itself */
export function readClocks(kvm: VmFd, tsc: TscReading): Clocks {
  const since = process.hrtime.bigint() - tsc.readAt;
  const { clock, flags, hostTsc } = kvm.getClock();
  // The kernel's own pair: one instant, whatever else this processor had to do.
  if ((flags & KVM_CLOCK_HOST_TSC) !== 0) return { clock, hostTsc };
  // A kernel before 5.16, or a host that does not take its own time from the TSC: as near as two readings are.
  return { clock: clock - since, hostTsc: BigInt.asUintN(64, tsc.value - tsc.offset) };
}
