// What an owner may ask of a parked vCPU thread: rows of name → function over the vCPU's descriptor.
import type { GuestMemory } from '../memory/guest-memory.js';
import type { MsrEntry } from '../kvm/entries.js';
import type { PartialSregs, Regs } from '../kvm/registers.js';
import type { VcpuFd } from '../kvm/vcpu-fd.js';
import { applyBootState, type BootState } from './boot-state.js';
import type { Debugger, DebuggerRequest } from './debugger.js';
import { captureState } from './dump.js';

export const VCPU_CALLS = {
  applyBootState: (fd: VcpuFd, _memory: GuestMemory, state: BootState) => applyBootState(fd, state),
  getRegs: (fd: VcpuFd) => fd.getRegs(),
  setRegs: (fd: VcpuFd, _memory: GuestMemory, regs: Partial<Regs>) => fd.setRegs(regs),
  getSregs: (fd: VcpuFd) => fd.getSregs(),
  setSregs: (fd: VcpuFd, _memory: GuestMemory, sregs: PartialSregs) => fd.setSregs(sregs),
  getMsrs: (fd: VcpuFd, _memory: GuestMemory, indices: readonly number[]) => fd.getMsrs(indices),
  setMsrs: (fd: VcpuFd, _memory: GuestMemory, entries: readonly MsrEntry[]) => fd.setMsrs(entries),
  /** Tells the guest's kvmclock that it was stopped, so that its watchdogs do not fire (KVM API 4.57). */
  kvmclockCtrl: (fd: VcpuFd) => fd.kvmclockCtrl(),
  captureState: (fd: VcpuFd, memory: GuestMemory) => captureState(fd, memory),
  getXsave: (fd: VcpuFd) => fd.getXsave(),
  setXsave: (fd: VcpuFd, _memory: GuestMemory, area: Uint8Array) => fd.setXsave(area),
  setDebugger: (_fd: VcpuFd, _memory: GuestMemory, request: DebuggerRequest, debug: Debugger) => debug.set(request),
} as const;

export type VcpuCallName = keyof typeof VCPU_CALLS;

type Argument<N extends VcpuCallName> = (typeof VCPU_CALLS)[N] extends (
  fd: VcpuFd,
  memory: GuestMemory,
  a: infer A,
  debug: Debugger,
) => unknown
  ? A
  : undefined;
/** The arguments that a caller gives for call `N`: none or one. */
export type VcpuCallArguments<N extends VcpuCallName> = unknown extends Argument<N> ? [] : [argument: Argument<N>];
export type VcpuCallResult<N extends VcpuCallName> = ReturnType<(typeof VCPU_CALLS)[N]>;
