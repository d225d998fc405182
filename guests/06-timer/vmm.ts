// Lesson 6: interrupts. The kernel plays the interrupt controllers; the VMM asks for them once and never sees one.
// KVM API 4.24 (KVM_CREATE_IRQCHIP), 4.57 (KVM_GET_LAPIC); Intel SDM vol. 3A §10 (APIC), §6 (interrupts).
import { Bus, describeStop, GuestMemory, System, Vcpu } from '../../src/index.js';
import { assemble } from '../assemble.js';

const ENTRY = 0x1000;
const RAM_BYTES = 2 << 20;
const TICK_PORT = 0x80;
const EXIT_PORT = 0xf4;
/** Offset of the LVT timer register in the APIC's page. */
const LVT_TIMER = 0x320;

export interface TimerResult {
  /** How many interrupts the guest says it had. */
  readonly ticks: number;
  /** Milliseconds from one to the next, on our clock. */
  readonly intervals: readonly number[];
  /** The vector that the guest put into its APIC. */
  readonly vector: number;
}

export function runTimer({ output }: { readonly output: (text: string) => void }): TimerResult {
  using system = System.open();
  using vm = system.createVm();
  vm.setIdentityMapAddr(0xfffb_c000);
  vm.setTssAddr(0xfffb_d000);
  // Two 8259s, an IOAPIC, and a local APIC in every vCPU that is created from now on. With them HLT waits in the
  // kernel, and no longer exits: who wakes it is the kernel's business, too.
  vm.createIrqchip();
  const memory = GuestMemory.create(RAM_BYTES);
  memory.write(ENTRY, assemble('06-timer', ENTRY));
  vm.setUserMemoryRegion({ slot: 0, guestPhysAddr: 0, memory: memory.window(0, RAM_BYTES) });

  let ticks = 0;
  const stamps: number[] = [];
  const pio = Bus.ports();
  pio.attach(TICK_PORT, 1, {
    name: 'tick',
    read: () => 0xff,
    write(_offset, _size, value) {
      ticks = value;
      stamps.push(performance.now());
      output(`tick ${value}\n`);
    },
  });
  // The run ends when this word is not zero after an exit: HLT no longer tells us that the guest is done.
  const pending = new Int32Array(1);
  pio.attach(EXIT_PORT, 1, {
    name: 'exit',
    read: () => 0xff,
    write() {
      pending[0] = 1;
    },
  });

  using fd = vm.createVcpu(0);
  fd.setCpuid2(system.supportedCpuid());
  fd.setSregs({ cs: { selector: 0, base: 0n } });
  fd.setRegs({ rip: BigInt(ENTRY), rflags: 2n });
  const stop = new Vcpu({ fd, pio, mmio: Bus.mmio(), pending }).run();
  if (stop.kind !== 'pending') throw new Error(`lesson 6 ends with port 0xf4, not with ${describeStop(stop)}`);

  // The registers that the guest wrote never came by: its stores to 0xfee00000 end in the kernel.
  const lapic = fd.getLapic();
  const vector = new DataView(lapic.buffer, lapic.byteOffset).getUint8(LVT_TIMER);
  const intervals = stamps.slice(1).map((stamp, i) => stamp - (stamps[i] ?? stamp));
  output(`${ticks} interrupts of vector ${vector}, ${intervals.map((ms) => ms.toFixed(1)).join(' ')} ms apart\n`);
  return { ticks, intervals, vector };
}
