// One VM of the exit benchmark on the calling thread: the guest, the devices that it touches, and our own vCPU.
// KVM API 4.10, 4.97, 4.116, chapter 5. bench/reference.c is the same in C.
import { readFileSync } from 'node:fs';
import { Bus, type IoHandler } from '../../src/devices/bus.js';
import { RegisterTable } from '../../src/devices/register-table.js';
import {
  KVM_CAP_X86_USER_SPACE_MSR,
  KVM_EXIT_X86_RDMSR,
  KVM_MP_STATE_RUNNABLE,
  KVM_MSR_EXIT_REASON_FILTER,
  KVM_MSR_FILTER_READ,
  KVM_SYNC_X86_REGS,
} from '../../src/kvm/abi.js';
import { EventFd } from '../../src/kvm/event-fd.js';
import { threadCpuNanoseconds } from '../../src/kvm/host-thread.js';
import { KVM_RUN_OFFSET as AT } from '../../src/kvm/kvm-run.js';
import { System } from '../../src/kvm/system.js';
import type { VcpuFd } from '../../src/kvm/vcpu-fd.js';
import { VmFd } from '../../src/kvm/vm-fd.js';
import { GuestMemory, type SharedGuestMemory } from '../../src/memory/guest-memory.js';
import { KVM_IDENTITY_MAP, KVM_TSS } from '../../src/memory/layout.js';
import { CoalescedRing } from '../../src/vcpu/coalesced-ring.js';
import { ExitStatistics } from '../../src/vcpu/observe/statistics.js';
import { allocateTrace } from '../../src/vcpu/observe/trace.js';
import { describeStop } from '../../src/vcpu/stop.js';
import { Vcpu, type VcpuOptions } from '../../src/vcpu/vcpu.js';
import { percentile } from '../estimate.js';
import type { Feature } from './cases.js';
import { GUEST, MODE, OP } from './guest.js';
import { koffiEnter } from './koffi-enter.js';

export interface RigOptions {
  readonly guest: Uint8Array;
  readonly op: number;
  readonly mode: number;
  readonly feature: Feature;
  readonly statistics: boolean;
  readonly trace: boolean;
  /** KVM_RUN by koffi instead of the addon. */
  readonly koffi: boolean;
  /** Another vCPU of that VM, instead of a VM of its own. */
  readonly machine?: SharedMachine | undefined;
}

export interface SharedMachine {
  readonly vmFd: number;
  readonly memory: SharedGuestMemory;
  readonly index: number;
}

/** What one batch took. Nanoseconds; the percentiles are of single exits, NaN when none were looked at. */
export interface Batch {
  readonly cpu: number;
  readonly wall: number;
  /** How often the vCPU's thread lost its processor to others. */
  readonly preemptions: number;
  readonly p50: number;
  readonly p99: number;
}

/** Where interrupts and kicks are answered: the time of the last answer, and how many there were. */
export interface Answers {
  readonly times: BigInt64Array<SharedArrayBuffer>;
  readonly count: Int32Array<SharedArrayBuffer>;
}

/** Passes before the clock starts: the process has just been woken up. As in bench/reference.c. */
const LEAD_IN = 64;
export const IRQ_GSI = 24;
const APIC_ADDRESS = 0xfee0_0000n;

export class Rig {
  readonly irq = EventFd.create();
  readonly fd: VcpuFd;
  readonly #system = System.open();
  readonly #vm: VmFd;
  readonly #memory: GuestMemory;
  readonly #pending = new Int32Array(new SharedArrayBuffer(4));
  readonly #vcpu: Vcpu;
  readonly #options: RigOptions;
  readonly #answers: Answers | undefined;

