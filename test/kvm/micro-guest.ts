// A guest of a few bytes in real mode, for tests that look at one behaviour of KVM.
// Intel SDM volume 2 for the bytes.
import type { VcpuFd } from '../../src/kvm/vcpu-fd.js';
import type { VmFd } from '../../src/kvm/vm-fd.js';
import { KVM_RUN_OFFSET } from '../../src/kvm/kvm-run.js';
import { System } from '../../src/kvm/system.js';
import { GuestMemory } from '../../src/memory/guest-memory.js';

/** Where the code lies and starts. */
export const ENTRY = 0x1000;

const TSS_ADDRESS = 0xfffbd000;
const IDENTITY_MAP_ADDRESS = 0xfffbc000;

export interface MicroGuest extends Disposable {
  readonly system: System;
  readonly vm: VmFd;
  readonly memory: GuestMemory;
  readonly vcpu: VcpuFd;
}

export interface MicroGuestOptions {
  readonly code?: readonly number[];
  readonly irqchip?: boolean;
  /** Slot flags. */
  readonly flags?: number;
  /** Called before the vCPU exists. */
  readonly prepare?: (vm: VmFd) => void;
}

/** 1 MiB of RAM from GPA 0, one vCPU about to run `code` in real mode with interrupts off. */
export function microGuest(options: MicroGuestOptions = {}): MicroGuest {
  const { code = [0xf4], irqchip = false, flags = 0, prepare } = options;
  const system = System.open();
  const vm = system.createVm();
  vm.setTssAddr(TSS_ADDRESS);
  vm.setIdentityMapAddr(IDENTITY_MAP_ADDRESS);
  if (irqchip) vm.createIrqchip();
  prepare?.(vm);
  const memory = GuestMemory.create(1 << 20);
  memory.write(ENTRY, Uint8Array.from(code));
  for (const [slot, { base, bytes }] of memory.regions.entries())
    vm.setUserMemoryRegion({ slot, guestPhysAddr: base, memory: bytes, flags });
  const vcpu = vm.createVcpu(0);
  startAt(vcpu, ENTRY);
  return {
    system,
    vm,
    memory,
    vcpu,
    [Symbol.dispose]() {
      vcpu[Symbol.dispose]();
      vm[Symbol.dispose]();
      system[Symbol.dispose]();
    },
  };
}

export function startAt(vcpu: VcpuFd, rip: number): void {
  vcpu.setSregs({ cs: { base: 0n, selector: 0 } });
  vcpu.setRegs({ rip: BigInt(rip), rflags: 2n, rsp: 0x8000n });
}

/** Runs to the next exit; returns its reason. Throws when KVM_RUN failed. */
export function runToExit(vcpu: VcpuFd): number {
  vcpu.enter();
  const errno = vcpu.lastErrno[0];
  if (errno !== 0) throw new Error(`KVM_RUN: errno ${errno}`);
  return vcpu.run.view.getUint32(KVM_RUN_OFFSET.exit_reason, true);
}
