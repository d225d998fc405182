// The ioctls of a VM against the real kernel, most of them seen through what a guest of a few bytes does.
// KVM API chapter 4, type "vm ioctl".
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, test } from 'vitest';
import * as abi from '../../src/kvm/abi.js';
import { EventFd } from '../../src/kvm/event-fd.js';
import { advise } from '../../src/kvm/host-memory.js';
import { COALESCED_RING_OFFSET, KVM_RUN_OFFSET } from '../../src/kvm/kvm-run.js';
import { MSR_LSTAR, MSR_STAR } from '../../src/kvm/msr.js';
import { System } from '../../src/kvm/system.js';
import { VmFd } from '../../src/kvm/vm-fd.js';
import { GuestMemory } from '../../src/memory/guest-memory.js';
import { noKvm } from '../support/kvm.js';
import { ENTRY, microGuest, runToExit, startAt } from './micro-guest.js';

const HLT = 0xf4;
const KVM_CAP_UNKNOWN = 0xffff;
/** mov ax, 0xffff; mov ds, ax: offset 0x10 of the data segment is GPA 0x100000, the first above the guest's RAM. */
const DS_ABOVE_RAM = [0xb8, 0xff, 0xff, 0x8e, 0xd8];
const ABOVE_RAM = 0x100000;

function bytesOf(pages: number): Uint8Array {
  const region = GuestMemory.create(1 << 16).regions[0];
  if (region === undefined) throw new Error('no region');
  return region.bytes.subarray(0, pages * 4096);
}

