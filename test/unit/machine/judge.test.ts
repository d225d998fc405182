// What a machine's outcome is, case by case: the order in which causes and evidence count, and the exit status.
// The sentences are those of judge.ts, outcome.ts and of the command's documentation.
import { describe, expect, it } from 'vitest';
import { MACHINE_EVENT } from '../../../src/devices/machine-event.js';
import { judge, type Cause, type Evidence } from '../../../src/machine/judge.js';
import { exitStatus, type FailureKind, type Outcome } from '../../../src/machine/outcome.js';
import type { VcpuEnd } from '../../../src/machine/vcpu-thread.js';
import type { VcpuState } from '../../../src/vcpu/dump.js';
import type { VcpuStop } from '../../../src/vcpu/stop.js';

const CAUSES = {
  powerOff: { kind: 'event', event: { kind: MACHINE_EVENT.POWER_OFF, value: 0 } },
  reset: { kind: 'event', event: { kind: MACHINE_EVENT.RESET, value: 0 } },
  debugExit: { kind: 'event', event: { kind: MACHINE_EVENT.DEBUG_EXIT, value: 7 } },
  halted: { kind: 'halted' },
  device: { kind: 'device', message: 'the disk is gone' },
  host: { kind: 'stopped', by: 'host' },
  timeout: { kind: 'stopped', by: 'timeout' },
  abort: { kind: 'stopped', by: 'abort' },
} as const satisfies Readonly<Record<string, Cause>>;

const PANIC = 'Kernel panic - not syncing: VFS';
const COMMAND = { status: 3, message: undefined };

const stopped = (stop: VcpuStop): VcpuEnd => ({ type: 'stopped', stop });
const KICKED = stopped({ kind: 'kicked' });
const TRIPLE_FAULT = stopped({ kind: 'shutdown' });

/** A cause with nothing else seen. */
function evidence(cause: Cause, more: Partial<Evidence> = {}): Evidence {
  return { cause, ends: [KICKED], panic: undefined, wantsCommand: false, command: undefined, ...more };
}

/** A failure of vCPU 1, which ended with `end`. */
function vcpuFailure(end: VcpuEnd, more: Partial<Evidence> = {}): Outcome {
  return judge(evidence({ kind: 'vcpu', end }, { ends: [KICKED, end], ...more }));
}

function failureOf(outcome: Outcome): FailureKind | undefined {
  return outcome.kind === 'failed' ? outcome.failure : undefined;
}

