// System calls and page faults of CPL 3 code, on the processor or by the remedy: the same results on every host.
// Intel SDM vol. 2B (SYSCALL, SYSRET), vol. 3A §6.12.
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { KVM_RUN_OFFSET, KVM_RUN_SIZE } from '../../src/kvm/kvm-run.js';
import { System } from '../../src/kvm/system.js';
import { ASSIST_COUNTERS, createAssist, type Assist } from '../../src/vcpu/assist/assist.js';
import { MICRO_IDT, MICRO_KERNEL_ALIAS, MICRO_SELECTOR, MicroGuest } from '../../src/vcpu/assist/micro-guest.js';
import { presentQuirks, probeQuirks } from '../../src/vcpu/assist/probe.js';
import { armSyscallRemedy } from '../../src/vcpu/assist/syscall-remedy.js';
import { GuestDebug } from '../../src/vcpu/guest-debug.js';
import { noKvm } from '../support/kvm.js';

const USER_CODE = 0xb000;
const ENTRY = 0xa000;
const LSTAR = MICRO_KERNEL_ALIAS + ENTRY;
const PAGE_FAULT_HANDLER = 0xc000;
const ROUNDS = 200;
const DONE = [0xe6, 0xff];

/** mov $imm32,%r32 by register number. */
const mov = (register: number, value: number): number[] => [0xb8 + register, ...le32(value)];
const wrmsr = (index: number, low: number, high: number): number[] => [
  ...mov(1, index),
  ...mov(0, low),
  ...mov(2, high),
  0x0f,
  0x30,
];

