// What a quirk is: a row of symptom, probe, remedy and kernel options. The rows are in quirks.ts and debug-quirks.ts.
// Linux Documentation/admin-guide/kernel-parameters.txt (the options).
import { hex } from '../disassemble.js';
import type { MicroGuest, MicroOutcome } from './micro-guest.js';

export interface ProbeResult {
  readonly present: boolean;
  /** What the micro-guest did, in a few words. */
  readonly evidence: string;
}

/** An option for a Linux guest on a host with the quirk. */
export interface KernelOption {
  /** A whole option, or a feature for the one `clearcpuid=` that all rows share. */
  readonly option: string | { readonly clearcpuid: string };
  readonly why: string;
}

export interface Quirk {
  readonly id: string;
  readonly symptom: string;
  readonly remedy: string;
  readonly kernelOptions: readonly KernelOption[];
  /** Who needs to know: every run, a run with a debugger, or only the reader of `check`. */
  readonly neededBy: 'run' | 'debugger' | 'check';
  readonly probe: (guest: MicroGuest, presentSoFar: ReadonlySet<string>) => ProbeResult;
}

/** What a micro-guest did, in a few words. */
export function describeOutcome(outcome: MicroOutcome): string {
  switch (outcome.kind) {
    case 'done':
      return 'ran';
    case 'vector':
      return `vector ${outcome.vector} with RIP ${hex(outcome.rip)}`;
    case 'spins':
      return `still at RIP ${hex(outcome.rip)} when the timer came`;
    case 'emulation-failure':
      return 'KVM_INTERNAL_ERROR_EMULATION';
    case 'debug':
      return 'KVM_EXIT_DEBUG';
    case 'other':
      return `exit reason ${outcome.exitReason}`;
  }
}
