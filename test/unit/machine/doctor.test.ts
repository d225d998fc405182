// The boot doctor without a machine: rows that no small guest provokes, its report as text, and the watch for stalls.
// The other rows are provoked in test/kvm/doctor.test.ts.
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { GuestMemory } from '../../../src/memory/guest-memory.js';
import { causesOf, describeExit, formatDiagnosis, type Diagnosis } from '../../../src/machine/doctor/diagnosis.js';
import type { DoctorEvidence } from '../../../src/machine/doctor/evidence.js';
import { watchForStall } from '../../../src/machine/stall-watch.js';
import type { VcpuState } from '../../../src/vcpu/dump.js';

function evidence(more: Partial<DoctorEvidence>): DoctorEvidence {
  return {
    failure: undefined,
    vcpus: [],
    stops: [],
    unassisted: undefined,
    kernel: { name: 'k', format: 'flat', cmdline: '', placed: [], e820: [] },
    initrd: undefined,
    hasInitrd: false,
    hasCommand: false,
    virtio: [],
    memory: GuestMemory.create(65536),
    console: { lines: [], isSilent: true, isFull: false },
    exits: [],
    quirks: [],
    ...more,
  };
}

/** As KVM leaves a vCPU on SVM after a shutdown. */
const RESET = {
  mode: 'real',
  regs: { rip: '0xfff0', rflags: '0x2' },
  segments: { cs: { selector: 0xf000 } },
  control: { cr0: '0x60000010' },
  tables: { idt: { base: '0x0', limit: 0xffff } },
  code: { linear: '0xfffffff0', bytes: '', instructions: [] },
  walk: { steps: [], gpa: '0xfffffff0' },
} as unknown as VcpuState;

const first = (more: Partial<DoctorEvidence>): string | undefined => causesOf(evidence(more))[0]?.id;

describe('causes', () => {
  it('a vCPU thread that crashed, an entry that was refused, a console that nobody reads', () => {
    expect(first({ failure: { kind: 'vcpu-thread-crashed', message: 'out of memory' } })).toBe('vcpu-thread-crashed');
    expect(first({ failure: { kind: 'kvm-entry-failed', message: '' } })).toBe('kvm-entry-failed');
    expect(first({ console: { lines: ['x'], isSilent: false, isFull: true } })).toBe('console-not-read');
  });

  it('where a shutdown takes the registers with it, it says so instead of reading them', () => {
    const failure = { kind: 'triple-fault', message: '' } as const;
    expect(first({ failure, vcpus: [RESET], stops: [{ kind: 'shutdown' }] })).toBe('triple-fault-state-lost');
  });

  it('says nothing where it knows nothing', () => {
    expect(causesOf(evidence({ failure: { kind: 'unknown-exit', message: '' } }))).toEqual([]);
  });
});

describe('report', () => {
  it('exits by name, with the device', () => {
    const access = { space: 'port', address: 0x3f8, isWrite: true, size: 1, count: 2, value: 0x41 } as const;
    const exit = { entered: 0, exited: 1, reason: 2, access, words: [] };
    expect(describeExit(exit, () => 'COM1')).toBe('KVM_EXIT_IO out 0x3f8 (COM1) = 0x41, 2 items');
    expect(describeExit({ ...exit, reason: 8, access: undefined }, () => '')).toBe('KVM_EXIT_SHUTDOWN');
  });

  it('as text: the cause and its remedy first', () => {
    const diagnosis: Diagnosis = {
      causes: [{ id: 'no-root', cause: 'there is no root', remedy: 'give it one' }],
      vcpus: [{ state: undefined, symbol: 'panic+0x10', stack: ['mount_root+0x5'], lastExits: ['KVM_EXIT_HLT'] }],
      topExits: [{ exit: 'out 0x3f8 (COM1)', count: 12 }],
      boot: {
        kernel: 'k',
        format: 'flat',
        cmdline: '',
        e820: ['0x0-0xfff RAM'],
        placed: [],
        bootParams: { version: '0x20f' },
      },
      console: [],
    };
    const lines = formatDiagnosis(diagnosis);
    expect(lines.slice(0, 3)).toEqual([
      'likely cause: there is no root [no-root]',
      '      remedy: give it one',
      'vCPU 0: rip is in panic+0x10; on its stack: mount_root+0x5',
    ]);
    expect(lines).toContain('boot_params: version=0x20f');
  });
});

describe('stall watch', () => {
  const diagnosis = (id: string, linear: number): Diagnosis =>
    ({
      causes: [{ id, cause: '', remedy: '' }],
      vcpus: [{ state: { code: { linear: `0x${linear.toString(16)}` } } }],
    }) as unknown as Diagnosis;

  async function stalls(
    id: string,
    signs: { isSilent?: boolean; isBooted?: boolean; progress?: boolean; moves?: boolean },
  ): Promise<{ found: number; looks: number }> {
    let found = 0;
    let looks = 0;
    let signature = 0;
    const watch = watchForStall(
      {
        signature: () => String(signs.progress === true ? signature++ : 0),
        isBooted: () => signs.isBooted === true,
        isSilent: () => signs.isSilent !== false,
        diagnose: async () => (looks++, diagnosis(id, 0x100_0000 + (signs.moves === true ? looks * 0x1000 : looks))),
      },
      { afterMs: 10, onStall: () => void found++ },
    );
    await sleep(200);
    watch.close();
    return { found, looks };
  }

  it('tells once, when it found it at one place three times; not of one that goes on, moves, has booted, or may well be idle', async () => {
    expect(await stalls('spinning-interrupts-off', {})).toEqual({ found: 1, looks: 3 });
    expect((await stalls('spinning-interrupts-off', { moves: true })).found).toBe(0);
    expect((await stalls('idle', { isSilent: false })).found).toBe(0);
    expect(await stalls('idle', { isBooted: true })).toEqual({ found: 0, looks: 0 });
    expect(await stalls('idle', { progress: true })).toEqual({ found: 0, looks: 0 });
  });
});
