// The instruction assist of one vCPU: what the run loop calls for the exits that a host with quirks makes.
// KVM API 5 (KVM_EXIT_INTERNAL_ERROR, KVM_EXIT_DEBUG, KVM_EXIT_X86_WRMSR), 7.22 (emulation failure and its bytes).
import type { GuestMemory } from '../../memory/guest-memory.js';
import { KVM_RUN_OFFSET } from '../../kvm/kvm-run.js';
import type { VcpuFd } from '../../kvm/vcpu-fd.js';
import type { ExitAssist } from '../exit-bus.js';
import type { GuestDebug } from '../guest-debug.js';
import { readLinear } from '../paging.js';
import { decode } from './decode.js';
import { INSTRUCTIONS, layoutOf, type InstructionContext } from './instructions.js';
import { SyncedRegisters } from './synced-registers.js';
import { SyscallRemedy } from './syscall-remedy.js';
import { describeUnassisted, type UnassistedInstruction } from './unassisted.js';

export type { UnassistedInstruction } from './unassisted.js';

/** What is counted, one double each in the counters: every performed instruction, and the syscall remedy's work. */
export const ASSIST_COUNTERS: readonly string[] = [
  ...INSTRUCTIONS.map(({ id }) => id),
  'syscall',
  'syscall-page-fault',
  'syscall-single-step',
  'syscall-lstar',
];

/** Counters for createAssist, all zero. One per vCPU, or one for all where the sums may miss a few. */
export function allocateAssistCounters(): SharedArrayBuffer {
  return new SharedArrayBuffer(ASSIST_COUNTERS.length * Float64Array.BYTES_PER_ELEMENT);
}

/** Counts by name, those that are not zero. */
export function reportAssists(counters: SharedArrayBuffer): Record<string, number> {
  const cells = new Float64Array(counters);
  return Object.fromEntries(
    ASSIST_COUNTERS.flatMap((name, index) => {
      const count = cells[index] ?? 0;
      return count === 0 ? [] : [[name, count]];
    }),
  );
}

export interface AssistOptions {
  readonly vcpu: VcpuFd;
  readonly memory: GuestMemory;
  /** Ids of the quirks that the probe found. */
  readonly quirks: readonly string[];
  readonly guestDebug: GuestDebug;
  /** ASSIST_COUNTERS.length doubles; see allocateAssistCounters. */
  readonly counters?: Float64Array;
  /** One word, the same for all vCPUs of the VM: serializes `cmpxchg16b`. A VM of one vCPU needs none. */
  readonly lock?: Int32Array;
  /** Whether a debugger planted the `int3` at a linear address: then the exit is left to it. */
  readonly ownsInt3?: (linear: bigint) => boolean;
}

export interface Assist extends ExitAssist {
  /** The instruction that could not be performed, once that has happened. */
  readonly failure: UnassistedInstruction | undefined;
  /** To be called after LSTAR was set from outside (a restored snapshot): the remedy saw no write of it. */
  resume(): void;
}

/** Arms the assist: from now on KVM stores this vCPU's registers in kvm_run at each exit. */
export function createAssist(options: AssistOptions): Assist {
  const { vcpu, memory, guestDebug } = options;
  const counters = options.counters ?? new Float64Array(ASSIST_COUNTERS.length);
  const registers = new SyncedRegisters(vcpu);
  const context: InstructionContext = {
    registers,
    memory,
    lock: options.lock ?? new Int32Array(1),
    ownsInt3: options.ownsInt3 ?? (() => false),
  };
  const syscall = options.quirks.includes('syscall')
    ? new SyscallRemedy(vcpu, memory, guestDebug, registers)
    : undefined;
  const indexOf = new Map(ASSIST_COUNTERS.map((name, index) => [name, index]));
  const count = (name: string): true => {
    const index = indexOf.get(name) ?? 0;
    counters[index] = (counters[index] ?? 0) + 1;
    return true;
  };
  const counterOf = { syscall: 'syscall', 'page-fault': 'syscall-page-fault', stepped: 'syscall-single-step' } as const;
  let failure: UnassistedInstruction | undefined;
  registers.arm();
  return {
    get failure() {
      return failure;
    },
    emulationFailure() {
      const bytes = instructionBytes(vcpu, memory, registers);
      const instruction = decode(bytes, registers.codeBits, layoutOf);
      const row =
        instruction &&
        INSTRUCTIONS.find(({ opcode, matches }) => opcode === instruction.opcode && matches(instruction));
      const result =
        row === undefined ? 'refused' : row.perform(instruction as NonNullable<typeof instruction>, context);
      if (result === 'debugger') return false;
      if (row === undefined || instruction === undefined || result === 'refused') {
        failure = describeUnassisted(bytes, registers);
        return false;
      }
      if (result === 'next') registers.rip += BigInt(instruction.length);
      return count(row.id);
    },
    debug() {
      const result = syscall?.debug() ?? 'foreign';
      return result !== 'foreign' && count(counterOf[result]);
    },
    wrmsr() {
      return syscall?.wrmsr() === true && count('syscall-lstar');
    },
    resume() {
      syscall?.resume();
    },
  };
}

/** The bytes that KVM says; those of a kernel that does not (before 5.14) are read from the guest. */
function instructionBytes(vcpu: VcpuFd, memory: GuestMemory, registers: SyncedRegisters): Uint8Array {
  const at = KVM_RUN_OFFSET.emulation_failure;
  const { view, u8 } = vcpu.run;
  const hasBytes = view.getUint32(at.ndata, true) >= 3 && (view.getUint32(at.flags, true) & 1) !== 0;
  const size = hasBytes ? Math.min(u8[at.insn_size] as number, 15) : 0;
  const said = u8.slice(at.insn_bytes, at.insn_bytes + size);
  if (size === 15) return said;
  // Fewer when KVM's own fetch ended at a page.
  const base = registers.codeBits === 64 ? 0n : registers.segmentBase('cs');
  const read = readLinear(memory, registers, base + registers.rip, 15);
  return read.length > size ? read : said;
}