describe('judge', () => {
  it('"the guest switched itself off" or "reset the machine, which ends it here"', () => {
    expect(judge(evidence(CAUSES.powerOff))).toEqual({ kind: 'power-off' });
    expect(judge(evidence(CAUSES.reset))).toEqual({ kind: 'reset' });
  });

  it('"a write of value to the debug-exit port", whatever else was seen', () => {
    const outcome = { kind: 'debug-exit', value: 7 };
    expect(judge(evidence(CAUSES.debugExit))).toEqual(outcome);
    expect(judge(evidence(CAUSES.debugExit, { panic: PANIC, wantsCommand: true, command: COMMAND }))).toEqual(outcome);
  });

  it.each(['timeout', 'abort'] as const)('a stop by %s is one, even after a panic or a command', (by) => {
    expect(judge(evidence(CAUSES[by], { panic: PANIC, wantsCommand: true, command: COMMAND }))).toEqual({
      kind: 'stopped',
      by,
    });
  });

  it('"a command that has ended has a status, however the guest went after it"', () => {
    const more = { wantsCommand: true, command: COMMAND, panic: PANIC };
    for (const cause of [CAUSES.powerOff, CAUSES.reset, CAUSES.halted, CAUSES.device, CAUSES.host])
      expect(judge(evidence(cause, more))).toEqual({ kind: 'command', status: 3 });
    expect(vcpuFailure(TRIPLE_FAULT, more)).toEqual({ kind: 'command', status: 3 });
  });

  it('"stop() was called": no failure, even of a guest that panicked or never ran its command', () => {
    expect(judge(evidence(CAUSES.host, { panic: PANIC, wantsCommand: true }))).toEqual({ kind: 'stopped', by: 'host' });
  });

  it('"no status from COMMAND" when the guest ends before', () => {
    for (const cause of [CAUSES.powerOff, CAUSES.reset])
      expect(judge(evidence(cause, { wantsCommand: true }))).toMatchObject({
        kind: 'failed',
        failure: 'no-command-status',
        message: 'the guest ended before its command did',
      });
  });

  it('"a panic may reset the machine, which is no success"', () => {
    const failed = { kind: 'failed', failure: 'kernel-panic', message: PANIC };
    for (const cause of [CAUSES.powerOff, CAUSES.reset, CAUSES.halted])
      expect(judge(evidence(cause, { panic: PANIC, wantsCommand: true }))).toMatchObject(failed);
    expect(vcpuFailure(TRIPLE_FAULT, { panic: PANIC })).toMatchObject(failed);
  });

  it('a device that failed is the cause, with its own words', () => {
    const failed = { failure: 'device-failed', message: 'the disk is gone' };
    expect(judge(evidence(CAUSES.device, { panic: PANIC, wantsCommand: true }))).toMatchObject(failed);
  });

  it('"all CPUs halted with interrupts off"', () => {
    expect(judge(evidence(CAUSES.halted, { wantsCommand: true }))).toMatchObject({ failure: 'all-cpus-halted' });
  });

  it.each<[VcpuStop, FailureKind, RegExp]>([
    [{ kind: 'shutdown' }, 'triple-fault', /^vCPU 1: triple fault \(KVM_EXIT_SHUTDOWN\)$/],
    [
      { kind: 'internal-error', suberror: 1, bytes: [0x0f, 0xae] },
      'kvm-internal-error',
      /^vCPU 1: KVM internal error, KVM_INTERNAL_ERROR_EMULATION.* \(0f ae\)$/,
    ],
    [{ kind: 'internal-error', suberror: 99, bytes: [] }, 'kvm-internal-error', /, suberror 99$/],
    [{ kind: 'fail-entry', hardwareReason: 0x80000021n }, 'kvm-entry-failed', /hardware reason 0x80000021/],
    [{ kind: 'unknown-exit', reason: 37 }, 'unknown-exit', /exit reason 37, which nothing here handles/],
    [{ kind: 'debug', exception: 1, pc: 0x10n, dr6: 0n }, 'unknown-exit', /debug exception 1 at 0x10/],
    [{ kind: 'system-event', type: 3 }, 'unknown-exit', /system event 3/],
    [{ kind: 'hlt' }, 'unknown-exit', /HLT/],
  ])('%o of a vCPU is %s, and the message names the vCPU', (stop, failure, message) => {
    const outcome = vcpuFailure(stopped(stop));
    expect(failureOf(outcome)).toBe(failure);
    expect(outcome).toHaveProperty('message', expect.stringMatching(message));
  });

  it('"a worker that throws or runs out of memory ends the VM with a named reason"', () => {
    const crash = { type: 'crashed', message: 'boom', code: undefined } as const;
    expect(vcpuFailure(crash)).toMatchObject({
      failure: 'vcpu-thread-crashed',
      message: "vCPU 1's thread failed: boom",
      vcpus: [undefined, undefined],
    });
    expect(vcpuFailure({ ...crash, code: 'ERR_WORKER_OUT_OF_MEMORY' })).toHaveProperty(
      'message',
      "vCPU 1's thread failed: ERR_WORKER_OUT_OF_MEMORY: boom",
    );
  });

  it('"registers by vCPU, where they could be had", and what could not be assisted', () => {
    const state = { vcpu: 0, mode: 'long' } as VcpuState;
    const unassisted = { rip: '0x10', cpl: 0, bytes: '0f 0b', text: 'ud2' };
    const ends: VcpuEnd[] = [
      { type: 'stopped', stop: { kind: 'kicked' }, state },
      { type: 'crashed', message: 'boom', code: undefined },
      { type: 'stopped', stop: { kind: 'internal-error', suberror: 1, bytes: [] }, unassisted },
    ];
    expect(judge(evidence({ kind: 'vcpu', end: ends[2] ?? KICKED }, { ends }))).toMatchObject({
      message: expect.stringMatching(/^vCPU 2: /),
      vcpus: [state, undefined, undefined],
      unassisted,
    });
    expect(judge(evidence(CAUSES.halted))).not.toHaveProperty('unassisted');
  });
});

describe('exitStatus', () => {
  it.each<[Outcome, number, string]>([
    [{ kind: 'power-off' }, 0, '0 the guest powered off'],
    [{ kind: 'reset' }, 0, '… or reset'],
    [{ kind: 'stopped', by: 'host' }, 0, '… or Ctrl-A x'],
    [{ kind: 'stopped', by: 'abort' }, 0, 'an abort is the caller’s own wish'],
    [{ kind: 'stopped', by: 'timeout' }, 124, '124 --timeout'],
    [{ kind: 'command', status: 0 }, 0, "COMMAND's own status"],
    [{ kind: 'command', status: 137 }, 137, "COMMAND's own status, ended by a signal"],
    [{ kind: 'debug-exit', value: 0 }, 1, '((V << 1) | 1) & 0xff'],
    [{ kind: 'debug-exit', value: 0x10 }, 0x21, '((V << 1) | 1) & 0xff'],
    [{ kind: 'debug-exit', value: 0xff }, 0xff, '((V << 1) | 1) & 0xff'],
    [{ kind: 'debug-exit', value: 0xffff_ff80 }, 1, '((V << 1) | 1) & 0xff'],
    [{ kind: 'failed', failure: 'triple-fault', message: '', vcpus: [] }, 125, '125 the VM failed'],
  ])('%o → %i: "%s"', (outcome, status) => {
    expect(exitStatus(outcome)).toBe(status);
  });
});
