// The grader's VMM: one vCPU, some RAM, and everything that can be looked at when the guest is done.
// Our own, on the public library; the VMMs to learn from are the lessons' vmm.ts.
import {
  abi,
  Bus,
  describeStop,
  GuestMemory,
  System,
  Vcpu,
  type IoHandler,
  type VcpuFd,
  type VcpuStop,
  type VmFd,
} from 'microvisor';
import type { BuiltGuest } from './build.js';
import type { Watchdog } from './watchdog.js';

/** Where a guest starts in real mode, as in the lessons. */
export const ENTRY = 0x1000;
/** Text goes here, from the lessons' guests. */
export const DEBUG_PORT = 0xe9;
/** A write here ends the run, whatever the value. */
export const EXIT_PORT = 0xf4;

export interface RigOptions {
  readonly guest: BuiltGuest;
  /** Bytes; default 64 KiB. */
  readonly ram?: number;
  /** General registers at entry. */
  readonly regs?: Partial<ReturnType<VcpuFd['getRegs']>>;
  /** By first port: how many, and who serves them. */
  readonly ports?: readonly { readonly base: number; readonly length: number; readonly handler: IoHandler }[];
  readonly mmio?: readonly { readonly base: number; readonly length: number; readonly handler: IoHandler }[];
  /** PICs, IOAPIC, local APIC and PIT in the kernel; HLT does not end the run then. */
  readonly irqchip?: boolean;
  /** Looks at the machine before it goes away. */
  readonly inspect?: (vm: VmFd, vcpu: VcpuFd) => void;
}

/** How a run ended, and what it left. */
export interface RigRun {
  readonly stop: VcpuStop;
  readonly regs: ReturnType<VcpuFd['getRegs']>;
  readonly sregs: ReturnType<VcpuFd['getSregs']>;
  readonly memory: GuestMemory;
  /** What the guest wrote to DEBUG_PORT. */
  readonly text: string;
  /**
   * True when the registers are those after a reset: SVM leaves a processor undefined that has shut down (AMD APM vol. 2
   * §15.14.3), and KVM resets it. VMX and PVM keep them.
   */
  readonly forgotten: boolean;
}

/** Where a processor starts after a reset: RIP, with the base of CS. */
const RESET_RIP = 0xfff0n;
const RESET_CS_BASE = 0xffff_0000n;

export function runRig(options: RigOptions, watchdog: Watchdog, limitMs: number): RigRun {
  const { guest, ram = 64 << 10, irqchip = false } = options;
  using system = System.open();
  using vm = system.createVm();
  vm.setIdentityMapAddr(0xfffb_c000);
  vm.setTssAddr(0xfffb_d000);
  if (irqchip) {
    vm.createIrqchip();
    vm.createPit2(abi.KVM_PIT_SPEAKER_DUMMY);
  }
  const memory = GuestMemory.create(ram);
  memory.write(ENTRY, guest);
  vm.setUserMemoryRegion({ slot: 0, guestPhysAddr: 0, memory: memory.window(0, ram) });

  let text = '';
  const pending = new Int32Array(1);
  const pio = Bus.ports();
  const mmio = Bus.mmio();
  const debug: IoHandler = {
    name: 'debug console',
    read: () => DEBUG_PORT,
    write: (_offset, _size, byte) => void (text += String.fromCharCode(byte & 0xff)),
  };
  const exit: IoHandler = { name: 'exit', read: () => 0xff, write: () => void (pending[0] = 1) };
  pio.attach(DEBUG_PORT, 1, debug);
  pio.attach(EXIT_PORT, 1, exit);
  for (const { base, length, handler } of options.ports ?? []) pio.attach(base, length, handler);
  for (const { base, length, handler } of options.mmio ?? []) mmio.attach(base, length, handler);

  using fd = vm.createVcpu(0);
  fd.setCpuid2(system.supportedCpuid());
  fd.setSregs({ cs: { selector: 0, base: 0n } });
  fd.setRegs({ rip: BigInt(ENTRY), rflags: 2n, ...options.regs });
  const vcpu = new Vcpu({ fd, pio, mmio, pending });
  const stop = watchdog.guard(fd, limitMs, () => vcpu.run());
  if (stop.kind === 'pending') vcpu.completePending();
  options.inspect?.(vm, fd);
  const [regs, sregs] = [fd.getRegs(), fd.getSregs()];
  const forgotten = stop.kind === 'shutdown' && regs.rip === RESET_RIP && sregs.cs.base === RESET_CS_BASE;
  return { stop, regs, sregs, memory, text, forgotten };
}

/** How a run ended, for a student. */
export function describeEnd({ stop, regs, forgotten }: Pick<RigRun, 'stop' | 'regs' | 'forgotten'>): string {
  const at = forgotten ? 'where, this processor does not tell after that' : `RIP is ${hex(regs.rip)}`;
  if (stop.kind === 'kicked') return `the guest was still running when its time was over; ${at}`;
  return `the guest ended with ${describeStop(stop)}; ${at}`;
}

export function hex(value: bigint | number, digits = 1): string {
  return `0x${value.toString(16).padStart(digits, '0')}`;
}
