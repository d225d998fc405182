// What crosses between an owner and a vCPU thread: the data it starts with and the messages. All structured-cloneable.
import type { SharedGuestMemory } from '../memory/guest-memory.js';
import type { CpuidEntry } from '../kvm/entries.js';
import type { UnassistedInstruction } from './assist/assist.js';
import type { DebugEvent } from './debugger.js';
import type { VcpuState } from './dump.js';
import type { ExitBus } from './exit-bus.js';
import type { VcpuStop } from './stop.js';

/**
 * The floor above builds the buses, from the board's description.
 * @param index the vCPU's; 0 is the boot processor
 */
export type BuildVcpuBuses = (board: unknown, wait: OwnerWait, index: number) => VcpuBuses | Promise<VcpuBuses>;

/** How a device on this thread waits for the owner. */
export interface OwnerWait {
  /**
   * Blocks until `words[index]` is not `expected`; whoever changes it notifies it.
   * @returns false when the vCPU was told to stop meanwhile
   */
  until(words: Int32Array<SharedArrayBuffer>, index: number, expected: number): boolean;
}

export interface VcpuBuses {
  readonly pio: ExitBus;
  readonly mmio: ExitBus;
  /** Nonzero in word 0: the run is to end (see VcpuOptions.pending). */
  readonly pending: Int32Array;
}

/** Words of 32 bits by which the vCPUs of one VM exclude each other; 0 is free. */
export const LOCK = { COALESCED_RING: 0, CMPXCHG16B: 1 } as const;
export const LOCK_WORDS = 2;

export interface VcpuAssembly {
  /** 0 is the boot processor; also its APIC id. */
  readonly index: number;
  readonly cpus: number;
  readonly supportedCpuid: readonly CpuidEntry[];
  /** Ids of the quirks that were found on this host. */
  readonly quirks: readonly string[];
  /** ExitStatistics.allocate() */
  readonly statistics: SharedArrayBuffer;
  /** allocateAssistCounters() */
  readonly assists: SharedArrayBuffer;
  /** allocateTrace(); undefined for none. */
  readonly trace?: SharedArrayBuffer | undefined;
  /** LOCK_WORDS words, the same for all vCPUs of the VM. */
  readonly locks: SharedArrayBuffer;
}

export interface VcpuWorkerData extends VcpuAssembly {
  readonly vmFd: number;
  readonly memory: SharedGuestMemory;
  /** CONTROL_WORDS words of 32 bits. */
  readonly control: SharedArrayBuffer;
  /** For BuildVcpuBuses. */
  readonly board: unknown;
}

export interface ToWorker {
  readonly id: number;
  readonly call: string;
  readonly argument: unknown;
}

export type FromWorker =
  /** A thread that was started without its data waits for it. */
  | { readonly type: 'waiting' }
  /** `threadId` is the operating system's, as in /proc/self/task. */
  | { readonly type: 'ready'; readonly token: number; readonly threadId: number }
  /** `command` is the word that was obeyed. */
  | { readonly type: 'parked'; readonly command: number }
  /** The vCPU waits, as if parked, for the command after this one. */
  | { readonly type: 'debug-stop'; readonly event: DebugEvent; readonly command: number }
  | { readonly type: 'answer'; readonly id: number; readonly value?: unknown; readonly error?: string }
  | {
      readonly type: 'stopped';
      readonly stop: VcpuStop;
      readonly state?: VcpuState;
      readonly unassisted?: UnassistedInstruction;
    };