describe.skipIf(noKvm)('syscall', () => {
  let system: System;
  let quirks: string[];
  let guest: MicroGuest;
  let assist: Assist;
  let counters: Float64Array;

  beforeAll(() => {
    system = System.open();
    quirks = presentQuirks(probeQuirks(system));
  });

  beforeEach(() => {
    guest?.close();
    guest = new MicroGuest(system, system.supportedCpuid(), 4000);
    counters = new Float64Array(ASSIST_COUNTERS.length);
    if (quirks.includes('syscall')) armSyscallRemedy(guest.vm);
    assist = createAssist({
      vcpu: guest.vcpu,
      memory: guest.memory,
      quirks,
      guestDebug: new GuestDebug(guest.vcpu),
      counters,
    });
  });

  afterAll(() => {
    guest.close();
    system.close();
  });

  const counted = (name: string): number => counters[ASSIST_COUNTERS.indexOf(name)] ?? 0;

  /** CPL 0 sets the MSRs and goes to CPL 3; the #PF handler starts with `first`, skips the 8-byte load and counts in R13. */
  function prepare(user: readonly number[], entry: readonly number[], first: readonly number[], mask = 0): void {
    const code = [
      ...wrmsr(0xc000_0081, 0, (MICRO_SELECTOR.userCode32 << 16) | MICRO_SELECTOR.kernelCode),
      ...wrmsr(0xc000_0084, mask, 0),
      ...wrmsr(0xc000_0082, LSTAR, 0),
      ...mov(1, USER_CODE),
      // mov $0x3202,%r11d; sysretq
      0x41,
      0xbb,
      ...le32(0x3202),
      0x48,
      0x0f,
      0x07,
    ];
    guest.prepare({ mode: 'long', cpl: 0, code });
    guest.memory.write(USER_CODE, Uint8Array.from([...user, ...DONE, 0xeb, 0xfe]));
    guest.memory.write(ENTRY, Uint8Array.from(entry));
    guest.memory.write(
      PAGE_FAULT_HANDLER,
      // addq $8,8(%rsp); inc %r13; add $8,%rsp; iretq
      Uint8Array.from([...first, 0x48, 0x83, 0x44, 0x24, 8, 8, 0x49, 0xff, 0xc5, 0x48, 0x83, 0xc4, 8, 0x48, 0xcf]),
    );
    guest.memory.writeU32(MICRO_IDT + 14 * 16, (MICRO_SELECTOR.kernelCode << 16) | PAGE_FAULT_HANDLER);
  }

  /** ROUNDS times: syscall, then a load from a page that is not there. */
  const loop = [
    0x41,
    0xbf,
    ...le32(ROUNDS), // mov $ROUNDS,%r15d
    0x0f,
    0x05, // 1: syscall
    0x48,
    0x8b,
    0x04,
    0x25,
    ...le32(0x7000_0000), // mov 0x70000000,%rax
    0x41,
    0xff,
    0xcf, // dec %r15d
    0x75,
    0xf1, // jnz 1b
  ];
  /** inc %r14; sysretq */
  const countingEntry = [0x49, 0xff, 0xc6, 0x48, 0x0f, 0x07];

  const handlers: readonly (readonly [name: string, bytes: readonly number[]])[] = [
    ['endbr64', [0xf3, 0x0f, 0x1e, 0xfa]],
    ['a three-byte nop, where Linux had clac', [0x0f, 0x1f, 0x00]],
    ['nop', [0x90]],
    ['nopw 0(%rax,%rax,1)', [0x66, 0x0f, 0x1f, 0x44, 0x00, 0x00]],
    ['cld', [0xfc]],
    ['an instruction that only the processor can step over', [0x50, 0x58]],
  ];
  it.each(handlers)('enters CPL 0 at LSTAR, and page faults reach a handler that starts with %s', (_name, first) => {
    prepare(loop, countingEntry, first);
    const { rsp } = guest.vcpu.getRegs();
    expect(guest.run(assist)).toEqual({ kind: 'done' });
    const regs = guest.vcpu.getRegs();
    expect({ syscalls: regs.r14, faults: regs.r13, rsp: regs.rsp }).toEqual({
      syscalls: BigInt(ROUNDS),
      faults: BigInt(ROUNDS),
      rsp,
    });
    const isRemedied = quirks.includes('syscall');
    expect(counted('syscall')).toBe(isRemedied ? ROUNDS : 0);
    expect(counted('syscall-page-fault')).toBe(isRemedied ? ROUNDS : 0);
    expect(counted('syscall-lstar')).toBe(isRemedied ? 1 : 0);
  });

  it('"RCX ← RIP; R11 ← RFLAGS; RFLAGS ← RFLAGS AND NOT(IA32_FMASK)", with CS and SS from STAR', () => {
    // pushfq; pop %r12; mov %cs,%eax; mov %ss,%ebx; out %al,$DONE
    prepare([0xfd, 0x0f, 0x05], [0x9c, 0x41, 0x5c, 0x8c, 0xc8, 0x8c, 0xd3, ...DONE], [0x90], 0x600);
    expect(guest.run(assist)).toEqual({ kind: 'done' });
    const regs = guest.vcpu.getRegs();
    expect(regs.rcx).toBe(BigInt(USER_CODE + 3));
    expect(regs.r11 & 0x600n).toBe(0x600n);
    expect(regs.r12 & 0x1_0600n).toBe(0n);
    expect([regs.rax & 0xffffn, regs.rbx & 0xffffn]).toEqual([0x10n, 0x18n]);
    const { cs, ss } = guest.vcpu.getSregs();
    expect([cs.dpl, cs.l, cs.type, ss.dpl]).toEqual([0, 1, 11, 0]);
  });

  it('a jump to LSTAR at CPL 3 gives the program no more than a system call would', () => {
    if (!quirks.includes('syscall')) return;
    // std; mov $LSTAR,%eax; jmp *%rax
    prepare([0xfd, ...mov(0, LSTAR), 0xff, 0xe0], [0x9c, 0x41, 0x5c, ...DONE], [0x90], 0x600);
    expect(guest.run(assist)).toEqual({ kind: 'done' });
    expect(guest.vcpu.getRegs().r12 & 0x600n).toBe(0n);
  });

  it('a write of an address that is not canonical to LSTAR raises #GP', () => {
    // The processor raises it by itself elsewhere; QEMU's emulated one does not.
    if (!quirks.includes('syscall')) return;
    guest.prepare({ mode: 'long', cpl: 0, code: wrmsr(0xc000_0082, 0, 0x0000_8000) });
    expect(guest.run(assist)).toMatchObject({ kind: 'vector', vector: 13 });
  });

  it('goes on after LSTAR was set from outside, as a restored snapshot does', () => {
    prepare(loop, countingEntry, [0x90]);
    expect(guest.run(assist)).toEqual({ kind: 'done' });
    const again = createAssist({
      vcpu: guest.vcpu,
      memory: guest.memory,
      quirks,
      guestDebug: new GuestDebug(guest.vcpu),
    });
    guest.vcpu.setGuestDebug({ control: 0 });
    // What an earlier exit left in kvm_run must not matter.
    guest.vcpu.run.u8.fill(0, KVM_RUN_OFFSET.s.regs.regs, KVM_RUN_SIZE);
    again.resume();
    guest.vcpu.setRegs({ rip: BigInt(USER_CODE), r13: 0n, r14: 0n });
    expect(guest.run(again)).toEqual({ kind: 'done' });
    expect(guest.vcpu.getRegs().r14).toBe(BigInt(ROUNDS));
  });
});

function le32(value: number): number[] {
  return [value & 0xff, (value >>> 8) & 0xff, (value >>> 16) & 0xff, (value >>> 24) & 0xff];
}
