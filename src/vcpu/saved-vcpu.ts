// A vCPU's state as KVM hands it out: rows of name → bytes, saved from a parked vCPU and set into a fresh one.
// KVM API 4.11 to 4.45, 4.57, 4.58 (one call each way a row); Documentation/virt/kvm/devices/vcpu.rst §4 for the TSC.
import * as abi from '../kvm/abi.js';
import { decodeCpuid, encodeCpuid, type MsrEntry } from '../kvm/entries.js';
import { KvmError } from '../kvm/errors.js';
import { MSR_IA32_TSC, MSR_IA32_TSC_DEADLINE, MSR_KVM_WALL_CLOCK, MSR_KVM_WALL_CLOCK_NEW } from '../kvm/msr.js';
import {
  decodeDebugRegs,
  decodeSregs,
  decodeVcpuEvents,
  decodeXcrs,
  encodeDebugRegs,
  encodeSregs,
  encodeVcpuEvents,
  encodeXcrs,
} from '../kvm/registers.js';
import type { VcpuFd } from '../kvm/vcpu-fd.js';

/** Names of the rows, in the order in which they are set. */
export type StateName = keyof typeof STATE_ROWS;

/** Structured-cloneable. */
export interface SavedVcpu {
  /** The kernel's own structures. */
  readonly rows: Readonly<Record<StateName, Uint8Array>>;
  readonly msrs: readonly MsrEntry[];
  /** struct kvm_cpuid2 with its entries, as KVM shows it. */
  readonly cpuid: Uint8Array;
  readonly tsc: SavedTsc;
}

export interface SavedTsc {
  readonly khz: number;
  /** What the guest reads. */
  readonly value: bigint;
  /** The guest's value less the host's, modulo 2^64. */
  readonly offset: bigint;
}

/** With the host's monotonic clock of that moment, in nanoseconds; all threads have the same one. */
export interface TscReading extends SavedTsc {
  readonly readAt: bigint;
}

interface StateRow {
  /** Bytes of the structure. */
  readonly size: number;
  readonly save: (vcpu: VcpuFd) => Uint8Array;
  readonly restore: (vcpu: VcpuFd, bytes: Uint8Array) => void;
}

// The order matters on the way in: SREGS set the APIC's base, which the LAPIC's state goes by; SREGS may wake a vCPU, so
// that MP state comes last; events come after the registers that they push.
export const STATE_ROWS = {
  regs: {
    size: abi.kvmRegs.size,
    save: (vcpu) => abi.kvmRegs.encode(vcpu.getRegs()),
    restore: (vcpu, bytes) => vcpu.setRegs(abi.kvmRegs.decode(bytes)),
  },
  sregs: {
    size: abi.kvmSregs.size,
    save: (vcpu) => encodeSregs(vcpu.getSregs()),
    restore: (vcpu, bytes) => vcpu.setSregs(decodeSregs(bytes)),
  },
  xcrs: {
    size: abi.kvmXcrs.size,
    save: (vcpu) => encodeXcrs(vcpu.getXcrs()),
    restore: (vcpu, bytes) => vcpu.setXcrs(decodeXcrs(bytes)),
  },
  xsave: {
    size: abi.kvmXsave.size,
    save: (vcpu) => vcpu.getXsave(),
    restore: (vcpu, bytes) => vcpu.setXsave(bytes),
  },
  debugregs: {
    size: abi.kvmDebugregs.size,
    save: (vcpu) => encodeDebugRegs(vcpu.getDebugRegs()),
    restore: (vcpu, bytes) => vcpu.setDebugRegs(decodeDebugRegs(bytes)),
  },
  lapic: {
    size: abi.kvmLapicState.size,
    save: (vcpu) => vcpu.getLapic(),
    restore: (vcpu, bytes) => vcpu.setLapic(bytes),
  },
  events: {
    size: abi.kvmVcpuEvents.size,
    save: (vcpu) => encodeVcpuEvents(vcpu.getVcpuEvents()),
    restore: (vcpu, bytes) => vcpu.setVcpuEvents(decodeVcpuEvents(bytes)),
  },
  mpState: {
    size: abi.kvmMpState.size,
    save: (vcpu) => abi.kvmMpState.encode({ mp_state: vcpu.getMpState() }),
    restore: (vcpu, bytes) => vcpu.setMpState(abi.kvmMpState.decode(bytes).mp_state),
  },
} as const satisfies Readonly<Record<string, StateRow>>;

export const STATE_NAMES = Object.keys(STATE_ROWS) as readonly StateName[];

/**
 * MSRs that are not set back. The TSC goes by its offset, so that all vCPUs agree. A write of the wall clock's address
 * writes the time into guest memory, and a guest that wants to know makes that write itself.
 */