  /**
   * @param device serves the guest's port and MMIO accesses in place of the rig's own devices
   * @param answers where the guest's port writes are noted as answers to interrupts, and kicks as answers to kicks
   */
  constructor(options: RigOptions, device?: IoHandler, answers?: Answers) {
    this.#options = options;
    this.#answers = answers;
    const { machine } = options;
    if (machine === undefined) {
      this.#memory = GuestMemory.create(GUEST.ramBytes);
      this.#vm = createMachine(this.#system, this.#memory, options.guest);
    } else {
      this.#memory = GuestMemory.attach(machine.memory);
      this.#vm = VmFd.adopt(machine.vmFd);
    }
    const index = machine?.index ?? 0;
    if (index === 0) {
      this.#vm.setGsiRouting([{ gsi: IRQ_GSI, address: APIC_ADDRESS, data: GUEST.irqVector }]);
      this.#vm.irqfd({ eventfd: this.irq, gsi: IRQ_GSI });
    }
    const fd = this.#vm.createVcpu(index);
    fd.setMpState(KVM_MP_STATE_RUNNABLE);
    this.fd = options.koffi ? koffiEnter(fd) : fd;
    fd.setCpuid2(this.#system.supportedCpuid());
    fd.setSregs({ cs: { base: 0n, selector: 0 } });
    fd.setRegs({ rip: BigInt(GUEST.entry), rflags: 2n });
    const exits = addFeature(options, this.#vm, fd);
    // Only the loops that wait for interrupts answer by a port write.
    const isAnswering = options.op === OP.waitHalted || options.op === OP.waitSpinning;
    const { pio, mmio } = buses(options, fd, this.#pending, device, isAnswering ? answers : undefined);
    this.#vcpu = new Vcpu({
      fd: this.fd,
      pio,
      mmio,
      pending: this.#pending,
      coalesced: new CoalescedRing(fd, new Int32Array(new SharedArrayBuffer(4)), pio, mmio),
      exits,
      ...(options.statistics ? { statistics: new ExitStatistics(ExitStatistics.allocate()) } : {}),
      ...(options.trace ? { trace: allocateTrace() } : {}),
    });
    this.#memory.writeU32(GUEST.mailbox.mode, options.mode);
    this.#run();
  }

  /** Lets the guest make `count` passes; stamped ones are GUEST.mostStamps at most. */
  batch(count: number, stamped: boolean): Batch {
    const { op } = this.#options;
    const passes = stamped ? Math.min(count, GUEST.mostStamps) : count;
    this.#memory.writeU32(GUEST.mailbox.op, op);
    this.#memory.writeU32(GUEST.mailbox.stamped, stamped ? 1 : 0);
    if (op !== OP.spin && op !== OP.waitHalted && op !== OP.waitSpinning) {
      this.#memory.writeU32(GUEST.mailbox.count, Math.min(passes, LEAD_IN));
      this.#run();
    }
    this.#memory.writeU32(GUEST.mailbox.count, passes);
    const preemptions = preemptionsOfThread();
    const wall = process.hrtime.bigint();
    const cpu = threadCpuNanoseconds();
    if (op === OP.spin) this.#takeKicks(passes);
    else this.#run();
    const took = {
      cpu: Number(threadCpuNanoseconds() - cpu),
      wall: Number(process.hrtime.bigint() - wall),
      preemptions: preemptionsOfThread() - preemptions,
    };
    return { ...took, ...(stamped ? this.#percentiles(passes) : { p50: Number.NaN, p99: Number.NaN }) };
  }

  close(): void {
    this.fd.close();
    this.#vm.close();
    this.irq.close();
    this.#system.close();
  }

  #run(): void {
    const stop = this.#vcpu.run();
    if (stop.kind !== 'pending') throw new Error(`the guest ended with ${describeStop(stop)}`);
    this.#pending[0] = 0;
  }

  #takeKicks(count: number): void {
    for (let i = 0; i < count; i++) {
      const stop = this.#vcpu.run();
      if (stop.kind !== 'kicked') throw new Error(`a kick ended with ${describeStop(stop)}`);
      if (this.#answers !== undefined) answer(this.#answers);
    }
  }

  #percentiles(count: number): Pick<Batch, 'p50' | 'p99'> {
    const khz = this.fd.getTscKhz();
    const stamps = Array.from(
      { length: count },
      (_, i) => (this.#memory.readU32(GUEST.stamps + 4 * i) / khz) * 1e6,
    ).toSorted((a, b) => a - b);
    return { p50: percentile(stamps, 0.5), p99: percentile(stamps, 0.99) };
  }
}

/** proc(5), status: nonvoluntary_ctxt_switches. */
function preemptionsOfThread(): number {
  return Number(/^nonvoluntary_ctxt_switches:\s*(\d+)$/m.exec(readFileSync('/proc/thread-self/status', 'utf8'))?.[1]);
}

export function createMachine(system: System, memory: GuestMemory, guest: Uint8Array): VmFd {
  const vm = system.createVm();
  vm.setIdentityMapAddr(KVM_IDENTITY_MAP);
  vm.setTssAddr(KVM_TSS);
  vm.createIrqchip();
  memory.write(GUEST.entry, guest);
  for (const [slot, { base, bytes }] of memory.regions.entries())
    vm.setUserMemoryRegion({ slot, guestPhysAddr: base, memory: bytes });
  return vm;
}

function addFeature({ feature, mode }: RigOptions, vm: VmFd, fd: VcpuFd): NonNullable<VcpuOptions['exits']> {
  const { u32 } = fd.run;
  if (feature === 'coalesced') {
    vm.registerCoalescedMmio({ address: GUEST.port, size: 1, pio: true });
    vm.registerCoalescedMmio({ address: mmioBase(mode) + GUEST.written, size: 4 });
  }
  if (feature === 'sync-regs') u32[AT.kvm_valid_regs >> 2] = KVM_SYNC_X86_REGS;
  if (feature !== 'msr-filter') return {};
  vm.enableCap(KVM_CAP_X86_USER_SPACE_MSR, [KVM_MSR_EXIT_REASON_FILTER]);
  const bitmap = new Uint8Array(4);
  vm.setMsrFilter({
    defaultAllow: true,
    ranges: [{ flags: KVM_MSR_FILTER_READ, base: GUEST.filteredMsr, nmsrs: 1, bitmap }],
  });
  return {
    [KVM_EXIT_X86_RDMSR]: () => {
      u32[AT.msr.data >> 2] = 0;
      u32[(AT.msr.data >> 2) + 1] = 0;
      fd.run.u8[AT.msr.error] = 0;
      return undefined;
    },
  };
}

function mmioBase(mode: number): number {
  return mode === MODE.real ? GUEST.realMmio : GUEST.mmio;
}

const MMIO_BYTES = 0x200;
const MAGIC = 0x7472_6976;

function buses(
  { feature, mode }: RigOptions,
  fd: VcpuFd,
  pending: Int32Array,
  device: IoHandler | undefined,
  answers: Answers | undefined,
): { readonly pio: Bus; readonly mmio: Bus } {
  const pio = Bus.ports();
  const mmio = Bus.mmio();
  const registers = registerTable('registers');
  pio.attach(GUEST.port, 1, device ?? withRegisters(feature, fd, consoleHandler(answers)));
  pio.attach(GUEST.endPort, 1, {
    name: 'end',
    read: () => 0xff,
    write: () => {
      pending[0] = 1;
    },
  });
  mmio.attach(mmioBase(mode), MMIO_BYTES, device ?? registers);
  seeOthers(pio, mmio);
  return { pio, mmio };
}

/** A machine's buses see handlers of many kinds; with one kind only the compiler would build it into the loop. */
function seeOthers(pio: Bus, mmio: Bus): void {
  const kinds: IoHandler[] = [
    registerTable('other registers'),
    { name: 'constant', read: () => 1, write: () => undefined },
    new (class {
      readonly name = 'class';
      #value = 0;
      read = (): number => this.#value;
      write = (_offset: number, _size: number, value: number): void => void (this.#value = value);
    })(),
    Object.assign(Object.create({ read: () => 2, write: () => undefined }) as Omit<IoHandler, 'name'>, {
      name: 'inherited',
    }),
    { write: () => undefined, read: (offset) => offset, name: 'offset' },
  ];
  for (const [i, handler] of kinds.entries()) {
    pio.attach(0x300 + 0x100 * i, 4, handler);
    mmio.attach(0xd000_0000 + 0x1000 * i, 0x1000, handler);
  }
  for (let round = 0; round < 20_000; round++) {
    const i = round % kinds.length;
    pio.write(0x300 + 0x100 * i, 1, round);
    pio.read(0x300 + 0x100 * i, 1);
    mmio.write(0xd000_0000 + 0x1000 * i, 4, round);
    mmio.read(0xd000_0000 + 0x1000 * i, 4);
  }
}

function registerTable(name: string): RegisterTable {
  let selected = 0;
  return new RegisterTable(name, [
    { offset: 0, name: 'MagicValue', size: 4, read: () => MAGIC },
    {
      offset: GUEST.written,
      name: 'DeviceFeaturesSel',
      size: 4,
      read: () => selected,
      write: (value) => {
        selected = value;
      },
    },
  ]);
}

function consoleHandler(answers: Answers | undefined): IoHandler {
  let sum = 0;
  return {
    name: 'console',
    read: () => GUEST.port,
    write: (_offset, _size, value) => {
      sum = (sum + value) | 0;
      if (answers !== undefined) answer(answers);
    },
  };
}

/** The console that also reads RIP at each access, by the way that `feature` says. */
function withRegisters(feature: Feature, fd: VcpuFd, inner: IoHandler): IoHandler {
  const { u32 } = fd.run;
  let sum = 0;
  const look: Partial<Record<Feature, () => void>> = {
    'sync-regs': () => {
      sum = (sum + (u32[SYNC_RIP >> 2] as number)) | 0;
    },
    'get-regs': () => {
      sum = (sum + Number(fd.getRegs().rip)) | 0;
    },
  };
  const read = look[feature];
  if (read === undefined) return inner;
  return {
    ...inner,
    write: (offset, size, value) => {
      read();
      inner.write(offset, size, value);
    },
  };
}

/** RIP in struct kvm_regs, after 16 registers of 8 bytes. */
const SYNC_RIP = AT.s.regs.regs + 16 * 8;

function answer({ times, count }: Answers): void {
  times[0] = process.hrtime.bigint();
  Atomics.add(count, 0, 1);
  Atomics.notify(count, 0);
}