describe.skipIf(noKvm)('VmFd', () => {
  test('KVM_CHECK_EXTENSION on a VM', () => {
    using guest = microGuest();
    expect(guest.vm.checkExtension(abi.KVM_CAP_IRQCHIP)).toBe(1);
    expect(guest.vm.checkExtension(KVM_CAP_UNKNOWN)).toBe(0);
  });

  test('KVM_ENABLE_CAP: "EINVAL: the capability is not known"', () => {
    using guest = microGuest();
    expect(() => guest.vm.enableCap(KVM_CAP_UNKNOWN)).toThrow(/KVM_ENABLE_CAP on the VM: EINVAL/);
    expect(() => guest.vm.enableCap(0, [1, 2, 3, 4, 5])).toThrow(RangeError);
    expect(() => guest.vm.enableCap(-1)).toThrow(RangeError);
    guest.vm.enableCap(abi.KVM_CAP_X86_USER_SPACE_MSR, [abi.KVM_MSR_EXIT_REASON_FILTER]);
  });

  test('KVM_SET_TSS_ADDR, KVM_SET_IDENTITY_MAP_ADDR: "Fails if any VCPU has already been created"', () => {
    using guest = microGuest();
    expect(() => guest.vm.setIdentityMapAddr(0xfffbc000)).toThrow(
      /KVM_SET_IDENTITY_MAP_ADDR .*EINVAL.*before the first vCPU/,
    );
    for (const address of [-4096, Number.NaN, 2 ** 60])
      for (const set of [() => guest.vm.setTssAddr(address), () => guest.vm.setIdentityMapAddr(address)])
        expect(set).toThrow(RangeError);
    // The TSS's pages must lie below 4 GiB.
    expect(() => guest.vm.setTssAddr(0xffffffff)).toThrow(/KVM_SET_TSS_ADDR on the VM: EINVAL/);
  });

  test('KVM_SET_BOOT_CPU_ID: "EBUSY: vcpus already created"', () => {
    using guest = microGuest({ prepare: (vm) => vm.setBspId(0) });
    expect(() => guest.vm.setBspId(1)).toThrow(/KVM_SET_BOOT_CPU_ID .*EBUSY/);
  });

  describe('KVM_SET_USER_MEMORY_REGION', () => {
    test('the guest writes what we read, and reads what we write', () => {
      // mov al, [0x2000]; mov [0x2001], al; hlt
      using guest = microGuest({ code: [0xa0, 0x00, 0x20, 0xa2, 0x01, 0x20, HLT] });
      guest.memory.writeU8(0x2000, 0x5a);
      expect(runToExit(guest.vcpu)).toBe(abi.KVM_EXIT_HLT);
      expect(guest.memory.readU8(0x2001)).toBe(0x5a);
    });

    test('"bits 0-11 of address and size must be zero", slots must not overlap', () => {
      using guest = microGuest();
      const memory = bytesOf(2);
      const set =
        (guestPhysAddr: number, bytes: Uint8Array, slot = 5) =>
        () =>
          guest.vm.setUserMemoryRegion({ slot, guestPhysAddr, memory: bytes });
      expect(set(0x200000, memory.subarray(0, 4095))).toThrow(/slot 5 \(4095 bytes at 0x200000\): EINVAL/);
      expect(set(0x200000, memory.subarray(1, 4097))).toThrow(/EINVAL/);
      expect(set(0x200001, memory)).toThrow(/EINVAL/);
      expect(set(0x1000, memory)).toThrow(/EEXIST.*overlap/);
      expect(set(0x200000, memory, 2 ** 31)).toThrow(/EINVAL/);
      for (const slot of [-1, 0.5, 2 ** 32]) expect(set(0x200000, memory, slot)).toThrow(RangeError);
      for (const address of [-1, Number.NaN, 2 ** 60]) expect(set(address, memory)).toThrow(RangeError);
    });

    test('offset takes the rest of the memory', () => {
      // mov al, [0x10 of GPA 0x100000]; out 0x10, al
      using guest = microGuest({ code: [...DS_ABOVE_RAM, 0xa0, 0x10, 0x00, 0xe6, 0x10] });
      const memory = bytesOf(2);
      memory[4096] = 0x77;
      guest.vm.setUserMemoryRegion({ slot: 1, guestPhysAddr: ABOVE_RAM, memory, offset: 4096 });
      expect(runToExit(guest.vcpu)).toBe(abi.KVM_EXIT_IO);
      expect(guest.vcpu.run.u8[Number(guest.vcpu.run.u64[KVM_RUN_OFFSET.io.data_offset / 8])]).toBe(0x77);
      for (const offset of [-1, 0.5, 8193])
        expect(() => guest.vm.setUserMemoryRegion({ slot: 2, guestPhysAddr: ABOVE_RAM * 2, memory, offset })).toThrow(
          RangeError,
        );
    });

    test('length 0 deletes the slot: the next access is MMIO', () => {
      // mov al, [0x10 of GPA 0x100000], twice
      using guest = microGuest({ code: [...DS_ABOVE_RAM, 0xa0, 0x10, 0x00, 0xe6, 0x10, 0xa0, 0x10, 0x00] });
      guest.vm.setUserMemoryRegion({ slot: 1, guestPhysAddr: ABOVE_RAM, memory: bytesOf(1) });
      expect(runToExit(guest.vcpu)).toBe(abi.KVM_EXIT_IO);
      guest.vm.setUserMemoryRegion({ slot: 1, guestPhysAddr: 0, memory: new Uint8Array(0) });
      expect(runToExit(guest.vcpu)).toBe(abi.KVM_EXIT_MMIO);
      expect(guest.vcpu.run.u64[KVM_RUN_OFFSET.mmio.phys_addr / 8]).toBe(BigInt(ABOVE_RAM));
      expect(() => guest.vm.setUserMemoryRegion({ slot: 1, guestPhysAddr: 0, memory: new Uint8Array(0) })).toThrow(
        /EINVAL/,
      );
    });

    test('KVM_MEM_READONLY: "writes to the slot will be posted to userspace as KVM_EXIT_MMIO exits"', () => {
      // mov byte [0x10], 0x42
      using guest = microGuest({ code: [...DS_ABOVE_RAM, 0xc6, 0x06, 0x10, 0x00, 0x42] });
      const memory = bytesOf(1);
      guest.vm.setUserMemoryRegion({ slot: 1, guestPhysAddr: ABOVE_RAM, memory, flags: abi.KVM_MEM_READONLY });
      expect(runToExit(guest.vcpu)).toBe(abi.KVM_EXIT_MMIO);
      expect(guest.vcpu.run.u8[KVM_RUN_OFFSET.mmio.is_write]).toBe(1);
      expect(memory[0]).toBe(0);
    });

    test('memory that can be taken away is refused', () => {
      using guest = microGuest();
      for (const memory of [new Uint8Array(8192), Buffer.alloc(8192)])
        expect(() => guest.vm.setUserMemoryRegion({ slot: 1, guestPhysAddr: ABOVE_RAM, memory })).toThrow(
          'the memory must be shared memory',
        );
      for (const memory of [new Uint16Array(new SharedArrayBuffer(8192)), new DataView(new ArrayBuffer(8)), 'x', null])
        expect(() =>
          guest.vm.setUserMemoryRegion({ slot: 1, guestPhysAddr: ABOVE_RAM, memory: memory as unknown as Uint8Array }),
        ).toThrow(TypeError);
    });
  });

  test('KVM_GET_DIRTY_LOG: "a bitmap containing any pages dirtied since the last call"', () => {
    using guest = microGuest({ code: [0xa2, 0x01, 0x20, HLT], flags: abi.KVM_MEM_LOG_DIRTY_PAGES });
    guest.vm.getDirtyLog(0, 256);
    expect(runToExit(guest.vcpu)).toBe(abi.KVM_EXIT_HLT);
    const log = guest.vm.getDirtyLog(0, 256);
    expect(log.length).toBe(32);
    // Page 1 holds the code: a KVM that maps a page it read as writable at once counts it as dirty too.
    expect([0b100, 0b110]).toContain(log[0]);
    expect(log.subarray(1).every((byte) => byte === 0)).toBe(true);
    expect(guest.vm.getDirtyLog(0, 256).every((byte) => byte === 0)).toBe(true);
  });

  test('KVM_GET_DIRTY_LOG never writes beyond the pages asked for', () => {
    using guest = microGuest({ flags: abi.KVM_MEM_LOG_DIRTY_PAGES });
    expect(() => guest.vm.getDirtyLog(0, 64)).toThrow(/EFAULT.*the slot has more pages/);
    expect(guest.vm.getDirtyLog(0, 1024).length).toBe(128);
    expect(() => guest.vm.getDirtyLog(3, 64)).toThrow(/KVM_GET_DIRTY_LOG on slot 3: ENOENT/);
    for (const pages of [0, -1, 0.5, Number.NaN, 2 ** 40])
      expect(() => guest.vm.getDirtyLog(0, pages)).toThrow(RangeError);
  });

  test('KVM_CREATE_VCPU: ids are unique', () => {
    using guest = microGuest();
    using second = guest.vm.createVcpu(1);
    expect(second.id).toBe(1);
    expect(() => guest.vm.createVcpu(1)).toThrow(/KVM_CREATE_VCPU on vCPU 1: EEXIST.*an id of its own/);
    expect(() => guest.vm.createVcpu(2 ** 20)).toThrow(/EINVAL/);
    for (const id of [-1, 1.5, 2 ** 32, '0']) expect(() => guest.vm.createVcpu(id as number)).toThrow(RangeError);
  });

  test('KVM_CREATE_IRQCHIP and KVM_CREATE_PIT2, once each and in this order', () => {
    using system = System.open();
    using vm = system.createVm();
    const withoutIrqchip = system.createVm();
    try {
      // Linux before 6.15 lets this pass, and the PIT interrupts nobody.
      withoutIrqchip.createPit2();
    } catch (error) {
      expect(String(error)).toMatch(/KVM_CREATE_PIT2 .*ENOENT.*interrupt controllers first/);
    } finally {
      withoutIrqchip.close();
    }
    vm.createIrqchip();
    expect(() => vm.createIrqchip()).toThrow(/KVM_CREATE_IRQCHIP .*EEXIST/);
    vm.createPit2(abi.KVM_PIT_SPEAKER_DUMMY);
    expect(() => vm.createPit2()).toThrow(/KVM_CREATE_PIT2 .*EEXIST/);
  });

  test('KVM_GET_IRQCHIP and KVM_SET_IRQCHIP: state comes back as it was set', () => {
    using guest = microGuest({ irqchip: true });
    for (const chip of [abi.KVM_IRQCHIP_PIC_MASTER, abi.KVM_IRQCHIP_PIC_SLAVE, abi.KVM_IRQCHIP_IOAPIC]) {
      const state = guest.vm.getIrqchip(chip);
      expect(state.length).toBe(512);
      guest.vm.setIrqchip(chip, state);
      expect(guest.vm.getIrqchip(chip)).toEqual(state);
    }
    const master = guest.vm.getIrqchip(abi.KVM_IRQCHIP_PIC_MASTER);
    master[2] = 0xaa; // struct kvm_pic_state: imr
    guest.vm.setIrqchip(abi.KVM_IRQCHIP_PIC_MASTER, master);
    expect(guest.vm.getIrqchip(abi.KVM_IRQCHIP_PIC_MASTER)[2]).toBe(0xaa);
    expect(() => guest.vm.getIrqchip(3)).toThrow(/KVM_GET_IRQCHIP .*EINVAL/);
    expect(() => guest.vm.getIrqchip(-1)).toThrow(RangeError);
    expect(() => guest.vm.setIrqchip(0, new Uint8Array(513))).toThrow(RangeError);
    using without = microGuest();
    expect(() => without.vm.getIrqchip(0)).toThrow(/ENXIO/);
    expect(() => without.vm.setIrqchip(0, master)).toThrow(/ENXIO/);
  });

  test('KVM_GET_PIT2 and KVM_SET_PIT2', () => {
    using guest = microGuest({ irqchip: true, prepare: (vm) => vm.createPit2() });
    const state = guest.vm.getPit2();
    expect(state.length).toBe(112);
    guest.vm.setPit2(state);
    expect(() => guest.vm.setPit2(new Uint8Array(111))).toThrow(/shorter than the ioctl's structure/);
    using without = microGuest({ irqchip: true });
    expect(() => without.vm.getPit2()).toThrow(/KVM_GET_PIT2 .*no PIT/);
    expect(() => without.vm.setPit2(state)).toThrow(/KVM_SET_PIT2 .*no PIT/);
  });

  test('KVM_GET_CLOCK and KVM_SET_CLOCK: the clock goes on from what was set', () => {
    using guest = microGuest({ irqchip: true });
    guest.vm.setClock({ clock: 1_000_000_000_000n });
    const { clock, flags } = guest.vm.getClock();
    expect(clock).toBeGreaterThanOrEqual(1_000_000_000_000n);
    expect(clock).toBeLessThan(1_060_000_000_000n);
    expect(flags).toBeTypeOf('number');
    expect(() => guest.vm.setClock({ clock: 0n, flags: 0x8000_0000 })).toThrow(/KVM_SET_CLOCK on the VM: EINVAL/);
  });

  test("KVM_IRQ_LINE sets the PIC's request bit", () => {
    using guest = microGuest({ irqchip: true });
    guest.vm.irqLine(5, 1);
    expect(guest.vm.getIrqchip(abi.KVM_IRQCHIP_PIC_MASTER)[1]).toBe(1 << 5); // struct kvm_pic_state: irr
    guest.vm.irqLine(5, 0);
    expect(() => guest.vm.irqLine(-1, 1)).toThrow(RangeError);
    using without = microGuest();
    expect(() => without.vm.irqLine(5, 1)).toThrow(/KVM_IRQ_LINE .*ENXIO.*createIrqchip/);
  });

  test('KVM_IRQFD: signalling the eventfd raises the interrupt; deassigned it does not', async () => {
    using guest = microGuest({ irqchip: true });
    using eventfd = EventFd.create();
    const requests = (): number | undefined => guest.vm.getIrqchip(abi.KVM_IRQCHIP_PIC_MASTER)[1];
    guest.vm.irqfd({ eventfd, gsi: 7 });
    eventfd.signal();
    // The kernel may deliver it from a work queue.
    for (let i = 0; i < 1000 && requests() === 0; i++) await sleep(1);
    expect(requests()).toBe(1 << 7);
    expect(() => guest.vm.irqfd({ eventfd, gsi: 7 })).toThrow(/KVM_IRQFD .*EBUSY/);
    guest.vm.irqfd({ eventfd, gsi: 7, deassign: true });
    const pic = guest.vm.getIrqchip(abi.KVM_IRQCHIP_PIC_MASTER);
    pic[1] = 0;
    guest.vm.setIrqchip(abi.KVM_IRQCHIP_PIC_MASTER, pic);
    eventfd.signal();
    await sleep(20);
    expect(requests()).toBe(0);
    expect(() => guest.vm.irqfd({ eventfd, gsi: -1 })).toThrow(RangeError);
  });

  test('KVM_IRQFD with resample, and without interrupt controllers', () => {
    using guest = microGuest({ irqchip: true });
    using eventfd = EventFd.create();
    using resample = EventFd.create();
    guest.vm.irqfd({ eventfd, gsi: 7, resample });
    guest.vm.irqfd({ eventfd, gsi: 7, deassign: true });
    using without = microGuest();
    expect(() => without.vm.irqfd({ eventfd, gsi: 7 })).toThrow(/KVM_IRQFD .*EINVAL/);
    const closed = EventFd.create();
    closed.close();
    expect(() => guest.vm.irqfd({ eventfd: closed, gsi: 7 })).toThrow('the handle is closed');
  });

  test('KVM_IOEVENTFD: "a guest write to the registered address will signal the provided event instead of triggering an exit"', () => {
    // mov al, 3; out 0x50, al; mov al, 4; out 0x50, al; then the same to MMIO; hlt
    const mmio = [...DS_ABOVE_RAM, 0xc6, 0x06, 0x10, 0x00, 0x42, HLT];
    using guest = microGuest({ code: [0xb0, 3, 0xe6, 0x50, 0xb0, 4, 0xe6, 0x50, ...mmio] });
    using any = EventFd.create();
    using three = EventFd.create();
    using memory = EventFd.create();
    guest.vm.ioeventfd({ eventfd: three, address: 0x50, length: 1, pio: true, datamatch: 3n });
    guest.vm.ioeventfd({ eventfd: any, address: 0x60, length: 1, pio: true });
    guest.vm.ioeventfd({ eventfd: memory, address: ABOVE_RAM, length: 1 });
    expect(runToExit(guest.vcpu)).toBe(abi.KVM_EXIT_IO);
    expect(three.read()).toBe(1n);
    expect(any.read()).toBeUndefined();
    expect(runToExit(guest.vcpu)).toBe(abi.KVM_EXIT_HLT);
    expect(memory.read()).toBe(1n);
    expect(() => guest.vm.ioeventfd({ eventfd: any, address: 0x60, length: 1, pio: true })).toThrow(/EEXIST/);
    guest.vm.ioeventfd({ eventfd: memory, address: ABOVE_RAM, length: 1, deassign: true });
    expect(() => guest.vm.ioeventfd({ eventfd: memory, address: ABOVE_RAM, length: 1, deassign: true })).toThrow(
      /KVM_IOEVENTFD .*ENOENT/,
    );
    expect(() => guest.vm.ioeventfd({ eventfd: any, address: 0x70, length: 3 as 4 })).toThrow(/EINVAL/);
    expect(() => guest.vm.ioeventfd({ eventfd: any, address: -1, length: 1 })).toThrow(RangeError);
  });

  test('KVM_SIGNAL_MSI: "> 0 if the MSI was delivered"; it lands in the local APIC', () => {
    using guest = microGuest({ irqchip: true });
    const lapic = guest.vcpu.getLapic();
    new DataView(lapic.buffer).setUint32(0xf0, 0x1ff, true); // software enable
    guest.vcpu.setLapic(lapic);
    expect(guest.vm.signalMsi({ address: 0xfee0_0000n, data: 0x45 })).toBe(true);
    const irr = new DataView(guest.vcpu.getLapic().buffer).getUint32(0x200 + 0x10 * (0x45 >> 5), true);
    expect(irr).toBe(1 << (0x45 & 31));
    expect(() => guest.vm.signalMsi({ address: 0xfee0_0000n, data: -1 })).toThrow(RangeError);
  });

  test('KVM_SET_GSI_ROUTING: a GSI becomes another pin', () => {
    using guest = microGuest({ irqchip: true });
    guest.vm.setGsiRouting([
      { gsi: 20, irqchip: abi.KVM_IRQCHIP_PIC_MASTER, pin: 4 },
      { gsi: 21, address: 0xfee0_0000n, data: 0x45 },
    ]);
    guest.vm.irqLine(20, 1);
    expect(guest.vm.getIrqchip(abi.KVM_IRQCHIP_PIC_MASTER)[1]).toBe(1 << 4);
    expect(() => guest.vm.setGsiRouting([{ gsi: 20, irqchip: 9, pin: 4 }])).toThrow(/KVM_SET_GSI_ROUTING .*EINVAL/);
  });

  test('KVM_REGISTER_COALESCED_MMIO: writes wait in the ring and do not exit', () => {
    // mov byte [0x10], 0x42; mov al, 7; out 0x50, al; hlt
    using guest = microGuest({
      code: [...DS_ABOVE_RAM, 0xc6, 0x06, 0x10, 0x00, 0x42, 0xb0, 7, 0xe6, 0x50, HLT],
    });
    const port = { address: 0x50, size: 1, pio: true };
    const page = { address: ABOVE_RAM, size: 4096 };
    guest.vm.registerCoalescedMmio(page);
    guest.vm.registerCoalescedMmio(port);
    expect(runToExit(guest.vcpu)).toBe(abi.KVM_EXIT_HLT);
    const { view } = guest.vcpu.run;
    expect(view.getUint32(COALESCED_RING_OFFSET.first, true)).toBe(0);
    expect(view.getUint32(COALESCED_RING_OFFSET.last, true)).toBe(2);
    const { entries, entry } = COALESCED_RING_OFFSET;
    expect(view.getBigUint64(entries + entry.phys_addr, true)).toBe(BigInt(ABOVE_RAM));
    expect(view.getUint8(entries + entry.data)).toBe(0x42);
    guest.vm.unregisterCoalescedMmio(port);
    startAt(guest.vcpu, ENTRY + 10);
    expect(runToExit(guest.vcpu)).toBe(abi.KVM_EXIT_IO);
    expect(() => guest.vm.registerCoalescedMmio({ address: -1, size: 1 })).toThrow(RangeError);
    expect(() => guest.vm.registerCoalescedMmio({ address: 1, size: 2 ** 33 })).toThrow(RangeError);
  });

  test('KVM_X86_SET_MSR_FILTER: a denied access exits', () => {
    // mov ecx, MSR_LSTAR; rdmsr; mov ecx, MSR_STAR; rdmsr; hlt
    const rdmsr = (index: number): number[] => [
      0x66,
      0xb9,
      ...new Uint8Array(Uint32Array.of(index).buffer),
      0x0f,
      0x32,
    ];
    using guest = microGuest({ code: [...rdmsr(MSR_LSTAR), ...rdmsr(MSR_STAR), HLT] });
    guest.vm.enableCap(abi.KVM_CAP_X86_USER_SPACE_MSR, [abi.KVM_MSR_EXIT_REASON_FILTER]);
    const flags = abi.KVM_MSR_FILTER_READ;
    // One MSR, whose bit is clear: denied.
    guest.vm.setMsrFilter({
      defaultAllow: true,
      ranges: [{ flags, base: MSR_LSTAR, nmsrs: 1, bitmap: Uint8Array.of(0) }],
    });
    expect(runToExit(guest.vcpu)).toBe(abi.KVM_EXIT_X86_RDMSR);
    const { view } = guest.vcpu.run;
    expect(view.getUint32(KVM_RUN_OFFSET.msr.index, true)).toBe(MSR_LSTAR);
    expect(view.getUint32(KVM_RUN_OFFSET.msr.reason, true)).toBe(abi.KVM_MSR_EXIT_REASON_FILTER);
    view.setBigUint64(KVM_RUN_OFFSET.msr.data, 0x1234n, true);
    expect(runToExit(guest.vcpu)).toBe(abi.KVM_EXIT_HLT);
    guest.vm.setMsrFilter({ defaultAllow: true, ranges: [] });
  });

  test('KVM_X86_SET_MSR_FILTER: bad ranges throw before the kernel sees them', () => {
    using guest = microGuest();
    const set = (ranges: unknown) => () => guest.vm.setMsrFilter({ defaultAllow: true, ranges: ranges as never });
    const range = { flags: 1, base: 0, nmsrs: 9, bitmap: new Uint8Array(2) };
    expect(set([{ ...range, bitmap: new Uint8Array(1) }])).toThrow(/shorter than its nmsrs/);
    expect(set([{ ...range, nmsrs: -1 }])).toThrow(RangeError);
    expect(set([{ ...range, nmsrs: 0xffffffff }])).toThrow(/shorter than its nmsrs/);
    expect(set([{ ...range, base: 2 ** 32 }])).toThrow(RangeError);
    expect(set([{ ...range, bitmap: 'x' }])).toThrow(TypeError);
    expect(set([{ ...range, bitmap: new Uint8Array(new SharedArrayBuffer(2)) }])).toThrow(TypeError);
    expect(set(Array.from({ length: 17 }, () => range))).toThrow(/16 ranges at most/);
    expect(set({ length: 1 })).toThrow(/Array|array|iterable|undefined/);
    expect(set([null])).toThrow(TypeError);
    expect(set([{ ...range, flags: 0x80 }])).toThrow(/KVM_X86_SET_MSR_FILTER on 1 ranges: EINVAL/);
  });

  test('adopt() gives the same VM through a descriptor of its own', () => {
    using guest = microGuest();
    using other = VmFd.adopt(guest.vm.fd);
    expect(other.fd).not.toBe(guest.vm.fd);
    expect(() => other.createVcpu(0)).toThrow(/EEXIST/);
    expect(() => VmFd.adopt(0)).toThrow(/adopt on VM fd 0: EINVAL/);
    expect(() => VmFd.adopt(99_999)).toThrow(/EBADF/);
    using eventfd = EventFd.create();
    expect(() => VmFd.adopt(eventfd.fd)).toThrow(/EINVAL/);
    for (const fd of [-1, 2 ** 31, 0.5, undefined]) expect(() => VmFd.adopt(fd as number)).toThrow(RangeError);
  });

  test('closing takes the memory away from a vCPU that is still there', () => {
    using guest = microGuest({ code: [0xe6, 0x10, HLT] });
    expect(runToExit(guest.vcpu)).toBe(abi.KVM_EXIT_IO);
    guest.vm.close();
    guest.vcpu.enter();
    // The next instruction is nowhere: what KVM makes of that differs, but it is no HLT.
    expect(guest.vcpu.run.u32[KVM_RUN_OFFSET.exit_reason / 4]).not.toBe(abi.KVM_EXIT_HLT);
  });

  test('every use of a closed one throws, and so does a second close', () => {
    using guest = microGuest();
    const { vm } = guest;
    vm.close();
    for (const use of [
      () => vm.close(),
      () => vm.fd,
      () => vm.createVcpu(1),
      () => vm.createIrqchip(),
      () => vm.getDirtyLog(0, 1),
      () => vm.getClock(),
      () => vm.setUserMemoryRegion({ slot: 1, guestPhysAddr: ABOVE_RAM, memory: bytesOf(1) }),
      () => vm.setMsrFilter({ defaultAllow: true, ranges: [] }),
    ])
      expect(use).toThrow('the handle is closed');
  });

  test('advise(): DONTNEED empties the pages; parts of pages are refused', () => {
    const memory = bytesOf(2).fill(7);
    advise(memory.subarray(0, 4096), 'DONTNEED');
    expect([memory[0], memory[4096]]).toEqual([0, 7]);
    expect(() => advise(memory.subarray(0, 100), 'DONTNEED')).toThrow(/madvise on 100 bytes, DONTNEED: EINVAL/);
    expect(() => advise(memory.subarray(1, 4097), 'DONTNEED')).toThrow(/EINVAL/);
    expect(() => advise(memory, 'REMOVE' as 'DONTNEED')).toThrow(/EINVAL/);
    expect(() => advise('x' as unknown as Uint8Array, 'DONTNEED')).toThrow(TypeError);
  });
});
