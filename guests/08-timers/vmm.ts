// Lesson 8: interrupts. The kernel plays the controllers and both timers; the VMM asks for them once and never sees one.
// KVM API 4.24 (KVM_CREATE_IRQCHIP), 4.71 (KVM_CREATE_PIT2), 4.26, 4.57; Intel SDM vol. 3A §10 (APIC), §6 (interrupts).
import { abi, Bus, describeStop, GuestMemory, System, Vcpu, type IoHandler } from 'microvisor';
import { buildLesson } from '../ladder/build.js';

const ENTRY = 0x1000;
const RAM_BYTES = 2 << 20;
const EXIT_PORT = 0xf4;
/** Offset of the LVT timer register in the APIC's page. */
const LVT_TIMER = 0x320;

/** struct kvm_pic_state: one byte each. */
export const PIC_STATE = { imr: 2, isr: 3, irq_base: 5 } as const;

/** The interrupts of one timer. */
export interface Ticks {
  readonly count: number;
  /** Milliseconds from one to the next, on our clock. */
  readonly intervals: readonly number[];
}

export interface TimersResult {
  readonly pit: Ticks;
  readonly apic: Ticks;
  /** The vectors that the guest gave to its PIC (for IRQ 0) and its APIC. */
  readonly picBase: number;
  readonly apicVector: number;
}

export function runTimers({ output }: { readonly output: (text: string) => void }): TimersResult {
  using system = System.open();
  using vm = system.createVm();
  vm.setIdentityMapAddr(0xfffb_c000);
  vm.setTssAddr(0xfffb_d000);
  // Two 8259s, an IOAPIC, and a local APIC in every vCPU that is created from now on. With them HLT waits in the
  // kernel, and no longer exits: who wakes it is the kernel's business, too. The PIT is a call of its own.
  vm.createIrqchip();
  vm.createPit2();
  const memory = GuestMemory.create(RAM_BYTES);
  memory.write(ENTRY, buildLesson('08-timers', ENTRY));
  vm.setUserMemoryRegion({ slot: 0, guestPhysAddr: 0, memory: memory.window(0, RAM_BYTES) });

  const stamps: Record<'PIT' | 'APIC', number[]> = { PIT: [], APIC: [] };
  const ticker = (name: 'PIT' | 'APIC'): IoHandler => ({
    name: `${name} tick`,
    read: () => 0xff,
    write(_offset, _size, count) {
      stamps[name].push(performance.now());
      output(`${name} tick ${count}\n`);
    },
  });
  // The run ends when this word is not zero after an exit: HLT no longer tells us that the guest is done.
  const pending = new Int32Array(1);
  const exit: IoHandler = { name: 'exit', read: () => 0xff, write: () => void (pending[0] = 1) };
  const pio = Bus.ports();
  pio.attach(0x80, 1, ticker('PIT'));
  pio.attach(0x81, 1, ticker('APIC'));
  pio.attach(EXIT_PORT, 1, exit);

  using fd = vm.createVcpu(0);
  fd.setCpuid2(system.supportedCpuid());
  fd.setSregs({ cs: { selector: 0, base: 0n } });
  fd.setRegs({ rip: BigInt(ENTRY), rflags: 2n });
  const stop = new Vcpu({ fd, pio, mmio: Bus.mmio(), pending }).run();
  if (stop.kind !== 'pending') throw new Error(`lesson 8 ends with port 0xf4, not with ${describeStop(stop)}`);

  // What the guest wrote to the controllers never came by: its ports 0x20 to 0x43 and its stores to 0xfee00000 end in
  // the kernel, which hands out what it made of them.
  const picBase = vm.getIrqchip(abi.KVM_IRQCHIP_PIC_MASTER)[PIC_STATE.irq_base] ?? 0;
  const lapic = fd.getLapic();
  const apicVector = new DataView(lapic.buffer, lapic.byteOffset).getUint8(LVT_TIMER);
  const [pit, apic] = [ticksOf(stamps.PIT), ticksOf(stamps.APIC)];
  const show = ({ intervals }: Ticks): string => intervals.map((ms) => ms.toFixed(1)).join(' ');
  output(`PIT, vector ${picBase}: ${pit.count} interrupts, ${show(pit)} ms apart\n`);
  output(`APIC, vector ${apicVector}: ${apic.count} interrupts, ${show(apic)} ms apart\n`);
  return { pit, apic, picBase, apicVector };
}

function ticksOf(stamps: readonly number[]): Ticks {
  return { count: stamps.length, intervals: stamps.slice(1).map((stamp, i) => stamp - (stamps[i] ?? stamp)) };
}
