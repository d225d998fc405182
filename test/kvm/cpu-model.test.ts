// The processor that a guest gets, as KVM and a guest see it: CPUID, MSRs, local APIC; guest debug, dump, translation.
// KVM API 4.47, 4.19, 4.57, 4.87, 4.15.
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { KVM_EXIT_DEBUG } from '../../src/kvm/abi.js';
import { System } from '../../src/kvm/system.js';
import { MICRO_CODE, MICRO_DATA, MICRO_KERNEL_ALIAS, MicroGuest } from '../../src/vcpu/assist/micro-guest.js';
import { configureVcpu } from '../../src/vcpu/cpu-model/configure.js';
import { BOOT_MSRS } from '../../src/vcpu/cpu-model/msrs.js';
import { captureState, formatState } from '../../src/vcpu/dump.js';
import { GuestDebug } from '../../src/vcpu/guest-debug.js';
import { walk } from '../../src/vcpu/paging.js';
import { noKvm } from '../support/kvm.js';
import { microGuest, runToExit } from './micro-guest.js';

describe.skipIf(noKvm)('configureVcpu', () => {
  it('each vCPU of a VM is its own APIC id, has the boot MSRs, and only the boot processor has its pins wired', () => {
    using system = System.open();
    using vm = system.createVm();
    vm.setTssAddr(0xfffb_d000);
    vm.createIrqchip();
    const supportedCpuid = system.supportedCpuid();
    for (let index = 0; index < 3; index++) {
      using vcpu = vm.createVcpu(index);
      configureVcpu({ vcpu, supportedCpuid, index, cpus: 3 });
      const leaf1 = vcpu.getCpuid2().find((entry) => entry.function === 1);
      expect((leaf1?.ebx ?? 0) >>> 24).toBe(index);
      expect((leaf1?.ecx ?? 0) >>> 31).toBe(1);
      const wanted = BOOT_MSRS.map(({ index: msr, data }) => ({ index: msr, data }));
      expect(vcpu.getMsrs(wanted.map((msr) => msr.index))).toEqual(wanted);
      const lapic = new DataView(vcpu.getLapic().buffer);
      const pins = [lapic.getUint32(0x350, true), lapic.getUint32(0x360, true)];
      expect(pins).toEqual(index === 0 ? [0x700, 0x400] : [0x1_0000, 0x1_0000]);
      expect(lapic.getUint32(0x20, true) >>> 24).toBe(index);
    }
  });

  it('a VM without in-kernel interrupt controllers has no pins, and that is no error', () => {
    using guest = microGuest();
    configureVcpu({ vcpu: guest.vcpu, supportedCpuid: guest.system.supportedCpuid(), index: 0, cpus: 1 });
  });

  it('refuses processor counts that an APIC id of 8 bits cannot number', () => {
    using guest = microGuest();
    for (const [index, cpus] of [
      [0, 0],
      [0, 256],
      [2, 2],
      [-1, 1],
      [0.5, 1],
    ] as const)
      expect(() => configureVcpu({ vcpu: guest.vcpu, supportedCpuid: [], index, cpus })).toThrow(RangeError);
  });
});

