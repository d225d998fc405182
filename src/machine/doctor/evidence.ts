// What the boot doctor looks at: everything that is known of a machine that ended badly or stands still. Plain data,
// but for the guest's memory, which it may read.
import type { Placed } from '../../boot/request.js';
import type { E820Entry } from '../../boot/e820.js';
import type { InitrdFacts } from '../../boot/initrd-facts.js';
import type { VirtioReport } from '../../devices/virtio/mmio-back.js';
import type { GuestMemory } from '../../memory/guest-memory.js';
import type { UnassistedInstruction } from '../../vcpu/assist/assist.js';
import type { VcpuState } from '../../vcpu/dump.js';
import type { MmioExits, PortExits } from '../../vcpu/observe/statistics.js';
import type { VcpuStop } from '../../vcpu/stop.js';
import type { FailureKind } from '../failure-kind.js';

/** What a vCPU did, by name. */
export interface ExitCounts {
  readonly reasons: readonly { readonly reason: string; readonly count: number }[];
  readonly ports: readonly (Pick<PortExits, 'port' | 'direction' | 'count'> & { readonly device: string })[];
  readonly mmio: readonly (Pick<MmioExits, 'address' | 'direction' | 'count'> & { readonly device: string })[];
}

export interface DoctorEvidence {
  /** Undefined for a machine that runs and makes no progress. */
  readonly failure: { readonly kind: FailureKind; readonly message: string } | undefined;
  /** By vCPU, where they could be had. */
  readonly vcpus: readonly (VcpuState | undefined)[];
  readonly stops: readonly (VcpuStop | undefined)[];
  readonly unassisted: UnassistedInstruction | undefined;
  readonly kernel: {
    readonly name: string;
    readonly format: string;
    readonly cmdline: string;
    readonly placed: readonly Placed[];
    readonly e820: readonly E820Entry[];
  };
  /** Undefined without an initrd, or when it cannot be read. */
  readonly initrd: InitrdFacts | undefined;
  readonly hasInitrd: boolean;
  readonly hasCommand: boolean;
  /** Names of the virtio devices that are no console and no entropy source. */
  readonly virtio: readonly VirtioReport[];
  readonly memory: GuestMemory;
  readonly console: {
    /** The last lines on any console, the unfinished one included. */
    readonly lines: readonly string[];
    /** Nothing was printed at all. */
    readonly isSilent: boolean;
    /** The guest waits because nobody reads what it prints. */
    readonly isFull: boolean;
  };
  readonly exits: readonly ExitCounts[];
  readonly quirks: readonly string[];
}

/** What was found, in a sentence, and what to do about it. */
export interface Finding {
  readonly cause: string;
  readonly remedy: string;
}

export interface CauseRow {
  readonly id: string;
  /** It names a symptom more than a cause: of no interest where another row fits. */
  readonly isGeneral?: true;
  readonly find: (evidence: DoctorEvidence) => Finding | undefined;
}

/** The text of the consoles' last lines holds this. */
export function said({ console }: DoctorEvidence, text: RegExp): RegExpExecArray | undefined {
  for (const line of console.lines) {
    const found = text.exec(line);
    if (found !== null) return found;
  }
  return undefined;
}

/** The boot processor's state. */
export function boot({ vcpus }: DoctorEvidence): VcpuState | undefined {
  return vcpus[0];
}

export function flag(state: VcpuState, bit: number): boolean {
  return (BigInt(state.regs['rflags'] ?? '0x0') & (1n << BigInt(bit))) !== 0n;
}

export function control(state: VcpuState, name: 'cr0' | 'cr2' | 'cr3' | 'cr4' | 'efer'): bigint {
  return BigInt(state.control[name] ?? '0x0');
}

/** All accesses of one place, of all vCPUs together. */
export interface PolledPlace {
  readonly space: 'port' | 'mmio';
  readonly address: number;
  readonly device: string;
  readonly count: number;
  /** Its part of all port and MMIO exits, 0 to 1. */
  readonly share: number;
}

/** The place that was read most often; undefined before the first read. */
export function mostRead({ exits }: DoctorEvidence): PolledPlace | undefined {
  const ports = exits.flatMap(({ ports }) => ports);
  const mmio = exits.flatMap(({ mmio }) => mmio);
  const all = [...ports, ...mmio].reduce((sum, { count }) => sum + count, 0);
  const reads: Omit<PolledPlace, 'share'>[] = [
    ...ports
      .filter(({ direction }) => direction === 'in')
      .map((row) => ({ ...row, space: 'port' as const, address: row.port })),
    ...mmio.filter(({ direction }) => direction === 'read').map((row) => ({ ...row, space: 'mmio' as const })),
  ];
  const most = reads.toSorted((a, b) => b.count - a.count)[0];
  if (most === undefined) return undefined;
  const { space, address, device, count } = most;
  return { space, address, device, count, share: count / all };
}
