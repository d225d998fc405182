// The instruction assist against real guests: each row makes the instruction do what the processor's manual says.
// On a host without quirks the same code runs on the processor, and the same results are asked for.
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { System } from '../../src/kvm/system.js';
import { createAssist, type Assist } from '../../src/vcpu/assist/assist.js';
import { MICRO_CODE, MICRO_DATA, MicroGuest } from '../../src/vcpu/assist/micro-guest.js';
import { presentQuirks, probeQuirks } from '../../src/vcpu/assist/probe.js';
import { ASSIST_COUNTERS } from '../../src/vcpu/assist/assist.js';
import { GuestDebug } from '../../src/vcpu/guest-debug.js';
import { noKvm } from '../support/kvm.js';

const CF_PF_AF_ZF_SF_OF = 0x8d5n;
const ZF = 0x40n;
const AC = 1n << 18n;
const MASK64 = 0xffff_ffff_ffff_ffffn;

describe.skipIf(noKvm)('the assist', () => {
  let system: System;
  let guest: MicroGuest;
  let assist: Assist;
  let counters: Float64Array;
  let quirks: string[];

  beforeAll(() => {
    system = System.open();
    quirks = presentQuirks(probeQuirks(system));
    guest = new MicroGuest(system, system.supportedCpuid(), 4000);
    counters = new Float64Array(ASSIST_COUNTERS.length);
    assist = createAssist({
      vcpu: guest.vcpu,
      memory: guest.memory,
      quirks,
      guestDebug: new GuestDebug(guest.vcpu),
      counters,
      ownsInt3: (linear) => linear === BigInt(MICRO_CODE + 1),
    });
  });

  afterAll(() => {
    guest.close();
    system.close();
  });

  const counted = (name: string): number => counters[ASSIST_COUNTERS.indexOf(name)] ?? 0;

  it.each(['long', 'protected'] as const)(
    'int3 in %s mode: "the saved instruction pointer points to the byte following the INT3"',
    (mode) => {
      guest.prepare({ mode, cpl: 0, code: [0xcc] });
      expect(guest.run(assist)).toEqual({ kind: 'vector', vector: 3, rip: BigInt(MICRO_CODE + 1) });
      expect(counted('int3') > 0).toBe(quirks.includes('int3'));
    },
  );

  it('"an int3 that gdb planted goes to gdb, never to the assist"', () => {
    guest.prepare({ mode: 'long', cpl: 0, code: [0x90, 0xcc] });
    if (!quirks.includes('int3')) return;
    guest.vcpu.enter();
    const before = counted('int3');
    expect(assist.emulationFailure()).toBe(false);
    expect(counted('int3')).toBe(before);
    expect(assist.failure).toBeUndefined();
    expect(guest.vcpu.getRegs().rip).toBe(BigInt(MICRO_CODE + 1));
    expect(guest.vcpu.getVcpuEvents().exception.injected).toBe(0);
  });

  it.each(['long', 'protected'] as const)(
    'int n in %s mode calls the handler of its gate, with the next instruction as return address',
    (mode) => {
      guest.prepare({ mode, cpl: 0, code: [0xcd, 0x30] });
      expect(guest.run(assist)).toEqual({ kind: 'vector', vector: 0x30, rip: BigInt(MICRO_CODE + 2) });
    },
  );

  it('fwait does nothing without a pending exception', () => {
    guest.prepare({ mode: 'long', cpl: 0, code: [0x9b] });
    expect(guest.run(assist)).toEqual({ kind: 'done' });
  });

  it('fwait: "#NM if CR0.MP[bit 1] = 1 and CR0.TS[bit 3] = 1"', () => {
    // mov %cr0,%rax; or $0xa,%al; mov %rax,%cr0; fwait
    guest.prepare({ mode: 'long', cpl: 0, code: [0x0f, 0x20, 0xc0, 0x0c, 0x0a, 0x0f, 0x22, 0xc0, 0x9b] });
    expect(guest.run(assist)).toEqual({ kind: 'vector', vector: 7, rip: BigInt(MICRO_CODE + 8) });
  });

  it('"CLAC clears the AC flag bit in EFLAGS", STAC sets it, and both touch nothing else', () => {
    const hasSmap = system.supportedCpuid().some((e) => e.function === 7 && e.index === 0 && (e.ebx & (1 << 20)) !== 0);
    if (!hasSmap && !quirks.includes('clac')) return;
    guest.prepare({ mode: 'long', cpl: 0, code: [0x0f, 0x01, 0xcb], regs: { rflags: 0x8d5n } });
    expect(guest.run(assist)).toEqual({ kind: 'done' });
    expect(guest.vcpu.getRegs().rflags).toBe(AC | 0xad7n);
    guest.prepare({ mode: 'long', cpl: 0, code: [0x0f, 0x01, 0xca], regs: { rflags: AC | 0x8d5n } });
    expect(guest.run(assist)).toEqual({ kind: 'done' });
    expect(guest.vcpu.getRegs().rflags).toBe(0xad7n);
  });

  // The same popcnt at CPL 3 runs on the processor on every host: that is the reference.
  it('popcnt at CPL 0 gives what the processor gives at CPL 3, for registers and memory of all widths', () => {
    const encodings: readonly (readonly [name: string, bytes: readonly number[]])[] = [
      ['popcnt %rbx,%rax', [0xf3, 0x48, 0x0f, 0xb8, 0xc3]],
      ['popcnt %ebx,%eax', [0xf3, 0x0f, 0xb8, 0xc3]],
      ['popcnt %bx,%ax', [0x66, 0xf3, 0x0f, 0xb8, 0xc3]],
      ['popcnt (%rsi),%rax', [0xf3, 0x48, 0x0f, 0xb8, 0x06]],
      ['popcnt 5(%rsi,%rcx,4),%r9d', [0xf3, 0x44, 0x0f, 0xb8, 0x4c, 0x8e, 0x05]],
      ['popcnt -8(%rdi),%r12w', [0x66, 0xf3, 0x44, 0x0f, 0xb8, 0x67, 0xf8]],
      ['popcnt %gs:0x10010,%rdx', [0x65, 0xf3, 0x48, 0x0f, 0xb8, 0x14, 0x25, 0x10, 0x00, 0x01, 0x00]],
      ['popcnt (%r13),%eax', [0xf3, 0x41, 0x0f, 0xb8, 0x45, 0x00]],
      ['popcnt 0x8000(%rip),%rax', [0xf3, 0x48, 0x0f, 0xb8, 0x05, 0x00, 0x80, 0x00, 0x00]],
    ];
    const random = generator(1);
    for (const [name, code] of encodings) {
      for (const value of [0n, MASK64, 1n, random(), random()]) {
        const regs = {
          rax: random(),
          rbx: value,
          rcx: 3n,
          rdx: random(),
          r9: random(),
          r12: random(),
          r13: BigInt(MICRO_DATA + 24),
          rdi: BigInt(MICRO_DATA + 8),
          rflags: random() & CF_PF_AF_ZF_SF_OF,
        };
        for (let i = 0; i < 16; i++) guest.memory.writeU64(MICRO_DATA + i * 8, value === 0n ? 0n : random());
        const results = ([3, 0] as const).map((cpl) => {
          guest.prepare({ mode: 'long', cpl, code, regs });
          expect(guest.run(assist), name).toEqual({ kind: 'done' });
          const after = guest.vcpu.getRegs();
          return { ...after, rflags: after.rflags & CF_PF_AF_ZF_SF_OF };
        });
        expect(results[1], name).toEqual(results[0]);
      }
    }
  });

  it('cmpxchg16b at CPL 0 gives what the processor gives at CPL 3, for equal and unequal values', () => {
    const random = generator(2);
    for (let round = 0; round < 20; round++) {
      const memory = [random(), random()] as const;
      const isEqual = round % 2 === 0;
      const lowDiffers = round % 4 === 1;
      const regs = {
        rax: isEqual || !lowDiffers ? memory[0] : random(),
        rdx: isEqual || lowDiffers ? memory[1] : random(),
        rbx: random(),
        rcx: random(),
        rflags: random() & CF_PF_AF_ZF_SF_OF,
      };
      const results = ([3, 0] as const).map((cpl) => {
        guest.memory.writeU64(MICRO_DATA + 16, memory[0]);
        guest.memory.writeU64(MICRO_DATA + 24, memory[1]);
        guest.prepare({ mode: 'long', cpl, code: [0xf0, 0x48, 0x0f, 0xc7, 0x4e, 0x10], regs });
        expect(guest.run(assist)).toEqual({ kind: 'done' });
        const after = guest.vcpu.getRegs();
        const stored = [guest.memory.readU64(MICRO_DATA + 16), guest.memory.readU64(MICRO_DATA + 24)];
        return { ...after, rflags: after.rflags & CF_PF_AF_ZF_SF_OF, stored };
      });
      expect(results[1]).toEqual(results[0]);
      expect(((results[1]?.rflags ?? 0n) & ZF) !== 0n).toBe(isEqual);
    }
  });

  it('cmpxchg16b: "#GP(0) if the memory operand is not aligned on a 16-byte boundary"', () => {
    guest.prepare({ mode: 'long', cpl: 0, code: [0x48, 0x0f, 0xc7, 0x4e, 0x08] });
    expect(guest.run(assist)).toEqual({ kind: 'vector', vector: 13, rip: BigInt(MICRO_CODE) });
  });

  it('an operand in a page that is not there raises #PF with its address in CR2', () => {
    const address = 0x7f00_0000_1230n;
    guest.prepare({ mode: 'long', cpl: 0, code: [0x48, 0x0f, 0xc7, 0x0e], regs: { rsi: address } });
    expect(guest.run(assist)).toEqual({ kind: 'vector', vector: 14, rip: BigInt(MICRO_CODE) });
    expect(guest.vcpu.getSregs().cr2).toBe(address);
    // W in the error code; QEMU's emulated processor reads first and says R.
    if (quirks.includes('cmpxchg16b')) expect(guest.memory.readU64(Number(guest.vcpu.getRegs().rsp))).toBe(2n);
  });

  it('what it cannot perform it reports: bytes, disassembly, and the option that keeps Linux away from it', () => {
    guest.prepare({ mode: 'long', cpl: 0, code: [0x0f, 0xae, 0x26] });
    const outcome = guest.run(assist);
    if (!quirks.includes('xsave')) return;
    expect(outcome).toEqual({ kind: 'emulation-failure' });
    expect(assist.failure).toEqual({
      rip: '0x8000',
      cpl: 0,
      bytes: '0f ae 26',
      text: 'xsave (%rsi)',
      suggestion: expect.stringContaining('clearcpuid=xsave') as string,
    });
  });
});

/** xorshift64*: the same values in every run. */
function generator(seed: number): () => bigint {
  let state = BigInt(seed) * 0x9e37_79b9_7f4a_7c15n;
  return () => {
    state ^= state >> 12n;
    state = (state ^ (state << 25n)) & MASK64;
    state ^= state >> 27n;
    return (state * 0x2545_f491_4f6c_dd1dn) & MASK64;
  };
}