describe.skipIf(noKvm)('a guest in long mode', () => {
  let system: System;
  let guest: MicroGuest;
  beforeEach(() => {
    system = System.open();
    guest = new MicroGuest(system, system.supportedCpuid(), 4000);
  });
  afterEach(() => {
    guest.close();
    system.close();
  });

  it('walk() agrees with KVM_TRANSLATE in every paging mode that the micro-guest has', () => {
    for (const mode of ['long', 'protected'] as const) {
      guest.prepare({ mode, cpl: 0, code: [0x90] });
      const sregs = guest.vcpu.getSregs();
      const addresses = [
        0n,
        0x8000n,
        0x1_ffffn,
        0x1f_ffffn,
        0x20_0000n,
        BigInt(MICRO_KERNEL_ALIAS) + 0x8123n,
        0x8000_0000n,
      ];
      for (const linear of addresses) {
        const mine = walk(guest.memory, sregs, linear);
        const theirs = guest.vcpu.translate(linear);
        expect([mode, linear, mine.gpa !== undefined]).toEqual([mode, linear, theirs.valid]);
        if (theirs.valid) expect(mine.gpa).toBe(Number(theirs.physicalAddress));
      }
    }
  });

  it('walk() agrees with KVM_TRANSLATE for 4 KiB, 2 MiB and 1 GiB pages', () => {
    guest.prepare({ mode: 'long', cpl: 0, code: [0x90] });
    const { memory, vcpu } = guest;
    memory.writeU64(0x2000 + 2 * 8, 0x4000_0083n);
    memory.writeU64(0x3000 + 1 * 8, (BigInt(MICRO_DATA) + 0x1000n) | 3n);
    memory.writeU64(MICRO_DATA + 0x1000 + 5 * 8, 0x7003n);
    const sregs = vcpu.getSregs();
    // Without GBPAGES bit 7 of a PDPTE is reserved, and KVM_TRANSLATE says so.
    const hasGbPages = system.supportedCpuid().some((e) => e.function === 0x8000_0001 && (e.edx & (1 << 26)) !== 0);
    for (const linear of [...(hasGbPages ? [0x8123_4567n] : []), 0x20_5abcn, 0x20_6abcn, 0x4020_5123n]) {
      const theirs = vcpu.translate(linear);
      expect([linear, walk(memory, sregs, linear).gpa]).toEqual([
        linear,
        theirs.valid ? Number(theirs.physicalAddress) : undefined,
      ]);
    }
  });

  // QEMU's emulation of SVM does not arm the breakpoints of the VMCB's DR7.
  it.skipIf(process.env['MICROVISOR_HOST'] === 'svm')(
    'guest debug composes what its users want, gives out four debug registers, and names the owner of a hit',
    () => {
      guest.prepare({ mode: 'long', cpl: 0, code: [0x90, 0x90, 0x90, 0x90] });
      const debug = new GuestDebug(guest.vcpu);
      debug.request('debugger', { breakpoints: [{ address: BigInt(MICRO_CODE + 2) }] });
      debug.request('syscall-remedy', { breakpoints: [{ address: BigInt(MICRO_CODE + 1) }] });
      expect(debug.breakpointOf('syscall-remedy', 0)?.address).toBe(BigInt(MICRO_CODE + 1));
      expect(debug.breakpointOf('debugger', 1)?.address).toBe(BigInt(MICRO_CODE + 2));
      expect([debug.breakpointOf('debugger', 0), debug.breakpointOf('debugger', 2)]).toEqual([undefined, undefined]);
      expect(runToExit(guest.vcpu)).toBe(KVM_EXIT_DEBUG);
      expect(guest.vcpu.getRegs().rip).toBe(BigInt(MICRO_CODE + 1));
      // Without RF, which the processor has set at the hit and which would let the next instruction pass.
      guest.vcpu.setRegs({ rip: BigInt(MICRO_CODE + 2), rflags: 0x202n });
      debug.request('syscall-remedy', {});
      expect(debug.breakpointOf('debugger', 0)?.address).toBe(BigInt(MICRO_CODE + 2));
      expect(runToExit(guest.vcpu)).toBe(KVM_EXIT_DEBUG);
      expect(guest.vcpu.getRegs().rip).toBe(BigInt(MICRO_CODE + 2));
      const five = Array.from({ length: 5 }, (_, i) => ({ address: BigInt(i) }));
      expect(() => debug.request('debugger', { breakpoints: five })).toThrow(/4 hardware breakpoints, 5 are wanted/);
      debug.request('debugger', { singleStep: true });
      expect(runToExit(guest.vcpu)).toBe(KVM_EXIT_DEBUG);
      expect(guest.vcpu.getRegs().rip).toBe(BigInt(MICRO_CODE + 3));
      debug.request('debugger', {});
      expect(guest.run()).toEqual({ kind: 'done' });
    },
  );

  it('the dump has mode, registers, disassembled code and the walk of RIP, as plain data and as lines', () => {
    guest.prepare({
      mode: 'long',
      cpl: 3,
      code: [0x0f, 0x05, 0x48, 0x31, 0xc0],
      regs: { r12: 0xdead_beef_0000_0001n },
    });
    const state = captureState(guest.vcpu, guest.memory);
    expect(JSON.parse(JSON.stringify(state))).toEqual(state);
    expect(state).toMatchObject({ mode: 'long', codeBits: 64, cpl: 3, paging: '4-level', vcpu: 0 });
    expect(state.regs['r12']).toBe('0xdeadbeef00000001');
    expect(state.code.instructions.slice(0, 2).map(({ text }) => text)).toEqual(['syscall', 'xor %rax,%rax']);
    expect(state.walk).toMatchObject({ gpa: '0x8000', pageSize: 2 ** 21, rights: 'uwx' });
    const lines = formatState(state);
    expect(lines[0]).toBe('vCPU 0: long mode, 64-bit code, CPL 3, paging 4-level');
    expect(lines.join('\n')).toContain('r12=deadbeef00000001');
    for (const line of lines) expect(line.length).toBeLessThanOrEqual(120);
  });

  it('the dump names real and protected mode, and code that is not mapped', () => {
    guest.prepare({ mode: 'protected', cpl: 0, code: [0xf4] });
    expect(captureState(guest.vcpu, guest.memory)).toMatchObject({ mode: 'protected', codeBits: 32, paging: 'none' });
    guest.prepare({ mode: 'long', cpl: 0, code: [0xf4] });
    guest.vcpu.setRegs({ rip: 0x7fff_0000_0000n });
    const lost = captureState(guest.vcpu, guest.memory);
    expect(lost).toMatchObject({ code: { bytes: '', instructions: [] }, walk: { fault: 'not present' } });
    expect(formatState(lost).join('\n')).toContain('(not mapped)');
    using real = microGuest({ code: [0xf4] });
    expect(captureState(real.vcpu, real.memory)).toMatchObject({ mode: 'real', codeBits: 16, paging: 'none', cpl: 0 });
  });
});
