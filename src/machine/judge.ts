// Decides a machine's outcome from what ended it and what was seen until then. Pure: one place, every case a test.
// ACPI 6.5 §16.1.7 (S5); Linux kernel/panic.c (a panic may reset the machine, which is no success).
import { MACHINE_EVENT, type MachineEvent } from '../devices/machine-event.js';
import { DEVICE_FAILED } from '../devices/user-device-front.js';
import { describeStop, type VcpuStop } from '../vcpu/stop.js';
import type { CommandEnd } from './exec-channel.js';
import type { FailureKind, Outcome } from './outcome.js';
import type { VcpuEnd } from './vcpu-thread.js';

/** What ended the machine. */
export type Cause =
  | { readonly kind: 'event'; readonly event: MachineEvent }
  | { readonly kind: 'vcpu'; readonly end: VcpuEnd }
  | { readonly kind: 'halted' }
  | { readonly kind: 'device'; readonly message: string }
  | { readonly kind: 'stopped'; readonly by: 'host' | 'timeout' | 'abort' };

export interface Evidence {
  readonly cause: Cause;
  /** How each vCPU's thread ended. */
  readonly ends: readonly VcpuEnd[];
  /** The kernel's panic line, when one was on the console. */
  readonly panic: string | undefined;
  readonly wantsCommand: boolean;
  readonly command: CommandEnd | undefined;
}

type StopKind = VcpuStop['kind'];

const FAILURES: Readonly<Partial<Record<StopKind, FailureKind>>> = {
  shutdown: 'triple-fault',
  'internal-error': 'kvm-internal-error',
  'fail-entry': 'kvm-entry-failed',
};

export function judge(evidence: Evidence): Outcome {
  const { cause, panic, wantsCommand, command } = evidence;
  const failed = (failure: FailureKind, message: string): Outcome => asFailure(evidence, failure, message);
  if (cause.kind === 'stopped' && cause.by !== 'host') return { kind: 'stopped', by: cause.by };
  if (cause.kind === 'event' && cause.event.kind === MACHINE_EVENT.DEBUG_EXIT)
    return { kind: 'debug-exit', value: cause.event.value };
  // A command that has ended has a status, however the guest went after it.
  if (command !== undefined) {
    const { status, message } = command;
    return { kind: 'command', status, ...(message === undefined ? {} : { message }) };
  }
  if (cause.kind === 'stopped') return { kind: 'stopped', by: cause.by };
  if (cause.kind === 'device') return failed('device-failed', cause.message);
  if (panic !== undefined) return failed('kernel-panic', panic);
  if (cause.kind === 'halted') return failed('all-cpus-halted', 'all CPUs are halted with interrupts off');
  if (cause.kind === 'vcpu') return judgeVcpu(evidence, cause.end);
  if (wantsCommand) return failed('no-command-status', 'the guest ended before its command did');
  return { kind: cause.event.kind === MACHINE_EVENT.POWER_OFF ? 'power-off' : 'reset' };
}

function judgeVcpu(evidence: Evidence, end: VcpuEnd): Outcome {
  const index = evidence.ends.indexOf(end);
  if (end.type === 'crashed' && end.code === DEVICE_FAILED) return asFailure(evidence, 'device-failed', end.message);
  if (end.type === 'crashed') {
    const reason = end.code === undefined ? end.message : `${end.code}: ${end.message}`;
    return asFailure(evidence, 'vcpu-thread-crashed', `vCPU ${index}'s thread failed: ${reason}`);
  }
  const kind = FAILURES[end.stop.kind] ?? 'unknown-exit';
  return asFailure(evidence, kind, `vCPU ${index}: ${describeStop(end.stop)}`);
}

function asFailure(evidence: Evidence, failure: FailureKind, message: string): Outcome {
  const vcpus = evidence.ends.map((end) => (end.type === 'stopped' ? end.state : undefined));
  const unassisted = evidence.ends.flatMap((end) =>
    end.type === 'stopped' && end.unassisted !== undefined ? [end.unassisted] : [],
  )[0];
  return { kind: 'failed', failure, message, vcpus, ...(unassisted === undefined ? {} : { unassisted }) };
}
