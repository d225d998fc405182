// The ioctls of a vCPU against the real kernel, with guests of a few bytes where behaviour shows them.
// KVM API chapter 4, type "vcpu ioctl"; chapter 5.
import { describe, expect, test } from 'vitest';
import * as abi from '../../src/kvm/abi.js';
import { KVM_RUN_OFFSET } from '../../src/kvm/kvm-run.js';
import { MSR_IA32_TSC, MSR_KVM_SYSTEM_TIME_NEW, MSR_LSTAR } from '../../src/kvm/msr.js';
import { decodeSregs } from '../../src/kvm/registers.js';
import type { VcpuFd } from '../../src/kvm/vcpu-fd.js';
import { noKvm } from '../support/kvm.js';
import { ENTRY, microGuest, runToExit, startAt } from './micro-guest.js';

const HLT = 0xf4;
const NOP = 0x90;
const EBADF = 9;
const EINTR = 4;

describe.skipIf(noKvm)('VcpuFd', () => {
  describe('KVM_RUN', () => {
    test('KVM_EXIT_HLT: the guest stops after its hlt', () => {
      using guest = microGuest({ code: [HLT] });
      expect(runToExit(guest.vcpu)).toBe(abi.KVM_EXIT_HLT);
      expect(guest.vcpu.getRegs().rip).toBe(BigInt(ENTRY + 1));
    });

    test('KVM_EXIT_IO out: direction, size, port, count and data', () => {
      // mov ax, 0x1234; out 0x10, ax; mov al, 0x56; mov dx, 0x3f8; out dx, al
      using guest = microGuest({ code: [0xb8, 0x34, 0x12, 0xe7, 0x10, 0xb0, 0x56, 0xba, 0xf8, 0x03, 0xee] });
      const seen = (): number[] => {
        expect(runToExit(guest.vcpu)).toBe(abi.KVM_EXIT_IO);
        const { view } = guest.vcpu.run;
        const { io } = KVM_RUN_OFFSET;
        const data = Number(view.getBigUint64(io.data_offset, true));
        return [
          view.getUint8(io.direction),
          view.getUint8(io.size),
          view.getUint16(io.port, true),
          view.getUint32(io.count, true),
          view.getUint16(data, true) & (view.getUint8(io.size) === 1 ? 0xff : 0xffff),
        ];
      };
      expect(seen()).toEqual([abi.KVM_EXIT_IO_OUT, 2, 0x10, 1, 0x1234]);
      expect(seen()).toEqual([abi.KVM_EXIT_IO_OUT, 1, 0x3f8, 1, 0x56]);
    });

    test('KVM_EXIT_IO in: what we put at data_offset, the guest reads', () => {
      using guest = microGuest({ code: [0xe4, 0x10, HLT] });
      expect(runToExit(guest.vcpu)).toBe(abi.KVM_EXIT_IO);
      expect(guest.vcpu.run.u8[KVM_RUN_OFFSET.io.direction]).toBe(abi.KVM_EXIT_IO_IN);
      guest.vcpu.run.u8[Number(guest.vcpu.run.u64[KVM_RUN_OFFSET.io.data_offset / 8])] = 0xa5;
      expect(runToExit(guest.vcpu)).toBe(abi.KVM_EXIT_HLT);
      expect(guest.vcpu.getRegs().rax & 0xffn).toBe(0xa5n);
    });

    test('KVM_EXIT_MMIO: address, length, data and direction', () => {
      // mov ax, 0xffff; mov ds, ax; mov word [0x10], 0x4321; mov al, [0x12]; hlt
      const code = [0xb8, 0xff, 0xff, 0x8e, 0xd8, 0xc7, 0x06, 0x10, 0x00, 0x21, 0x43, 0xa0, 0x12, 0x00, HLT];
      using guest = microGuest({ code });
      const { mmio } = KVM_RUN_OFFSET;
      const { view } = guest.vcpu.run;
      expect(runToExit(guest.vcpu)).toBe(abi.KVM_EXIT_MMIO);
      expect(view.getBigUint64(mmio.phys_addr, true)).toBe(0x100000n);
      expect(view.getUint32(mmio.len, true)).toBe(2);
      expect(view.getUint8(mmio.is_write)).toBe(1);
      expect(view.getUint16(mmio.data, true)).toBe(0x4321);
      expect(runToExit(guest.vcpu)).toBe(abi.KVM_EXIT_MMIO);
      expect(view.getBigUint64(mmio.phys_addr, true)).toBe(0x100002n);
      expect(view.getUint8(mmio.is_write)).toBe(0);
      view.setUint8(mmio.data, 0x99);
      expect(runToExit(guest.vcpu)).toBe(abi.KVM_EXIT_HLT);
      expect(guest.vcpu.getRegs().rax & 0xffn).toBe(0x99n);
    });

    test('"immediate_exit: return immediately, with -EINTR"', () => {
      using guest = microGuest({ code: [HLT] });
      guest.vcpu.run.u8[KVM_RUN_OFFSET.immediate_exit] = 1;
      guest.vcpu.enter();
      expect(guest.vcpu.lastErrno[0]).toBe(EINTR);
      expect(guest.vcpu.getRegs().rip).toBe(BigInt(ENTRY));
      guest.vcpu.run.u8[KVM_RUN_OFFSET.immediate_exit] = 0;
      expect(runToExit(guest.vcpu)).toBe(abi.KVM_EXIT_HLT);
      expect(guest.vcpu.lastErrno[0]).toBe(0);
    });

    test('stamps are cycles since the vCPU was created, and ascend', () => {
      using guest = microGuest({ code: [0xe6, 0x10, 0xe6, 0x10] });
      const stamps: number[] = [];
      for (let i = 0; i < 2; i++) {
        runToExit(guest.vcpu);
        stamps.push(...guest.vcpu.stamps);
      }
      expect(stamps[0]).toBeGreaterThan(0);
      expect(stamps).toEqual(stamps.toSorted((a, b) => a - b));
      expect(new Set(stamps).size).toBe(4);
    });

    test('"how many calls of enter() take no stamps": then the next one does, and all after it', () => {
      using guest = microGuest({ code: Array.from({ length: 5 }, () => [0xe6, 0x10]).flat() });
      const { untimed, stamps } = guest.vcpu;
      expect(untimed[0]).toBeLessThan(0);
      untimed[0] = 2;
      const taken: number[] = [];
      for (let i = 0; i < 5; i++) {
        stamps.fill(0);
        runToExit(guest.vcpu);
        taken.push(stamps[1] ?? 0);
      }
      expect(taken.map((stamp) => stamp > 0)).toEqual([false, false, true, true, true]);
      expect(untimed[0]).toBeLessThan(0);
      expect(guest.vcpu.now()).toBeGreaterThan(taken[4] ?? 0);
    });

    test('enter() takes no notice of arguments and receiver, and returns nothing', () => {
      using guest = microGuest({ code: [HLT] });
      expect(Reflect.apply(guest.vcpu.enter, { foreign: true }, [1, 'x'])).toBeUndefined();
      expect(guest.vcpu.run.u32[KVM_RUN_OFFSET.exit_reason / 4]).toBe(abi.KVM_EXIT_HLT);
    });

    test('KVM_SYNC_X86_REGS: registers come with the exit and go with the entry', () => {
      using guest = microGuest({ code: [0xe6, 0x10, HLT] });
      expect(guest.vm.checkExtension(abi.KVM_CAP_SYNC_REGS) & abi.KVM_SYNC_X86_REGS).toBe(abi.KVM_SYNC_X86_REGS);
      const { view, u8 } = guest.vcpu.run;
      const classes = abi.KVM_SYNC_X86_REGS | abi.KVM_SYNC_X86_SREGS;
      view.setBigUint64(KVM_RUN_OFFSET.kvm_valid_regs, BigInt(classes), true);
      expect(runToExit(guest.vcpu)).toBe(abi.KVM_EXIT_IO);
      const regs = KVM_RUN_OFFSET.s.regs.regs;
      expect(view.getBigUint64(regs + abi.kvmRegs.rows.rsp[0], true)).toBe(0x8000n);
      expect(decodeSregs(u8.subarray(KVM_RUN_OFFSET.s.regs.sregs)).cs).toEqual(guest.vcpu.getSregs().cs);
      view.setBigUint64(regs + abi.kvmRegs.rows.rbx[0], 0x77n, true);
      view.setBigUint64(KVM_RUN_OFFSET.kvm_dirty_regs, BigInt(abi.KVM_SYNC_X86_REGS), true);
      expect(runToExit(guest.vcpu)).toBe(abi.KVM_EXIT_HLT);
      expect(guest.vcpu.getRegs().rbx).toBe(0x77n);
    });
  });

  test('KVM_GET_REGS and KVM_SET_REGS; what is not given stays', () => {
    using guest = microGuest();
    const names = Object.keys(abi.kvmRegs.rows).filter((name) => name !== 'rflags');
    const values = Object.fromEntries(names.map((name, i) => [name, 2n ** 64n - 1n - BigInt(i)]));
    guest.vcpu.setRegs(values);
    guest.vcpu.setRegs({ rax: 1n });
    expect(guest.vcpu.getRegs()).toEqual({ ...values, rax: 1n, rflags: 2n });
    expect(() => guest.vcpu.setRegs({ rxx: 1n } as object)).toThrow('kvm_regs has no field rxx');
    expect(() => guest.vcpu.setRegs({ rax: 1 as unknown as bigint })).toThrow(TypeError);
  });

  test('KVM_GET_SREGS and KVM_SET_SREGS; a segment may be given in part', () => {
    using guest = microGuest();
    const before = guest.vcpu.getSregs();
    guest.vcpu.setSregs({ ds: { base: 0x1230n, selector: 0x123 }, gdt: { base: 0x4000n, limit: 0x17 }, cr2: 5n });
    const after = guest.vcpu.getSregs();
    expect(after.ds).toEqual({ ...before.ds, base: 0x1230n, selector: 0x123 });
    expect(after.gdt).toEqual({ base: 0x4000n, limit: 0x17 });
    expect({ ...after, ds: 0, gdt: 0, cr2: 0 }).toEqual({ ...before, ds: 0, gdt: 0, cr2: 0 });
    expect(after.interruptBitmap.length).toBe(32);
    // Long mode without protected mode cannot be.
    expect(() => guest.vcpu.setSregs({ cr0: 0x8000_0000n })).toThrow(/KVM_SET_SREGS on vCPU 0: EINVAL/);
  });

  test('KVM_GET_FPU and KVM_SET_FPU', () => {
    using guest = microGuest();
    const xmm = new Uint8Array(256).fill(0x3c);
    guest.vcpu.setFpu({ fcw: 0x27f, xmm });
    const fpu = guest.vcpu.getFpu();
    expect(fpu.fcw).toBe(0x27f);
    expect(fpu.xmm).toEqual(xmm);
  });

  test('KVM_GET_XSAVE and KVM_SET_XSAVE: FCW lies where the FXSAVE area has it', () => {
    using guest = microGuest();
    const area = guest.vcpu.getXsave();
    expect(area.length).toBe(4096);
    const view = new DataView(area.buffer);
    view.setUint16(0, 0x27f, true);
    view.setUint8(512, view.getUint8(512) | 1); // XSTATE_BV: the x87 part is there
    guest.vcpu.setXsave(area);
    expect(guest.vcpu.getFpu().fcw).toBe(0x27f);
    expect(new DataView(guest.vcpu.getXsave().buffer).getUint16(0, true)).toBe(0x27f);
    expect(() => guest.vcpu.setXsave(new Uint8Array(4095))).toThrow(/shorter than the ioctl's structure/);
  });

  test('KVM_GET_XCRS and KVM_SET_XCRS, where the host has XSAVE', () => {
    using guest = microGuest();
    if (guest.vm.checkExtension(abi.KVM_CAP_XCRS) === 0) {
      expect(() => guest.vcpu.getXcrs()).toThrow(/KVM_GET_XCRS on vCPU 0/);
      return;
    }
    const xcrs = guest.vcpu.getXcrs();
    guest.vcpu.setXcrs(xcrs);
    expect(guest.vcpu.getXcrs()).toEqual(xcrs);
    expect(() => guest.vcpu.setXcrs(Array.from({ length: 17 }, () => ({ xcr: 0, value: 1n })))).toThrow(RangeError);
  });

  test('KVM_GET_MSRS and KVM_SET_MSRS; an error names the MSR that was refused', () => {
    using guest = microGuest();
    expect(guest.vcpu.setMsrs([{ index: MSR_LSTAR, data: 0xffff_8000_0000_1000n }])).toBe(1);
    expect(guest.vcpu.getMsrs([MSR_LSTAR])).toEqual([{ index: MSR_LSTAR, data: 0xffff_8000_0000_1000n }]);
    expect(guest.vcpu.getMsrs([])).toEqual([]);
    expect(() => guest.vcpu.getMsrs([MSR_IA32_TSC, 0x1234_5678])).toThrow(/KVM_GET_MSRS on vCPU 0, MSR 0x12345678/);
    expect(() =>
      guest.vcpu.setMsrs([
        { index: MSR_LSTAR, data: 0n },
        { index: 0x1234_5678, data: 1n },
      ]),
    ).toThrow(/KVM_SET_MSRS on vCPU 0, MSR 0x12345678/);
    expect(guest.vcpu.getMsrs([MSR_LSTAR])[0]?.data).toBe(0n);
  });

  test('KVM_GET_LAPIC and KVM_SET_LAPIC', () => {
    using guest = microGuest({ irqchip: true });
    const lapic = guest.vcpu.getLapic();
    expect(lapic.length).toBe(1024);
    const view = new DataView(lapic.buffer);
    view.setUint32(0x80, 0x20, true); // TPR
    guest.vcpu.setLapic(lapic);
    expect(new DataView(guest.vcpu.getLapic().buffer).getUint32(0x80, true)).toBe(0x20);
    using without = microGuest();
    expect(() => without.vcpu.getLapic()).toThrow(/KVM_GET_LAPIC on vCPU 0: EINVAL.*no in-kernel/);
    expect(() => without.vcpu.setLapic(lapic)).toThrow(/KVM_SET_LAPIC on vCPU 0: EINVAL/);
  });

  test('KVM_GET_MP_STATE and KVM_SET_MP_STATE: an application processor waits for INIT', () => {
    using guest = microGuest({ irqchip: true });
    using second = guest.vm.createVcpu(1);
    expect(guest.vcpu.getMpState()).toBe(abi.KVM_MP_STATE_RUNNABLE);
    expect(second.getMpState()).toBe(abi.KVM_MP_STATE_UNINITIALIZED);
    second.setMpState(abi.KVM_MP_STATE_HALTED);
    expect(second.getMpState()).toBe(abi.KVM_MP_STATE_HALTED);
    expect(() => second.setMpState(99)).toThrow(/KVM_SET_MP_STATE on vCPU 1: EINVAL/);
    expect(() => second.setMpState(-1)).toThrow(RangeError);
  });

  test('KVM_SET_VCPU_EVENTS: an injected exception runs its handler', () => {
    using guest = microGuest({ code: [NOP, HLT] });
    guest.memory.writeU16(6 * 4, 0x2000); // real-mode vector 6 (#UD): 0000:2000
    guest.memory.write(0x2000, Uint8Array.of(0xe6, 0x33, HLT));
    const events = guest.vcpu.getVcpuEvents();
    guest.vcpu.setVcpuEvents({ exception: { ...events.exception, injected: 1, nr: 6 } });
    expect(guest.vcpu.getVcpuEvents().exception).toMatchObject({ injected: 1, nr: 6 });
    expect(runToExit(guest.vcpu)).toBe(abi.KVM_EXIT_IO);
    expect(guest.vcpu.run.u16[KVM_RUN_OFFSET.io.port / 2]).toBe(0x33);
  });

  test('KVM_NMI: vector 2', () => {
    using guest = microGuest({ code: [NOP, HLT] });
    guest.memory.writeU16(2 * 4, 0x2000);
    guest.memory.write(0x2000, Uint8Array.of(0xe6, 0x22, HLT));
    guest.vcpu.nmi();
    expect(runToExit(guest.vcpu)).toBe(abi.KVM_EXIT_IO);
    expect(guest.vcpu.run.u16[KVM_RUN_OFFSET.io.port / 2]).toBe(0x22);
  });

  test('KVM_GET_DEBUGREGS and KVM_SET_DEBUGREGS', () => {
    using guest = microGuest();
    guest.vcpu.setDebugRegs({ db: [1n, 2n, 3n, 0x7fff_ffff_f000n] });
    const registers = guest.vcpu.getDebugRegs();
    expect(registers.db).toEqual([1n, 2n, 3n, 0x7fff_ffff_f000n]);
    expect(() => guest.vcpu.setDebugRegs({ flags: 1n })).toThrow(/KVM_SET_DEBUGREGS on vCPU 0: EINVAL/);
  });

  test('KVM_SET_CPUID2 and KVM_GET_CPUID2: cpuid in the guest answers what was set', () => {
    // mov eax, 0; cpuid; hlt
    using guest = microGuest({ code: [0x66, 0xb8, 0, 0, 0, 0, 0x0f, 0xa2, HLT] });
    const entries = guest.system.supportedCpuid();
    const named = entries.map((entry) => (entry.function === 0 ? { ...entry, ebx: 0x12345678 } : entry));
    guest.vcpu.setCpuid2(named);
    expect(guest.vcpu.getCpuid2().find((entry) => entry.function === 0)?.ebx).toBe(0x12345678);
    expect(() => guest.vcpu.getCpuid2(1)).toThrow(/KVM_GET_CPUID2 on vCPU 0: E2BIG/);
    expect(runToExit(guest.vcpu)).toBe(abi.KVM_EXIT_HLT);
    expect(guest.vcpu.getRegs().rbx).toBe(0x12345678n);
  });

  describe('KVM_SET_GUEST_DEBUG', () => {
    const stopAt = (vcpu: VcpuFd): bigint => {
      expect(runToExit(vcpu)).toBe(abi.KVM_EXIT_DEBUG);
      return vcpu.run.view.getBigUint64(KVM_RUN_OFFSET.debug.arch.pc, true);
    };

    test('KVM_GUESTDBG_SINGLESTEP: one instruction, then KVM_EXIT_DEBUG; control 0 ends it', () => {
      using guest = microGuest({ code: [NOP, NOP, HLT] });
      guest.vcpu.setGuestDebug({ control: abi.KVM_GUESTDBG_ENABLE | abi.KVM_GUESTDBG_SINGLESTEP });
      expect(stopAt(guest.vcpu)).toBe(BigInt(ENTRY + 1));
      expect(stopAt(guest.vcpu)).toBe(BigInt(ENTRY + 2));
      guest.vcpu.setGuestDebug({ control: 0 });
      expect(runToExit(guest.vcpu)).toBe(abi.KVM_EXIT_HLT);
    });

    // QEMU's emulation of SVM does not arm the breakpoints of the VMCB's DR7.
    test.skipIf(process.env['MICROVISOR_HOST'] === 'svm')('KVM_GUESTDBG_USE_HW_BP: stops at DR0', () => {
      using guest = microGuest({ code: [NOP, NOP, NOP, NOP, HLT] });
      const debugreg = [BigInt(ENTRY + 3), 0n, 0n, 0n, 0n, 0n, 0n, 0x401n];
      guest.vcpu.setGuestDebug({ control: abi.KVM_GUESTDBG_ENABLE | abi.KVM_GUESTDBG_USE_HW_BP, debugreg });
      expect(stopAt(guest.vcpu)).toBe(BigInt(ENTRY + 3));
    });

    test('there are eight debug registers', () => {
      using guest = microGuest();
      const debugreg = Array.from({ length: 9 }, () => 0n);
      expect(() => guest.vcpu.setGuestDebug({ control: 0, debugreg })).toThrow(RangeError);
    });
  });

  test('KVM_TRANSLATE: without paging linear is physical', () => {
    using guest = microGuest();
    expect(guest.vcpu.translate(0x1234n)).toMatchObject({ physicalAddress: 0x1234n, valid: true });
  });

  test('KVM_GET_TSC_KHZ, and KVM_SET_TSC_KHZ with the same value', () => {
    using guest = microGuest();
    const khz = guest.vcpu.getTscKhz();
    expect(khz).toBeGreaterThan(1000);
    guest.vcpu.setTscKhz(khz);
    expect(guest.vcpu.getTscKhz()).toBe(khz);
    for (const bad of [-1, 0.5, 2 ** 53]) expect(() => guest.vcpu.setTscKhz(bad)).toThrow(RangeError);
  });

  test("KVM_SET_SIGNAL_MASK: numbers are checked, undefined returns to the thread's own", () => {
    using guest = microGuest({ code: [HLT] });
    guest.vcpu.setSignalMask([1, 34, 64]);
    expect(runToExit(guest.vcpu)).toBe(abi.KVM_EXIT_HLT);
    guest.vcpu.setSignalMask(undefined);
    for (const bad of [0, 65, -1, 1.5]) expect(() => guest.vcpu.setSignalMask([bad])).toThrow(RangeError);
  });

  test('KVM_KVMCLOCK_CTRL: "EINVAL: the guest has not enabled kvmclock"', () => {
    using guest = microGuest({ irqchip: true });
    expect(() => guest.vcpu.kvmclockCtrl()).toThrow(/KVM_KVMCLOCK_CTRL on vCPU 0: EINVAL/);
    guest.vcpu.setMsrs([{ index: MSR_KVM_SYSTEM_TIME_NEW, data: 0x3001n }]);
    guest.vcpu.kvmclockCtrl();
  });

  test('KVM_ENABLE_CAP on a vCPU: unknown capabilities are refused', () => {
    using guest = microGuest();
    expect(() => guest.vcpu.enableCap(0xffff)).toThrow(/KVM_ENABLE_CAP on vCPU 0: EINVAL/);
  });

  test('every use of a closed one throws, enter() leaves EBADF, views are empty', () => {
    using guest = microGuest();
    const { vcpu } = guest;
    const { u8, view } = vcpu.run;
    vcpu.close();
    const uses: ((it: VcpuFd) => unknown)[] = [
      (it) => it.close(),
      (it) => it.getRegs(),
      (it) => it.setRegs({ rax: 1n }),
      (it) => it.getSregs(),
      (it) => it.becomeRunner(),
      (it) => it.setSignalMask([1]),
      (it) => it.nmi(),
      (it) => it.setCpuid2([]),
    ];
    for (const use of uses) expect(() => use(vcpu)).toThrow('the handle is closed');
    vcpu.enter();
    expect(vcpu.lastErrno[0]).toBe(EBADF);
    expect(vcpu.runBuffer.byteLength).toBe(0);
    expect(u8[0]).toBeUndefined();
    expect(() => view.getUint8(0)).toThrow(TypeError);
    expect(() => vcpu[Symbol.dispose]()).not.toThrow();
  });

  test('two vCPUs of one thread run in turn', () => {
    using guest = microGuest({ code: [0xe6, 0x10, HLT] });
    using second = guest.vm.createVcpu(1);
    startAt(second, ENTRY);
    expect([runToExit(guest.vcpu), runToExit(second)]).toEqual([abi.KVM_EXIT_IO, abi.KVM_EXIT_IO]);
    expect([runToExit(guest.vcpu), runToExit(second)]).toEqual([abi.KVM_EXIT_HLT, abi.KVM_EXIT_HLT]);
  });
});
