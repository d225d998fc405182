// Sets the registers in which a guest starts, from plain data that a loader made.
// KVM API 4.12 and 4.13 (KVM_SET_REGS, KVM_SET_SREGS).
import type { PartialSregs, Regs } from '../kvm/registers.js';
import type { VcpuFd } from '../kvm/vcpu-fd.js';

/** The fields that differ from the state after reset. */
export interface BootState {
  readonly regs: Partial<Regs>;
  readonly sregs: PartialSregs;
}

/** Applies `state` over the vCPU's state after reset. */
export function applyBootState(vcpu: VcpuFd, state: BootState): void {
  vcpu.setSregs(state.sregs);
  // Bit 1 of RFLAGS is fixed to 1 (SDM vol. 1 §3.4.3); KVM enters no guest without it.
  vcpu.setRegs({ rflags: 2n, ...state.regs });
}