const UNSET_MSRS: ReadonlySet<number> = new Set([MSR_IA32_TSC, MSR_KVM_WALL_CLOCK, MSR_KVM_WALL_CLOCK_NEW]);

/**
 * Takes the state of a vCPU that has completed its pending access (Vcpu.completePending) and is not running.
 * @param indices System.msrIndexList(); those that this vCPU lacks are left out
 */
export function saveVcpu(vcpu: VcpuFd, indices: readonly number[]): SavedVcpu & { readonly tsc: TscReading } {
  // First: the kernel says that this one may change others.
  const mpState = STATE_ROWS.mpState.save(vcpu);
  const msrs = readMsrs(vcpu, indices);
  const rows = Object.fromEntries(STATE_NAMES.map((name) => [name, STATE_ROWS[name].save(vcpu)]));
  return {
    rows: { ...(rows as Record<StateName, Uint8Array>), mpState },
    msrs,
    cpuid: encodeCpuid(vcpu.getCpuid2()),
    tsc: readTsc(vcpu),
  };
}

export function readTsc(vcpu: VcpuFd): TscReading {
  const [khz, offset] = [vcpu.getTscKhz(), vcpu.getTscOffset()];
  const [entry] = vcpu.getMsrs([MSR_IA32_TSC]);
  return { khz, value: entry?.data ?? 0n, offset, readAt: process.hrtime.bigint() };
}

/**
 * Sets the state into a vCPU that never ran.
 * @param tscOffset the guest's TSC less this host's, modulo 2^64
 * @throws KvmError when KVM refuses a part; Error when the guest's TSC would go backwards
 */
export function restoreVcpu(vcpu: VcpuFd, saved: SavedVcpu, tscOffset: bigint): void {
  // KVM on PVM shows other tables than those that were set; one that it shows by itself need not be set.
  if (!isEqual(encodeCpuid(vcpu.getCpuid2()), saved.cpuid)) vcpu.setCpuid2(decodeCpuid(saved.cpuid));
  restoreTsc(vcpu, saved.tsc, tscOffset);
  for (const name of STATE_NAMES) {
    // SREGS and LAPIC stand now, and with them the mode of the timer that a deadline is for.
    if (name === 'events') writeMsrs(vcpu, saved.msrs);
    STATE_ROWS[name].restore(vcpu, saved.rows[name]);
  }
}

function restoreTsc(vcpu: VcpuFd, saved: SavedTsc, offset: bigint): void {
  vcpu.setTscOffset(offset);
  if (vcpu.getTscOffset() === offset) return;
  // KVM on PVM takes any offset and keeps its own: the guest has the host's TSC. It may jump ahead, as after a suspend;
  // but set back, each deadline that the guest has set would be as far away.
  const { value } = readTsc(vcpu);
  if (value >= saved.value) return;
  throw new Error(
    `vCPU ${vcpu.id}: this host's KVM cannot set a guest's TSC, and the host's own (${value}) is behind the snapshot's ` +
      `(${saved.value}), as after a reboot of the host; boot the guest again`,
  );
}

function isEqual(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((byte, i) => byte === b[i]);
}

function readMsrs(vcpu: VcpuFd, indices: readonly number[]): MsrEntry[] {
  try {
    return vcpu.getMsrs(indices);
  } catch (error) {
    if (!(error instanceof KvmError)) throw error;
    // The kernel lists what some vCPU has; one that this one lacks ends the whole call.
    return indices.flatMap((index) => readMsr(vcpu, index));
  }
}

function readMsr(vcpu: VcpuFd, index: number): MsrEntry[] {
  try {
    return vcpu.getMsrs([index]);
  } catch (error) {
    if (error instanceof KvmError) return [];
    throw error;
  }
}

function writeMsrs(vcpu: VcpuFd, saved: readonly MsrEntry[]): void {
  const entries = saved.filter(({ index }) => !UNSET_MSRS.has(index));
  // Last: a deadline is compared with the TSC at once.
  const isDeadline = ({ index }: MsrEntry): boolean => index === MSR_IA32_TSC_DEADLINE;
  const ordered = [...entries.filter((entry) => !isDeadline(entry)), ...entries.filter(isDeadline)];
  try {
    vcpu.setMsrs(ordered);
  } catch (error) {
    if (!(error instanceof KvmError)) throw error;
    for (const entry of ordered) writeMsr(vcpu, entry);
  }
}

/** One that cannot be written but has the value already is as good as written. */
function writeMsr(vcpu: VcpuFd, entry: MsrEntry): void {
  try {
    vcpu.setMsrs([entry]);
  } catch (error) {
    const [now] = readMsr(vcpu, entry.index);
    if (now?.data !== entry.data) throw error;
  }
}
