// How a machine's life ended, without ambiguity: a closed union of plain data, and the exit status that stands for it.
import type { VcpuState } from '../vcpu/dump.js';
import type { FailureKind } from './failure-kind.js';
import type { Diagnosis } from './doctor/diagnosis.js';
import type { UnassistedInstruction } from '../vcpu/assist/assist.js';

export type { FailureKind } from './failure-kind.js';

export type Outcome =
  /** The guest switched itself off (ACPI S5). */
  | { readonly kind: 'power-off' }
  /** The guest reset the machine, which ends it here. */
  | { readonly kind: 'reset' }
  /** A write of `value` to the debug-exit port. */
  | { readonly kind: 'debug-exit'; readonly value: number }
  /** The command of a `run -- COMMAND` ended by itself, or by signal `status - 128`; `message`: why it could not run. */
  | { readonly kind: 'command'; readonly status: number; readonly message?: string }
  /** `stop()` was called, with its reason when one was given. */
  | { readonly kind: 'stopped'; readonly by: 'host' | 'timeout' | 'abort' }
  | {
      readonly kind: 'failed';
      readonly failure: FailureKind;
      /** One sentence for a person. */
      readonly message: string;
      /** Registers by vCPU, where they could be had. */
      readonly vcpus: readonly (VcpuState | undefined)[];
      readonly unassisted?: UnassistedInstruction;
      /** What the boot doctor found. */
      readonly diagnosis?: Diagnosis;
    };

/** The exit status of `microvisor run` for an outcome (signals are the process's own matter). */
export function exitStatus(outcome: Outcome): number {
  switch (outcome.kind) {
    case 'power-off':
    case 'reset':
      return 0;
    case 'debug-exit':
      // As QEMU's isa-debug-exit: never even, so that it differs from a plain success.
      return ((outcome.value << 1) | 1) & 0xff;
    case 'command':
      return outcome.status;
    case 'stopped':
      return outcome.by === 'timeout' ? 124 : 0;
    case 'failed':
      return 125;
  }
}
