// A throwaway VM that runs a few bytes of code at CPL 0 or 3 and says how they ended: for quirk probes and tests.
// Intel SDM vol. 3A §3.4.5 (descriptors), §4.5 (4-level paging), §6.10 (IDT), §7.7 (64-bit TSS), §10.5.4 (APIC timer).
//
// Every vector's handler writes to the port with the vector's number, the end of the code to port DONE, and an APIC timer
// interrupts code that spins: a run ends in milliseconds whatever the code does, with no registers changed.
import { GuestMemory } from '../../memory/guest-memory.js';
import { KVM_TSS, KVM_IDENTITY_MAP } from '../../memory/layout.js';
import {
  KVM_EXIT_DEBUG,
  KVM_EXIT_INTERNAL_ERROR,
  KVM_EXIT_IO,
  KVM_EXIT_X86_WRMSR,
  KVM_INTERNAL_ERROR_EMULATION,
} from '../../kvm/abi.js';
import { KVM_RUN_OFFSET } from '../../kvm/kvm-run.js';
import type { PartialSregs, Regs } from '../../kvm/registers.js';
import type { CpuidEntry } from '../../kvm/entries.js';
import type { System } from '../../kvm/system.js';
import type { VcpuFd } from '../../kvm/vcpu-fd.js';
import type { VmFd } from '../../kvm/vm-fd.js';
import type { ExitAssist } from '../exit-bus.js';

export type MicroMode = 'protected' | 'long';

export interface MicroProgram {
  readonly mode: MicroMode;
  readonly cpl: 0 | 3;
  /** Machine code; `out %al, $DONE` is put behind it. */
  readonly code: readonly number[];
  /** Set over the defaults (stack, entry, data pointer in RSI and RDI). IOPL is 3 at CPL 3, IF always set. */
  readonly regs?: Partial<Regs>;
}

export type MicroOutcome =
  | { readonly kind: 'done' }
  /** A handler ran; `rip` is what the processor pushed. */
  | { readonly kind: 'vector'; readonly vector: number; readonly rip: bigint }
  /** The code neither ended nor faulted in time. */
  | { readonly kind: 'spins'; readonly rip: bigint }
  | { readonly kind: 'emulation-failure' }
  | { readonly kind: 'debug' }
  | { readonly kind: 'other'; readonly exitReason: number };

const RAM = 2 * 65536;
/** Where things lie; all below 64 KiB and mapped for both privilege levels. */
const AT = { gdt: 0x500, tss: 0x600, pml4: 0x1000, pdpt: 0x2000, pd: 0x3000, idt: 0x4000, handlers: 0x5000 } as const;
const KERNEL_STACK = 0x9000;

/** The IDT: 256 gates of 16 bytes in long mode, of 8 in protected mode. */
export const MICRO_IDT = AT.idt;
/** First byte of the code. */
export const MICRO_CODE = 0x8000;
/** A second piece of code, free for the caller; at `MICRO_KERNEL_ALIAS + MICRO_SECOND_CODE` CPL 3 cannot reach it. */
export const MICRO_SECOND_CODE = 0xa000;
/** 4 KiB of data; RSI and RDI point to it. */
export const MICRO_DATA = 0x1_0000;
/** The same memory once more, for CPL 0 only (long mode). */
export const MICRO_KERNEL_ALIAS = 0x4000_0000;
/** RSP at entry. */
export const MICRO_STACK = 0x8f00;

const DONE = 0xff;
const WATCHDOG_VECTOR = 0xfe;
/** Ticks of KVM's APIC bus, which has 1 GHz, in a millisecond. */
const TICKS = 1_000_000;
/** Exits with remedies that one run may make. */
const MAX_EXITS = 10_000;

export const MICRO_SELECTOR = {
  kernelCode: 0x10,
  kernelData: 0x18,
  userCode32: 0x20,
  userData: 0x28,
  userCode64: 0x30,
};
const TSS_SELECTOR = 0x38;

const CR0 = { protected: 0x33n, long: 0x8000_0033n };
/** PAE, OSFXSR and OSXMMEXCPT. */
const CR4 = { protected: 0x600n, long: 0x620n };
const CR4_OSXSAVE = 1n << 18n;
/** SCE, LME, LMA and NXE. */
const EFER_LONG = 0xd01n;
const RFLAGS_FIXED_AND_IF = 0x202n;
const RFLAGS_IOPL_3 = 0x3000n;
const APIC = { spurious: 0xf0, timer: 0x320, initialCount: 0x380, currentCount: 0x390, divide: 0x3e0 } as const;
const CPUID_XSAVE = 1 << 26;

export class MicroGuest {
  readonly memory: GuestMemory;
  readonly vm: VmFd;
  readonly vcpu: VcpuFd;
  readonly #lapic: Uint8Array;
  readonly #hasXsave: boolean;

