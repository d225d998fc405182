// What an owner may ask of a parked vCPU thread: rows of name → function over the vCPU.
import type { GuestMemory } from '../memory/guest-memory.js';
import type { MsrEntry } from '../kvm/entries.js';
import type { PartialSregs, Regs } from '../kvm/registers.js';
import type { VcpuFd } from '../kvm/vcpu-fd.js';
import type { Assist } from './assist/assist.js';
import { applyBootState, type BootState } from './boot-state.js';
import type { Debugger, DebuggerRequest } from './debugger.js';
import { captureState } from './dump.js';
import { readTsc, restoreVcpu, saveVcpu, type SavedVcpu } from './saved-vcpu.js';

/** What a call is made on. */
export interface CallTarget {
  readonly fd: VcpuFd;
  readonly memory: GuestMemory;
  /** Present only on a host with quirks. */
  readonly assist: Pick<Assist, 'resume'> | undefined;
  readonly debug: Debugger;
}

/** A saved state, and the TSC offset that it gets on this host. */
export interface RestoreState {
  readonly saved: SavedVcpu;
  readonly tscOffset: bigint;
}

export const VCPU_CALLS = {
  applyBootState: ({ fd }: CallTarget, state: BootState) => applyBootState(fd, state),
  getRegs: ({ fd }: CallTarget) => fd.getRegs(),
  setRegs: ({ fd }: CallTarget, regs: Partial<Regs>) => fd.setRegs(regs),
  getSregs: ({ fd }: CallTarget) => fd.getSregs(),
  setSregs: ({ fd }: CallTarget, sregs: PartialSregs) => fd.setSregs(sregs),
  getMsrs: ({ fd }: CallTarget, indices: readonly number[]) => fd.getMsrs(indices),
  setMsrs: ({ fd }: CallTarget, entries: readonly MsrEntry[]) => fd.setMsrs(entries),
  /** Tells the guest's kvmclock that it was stopped, so that its watchdogs do not fire (KVM API 4.57). */
  kvmclockCtrl: ({ fd }: CallTarget) => fd.kvmclockCtrl(),
  /** KVM API 4.64: queues a non-maskable interrupt, which the guest gets when it goes on. */
  nmi: ({ fd }: CallTarget) => fd.nmi(),
  captureState: ({ fd, memory }: CallTarget) => captureState(fd, memory),
  getXsave: ({ fd }: CallTarget) => fd.getXsave(),
  setXsave: ({ fd }: CallTarget, area: Uint8Array) => fd.setXsave(area),
  setDebugger: ({ debug }: CallTarget, request: DebuggerRequest) => debug.set(request),
  /** For a snapshot: all that KVM has of this vCPU. The argument is System.msrIndexList(). */
  saveState: ({ fd }: CallTarget, msrIndices: readonly number[]) => saveVcpu(fd, msrIndices),
  getCpuid: ({ fd }: CallTarget) => fd.getCpuid2(),
  readTsc: ({ fd }: CallTarget) => readTsc(fd),
  restoreState: ({ fd, assist }: CallTarget, { saved, tscOffset }: RestoreState) => {
    restoreVcpu(fd, saved, tscOffset);
    assist?.resume();
  },
} as const;

export type VcpuCallName = keyof typeof VCPU_CALLS;

type Argument<N extends VcpuCallName> = (typeof VCPU_CALLS)[N] extends (target: CallTarget, a: infer A) => unknown
  ? A
  : undefined;
/** The arguments that a caller gives for call `N`: none or one. */
export type VcpuCallArguments<N extends VcpuCallName> = unknown extends Argument<N> ? [] : [argument: Argument<N>];
export type VcpuCallResult<N extends VcpuCallName> = ReturnType<(typeof VCPU_CALLS)[N]>;