  /**
   * @param cpuid what KVM_SET_CPUID2 is given
   * @param watchdog milliseconds of wall time after which code that neither ends nor faults is interrupted, at most 4000
   */
  constructor(
    system: System,
    cpuid: readonly CpuidEntry[],
    private readonly watchdog = 10,
  ) {
    this.memory = GuestMemory.create(RAM);
    this.vm = system.createVm();
    this.vm.setTssAddr(KVM_TSS);
    this.vm.setIdentityMapAddr(KVM_IDENTITY_MAP);
    for (const [slot, region] of this.memory.regions.entries())
      this.vm.setUserMemoryRegion({ slot, guestPhysAddr: region.base, memory: region.bytes });
    this.vm.createIrqchip();
    this.vcpu = this.vm.createVcpu(0);
    this.vcpu.setCpuid2(cpuid);
    this.#hasXsave = cpuid.some((entry) => entry.function === 1 && (entry.ecx & CPUID_XSAVE) !== 0);
    this.#lapic = this.vcpu.getLapic();
    const apic = new DataView(this.#lapic.buffer, this.#lapic.byteOffset);
    apic.setUint32(APIC.spurious, 0x1ff, true);
    apic.setUint32(APIC.timer, WATCHDOG_VECTOR, true);
    apic.setUint32(APIC.divide, 0b1011, true);
  }

  /** Loads memory and registers afresh; what ran before leaves no trace but in MICRO_DATA. */
  prepare({ mode, cpl, code, regs = {} }: MicroProgram, watchdog = this.watchdog): void {
    this.#writeTables(mode);
    this.memory.write(MICRO_CODE, Uint8Array.from([...code, 0xe6, DONE, 0xeb, 0xfe]));
    this.vcpu.setSregs(this.#sregs(mode, cpl));
    this.vcpu.setRegs({
      ...ZERO_REGS,
      ...regs,
      rflags: RFLAGS_FIXED_AND_IF | (cpl === 3 ? RFLAGS_IOPL_3 : 0n) | (regs.rflags ?? 0n),
    });
    this.vcpu.setVcpuEvents({
      exception: { injected: 0, nr: 0, hasErrorCode: 0, pending: 0, errorCode: 0 },
      interrupt: { injected: 0, nr: 0, soft: 0, shadow: 0 },
      flags: 0,
    });
    const apic = new DataView(this.#lapic.buffer, this.#lapic.byteOffset);
    apic.setUint32(APIC.initialCount, watchdog * TICKS, true);
    apic.setUint32(APIC.currentCount, watchdog * TICKS, true);
    this.vcpu.setLapic(this.#lapic);
  }

  /**
   * Prepares and runs; once more with more time where the watchdog came first, which it also does when the host gave
   * this thread no processor in time.
   * @param setUp called between the two
   * @param attempts the watchdog's time is fourfold at each
   */
  attempt(program: MicroProgram, setUp: () => void = () => undefined, attempts = 4): MicroOutcome {
    let outcome: MicroOutcome = { kind: 'spins', rip: 0n };
    for (let i = 0; i < attempts && outcome.kind === 'spins'; i++) {
      this.prepare(program, this.watchdog * 4 ** i);
      setUp();
      outcome = this.run();
    }
    return outcome;
  }

  /** Runs what was prepared, with the remedies of `assist` when given. */
  run(assist?: ExitAssist): MicroOutcome {
    const { view } = this.vcpu.run;
    for (let exits = 0; exits < MAX_EXITS; exits++) {
      this.vcpu.enter();
      if (this.vcpu.lastErrno[0] !== 0) continue;
      const exitReason = view.getUint32(KVM_RUN_OFFSET.exit_reason, true);
      if (exitReason === KVM_EXIT_IO) return this.#ended(view.getUint16(KVM_RUN_OFFSET.io.port, true));
      if (exitReason === KVM_EXIT_DEBUG) {
        if (assist?.debug() !== true) return { kind: 'debug' };
      } else if (exitReason === KVM_EXIT_INTERNAL_ERROR) {
        if (view.getUint32(KVM_RUN_OFFSET.internal.suberror, true) !== KVM_INTERNAL_ERROR_EMULATION)
          return { kind: 'other', exitReason };
        if (assist?.emulationFailure() !== true) return { kind: 'emulation-failure' };
      } else if (exitReason !== KVM_EXIT_X86_WRMSR || assist?.wrmsr() !== true) return { kind: 'other', exitReason };
    }
    return { kind: 'spins', rip: this.vcpu.getRegs().rip };
  }

  close(): void {
    this.vcpu.close();
    this.vm.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #ended(port: number): MicroOutcome {
    if (port === DONE) return { kind: 'done' };
    const rip = this.#pushedRip(port);
    return port === WATCHDOG_VECTOR ? { kind: 'spins', rip } : { kind: 'vector', vector: port, rip };
  }

  #pushedRip(vector: number): bigint {
    const { rsp } = this.vcpu.getRegs();
    const isLong = (this.vcpu.getSregs().efer & EFER_LONG) !== 0n;
    const size = isLong ? 8 : 4;
    const at = Number(rsp) + (VECTORS_WITH_ERROR_CODE.has(vector) ? size : 0);
    if (!this.memory.contains(at, size)) return -1n;
    return isLong ? this.memory.readU64(at) : BigInt(this.memory.readU32(at));
  }

  #writeTables(mode: MicroMode): void {
    const { memory } = this;
    memory.fill(0, 0x5000);
    memory.fill(MICRO_CODE, 0x1000);
    const isLong = mode === 'long';
    const descriptors = [
      isLong ? 0x00af_9b00_0000_ffffn : 0x00cf_9b00_0000_ffffn,
      0x00cf_9300_0000_ffffn,
      0x00cf_fb00_0000_ffffn,
      0x00cf_f300_0000_ffffn,
      0x00af_fb00_0000_ffffn,
      0x0000_8900_0000_0067n | (BigInt(AT.tss) << 16n),
      0n,
    ];
    for (const [index, descriptor] of descriptors.entries()) memory.writeU64(AT.gdt + 0x10 + index * 8, descriptor);
    if (isLong) memory.writeU64(AT.tss + 4, BigInt(KERNEL_STACK));
    else {
      memory.writeU32(AT.tss + 4, KERNEL_STACK);
      memory.writeU32(AT.tss + 8, MICRO_SELECTOR.kernelData);
    }
    memory.writeU64(AT.pml4, BigInt(AT.pdpt | 0b111));
    memory.writeU64(AT.pdpt, BigInt(AT.pd | 0b111));
    memory.writeU64(AT.pdpt + 8, BigInt(AT.pd | 0b011));
    memory.writeU64(AT.pd, 0x87n);
    for (let vector = 0; vector < 256; vector++) {
      const handler = AT.handlers + vector * 8;
      // out %al, $vector; jmp .
      memory.write(handler, Uint8Array.of(0xe6, vector, 0xeb, 0xfe));
      const gate = AT.idt + vector * (isLong ? 16 : 8);
      memory.writeU32(gate, (MICRO_SELECTOR.kernelCode << 16) | handler);
      // Present, DPL 3, interrupt gate.
      memory.writeU32(gate + 4, 0xee00);
    }
  }

  #sregs(mode: MicroMode, cpl: 0 | 3): PartialSregs {
    const isLong = mode === 'long';
    const flat = { base: 0n, limit: 0xffff_ffff, present: 1, dpl: cpl, s: 1, g: 1, avl: 0, unusable: 0 };
    const userCode = isLong ? MICRO_SELECTOR.userCode64 : MICRO_SELECTOR.userCode32;
    const code = {
      ...flat,
      selector: cpl === 0 ? MICRO_SELECTOR.kernelCode : userCode | 3,
      type: 11,
      l: isLong ? 1 : 0,
      db: isLong ? 0 : 1,
    };
    const data = {
      ...flat,
      selector: cpl === 0 ? MICRO_SELECTOR.kernelData : MICRO_SELECTOR.userData | 3,
      type: 3,
      l: 0,
      db: 1,
    };
    return {
      cs: code,
      ds: data,
      es: data,
      fs: data,
      gs: data,
      ss: data,
      tr: {
        ...flat,
        base: BigInt(AT.tss),
        limit: 0x67,
        selector: TSS_SELECTOR,
        type: 11,
        dpl: 0,
        s: 0,
        g: 0,
        l: 0,
        db: 0,
      },
      gdt: { base: BigInt(AT.gdt), limit: 0x47 },
      idt: { base: BigInt(AT.idt), limit: isLong ? 0xfff : 0x7ff },
      cr0: CR0[mode],
      cr3: BigInt(AT.pml4),
      cr4: CR4[mode] | (this.#hasXsave ? CR4_OSXSAVE : 0n),
      efer: isLong ? EFER_LONG : 0n,
    };
  }
}

const VECTORS_WITH_ERROR_CODE = new Set([8, 10, 11, 12, 13, 14, 17, 21]);

const ZERO_REGS: Regs = {
  rax: 0n,
  rbx: 0n,
  rcx: 0n,
  rdx: 0n,
  rsi: BigInt(MICRO_DATA),
  rdi: BigInt(MICRO_DATA),
  rsp: BigInt(MICRO_STACK),
  rbp: 0n,
  r8: 0n,
  r9: 0n,
  r10: 0n,
  r11: 0n,
  r12: 0n,
  r13: 0n,
  r14: 0n,
  r15: 0n,
  rip: BigInt(MICRO_CODE),
  rflags: 0n,
};
