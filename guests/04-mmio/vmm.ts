// Lesson 4: a device of registers in memory. What is not backed by a memory slot exits with KVM_EXIT_MMIO.
// KVM API 4.35 (memory slots), 5 (struct kvm_run, member mmio); Intel SDM vol. 3A §11.
import { Bus, describeStop, GuestMemory, RegisterTable, System, Vcpu } from 'microvisor';
import { buildLesson } from '../ladder/build.js';

const ENTRY = 0x1000;
/** RAM ends here; the device lies above. */
const RAM_BYTES = 64 << 10;
const DEVICE = 0xd0000;
const RESULTS = 0x2000;

export interface MmioResult {
  readonly text: string;
  readonly factors: readonly number[];
  /** What the guest read back, and stored in its RAM. */
  readonly product: number;
  readonly fromNobody: number;
  /** GPAs that nobody served. */
  readonly unclaimed: readonly number[];
}

export function runMmio({ output }: { readonly output: (text: string) => void }): MmioResult {
  using system = System.open();
  using vm = system.createVm();
  vm.setIdentityMapAddr(0xfffb_c000);
  vm.setTssAddr(0xfffb_d000);
  const memory = GuestMemory.create(RAM_BYTES);
  memory.write(ENTRY, buildLesson('04-mmio', ENTRY));
  vm.setUserMemoryRegion({ slot: 0, guestPhysAddr: 0, memory: memory.window(0, RAM_BYTES) });

  // A device is a table of registers: offset, name, size, and what a read or a write does.
  const factors = [0, 0];
  let text = '';
  const multiplier = new RegisterTable('multiplier', [
    { offset: 0x0, name: 'FACTOR_A', size: 4, write: (value) => (factors[0] = value) },
    { offset: 0x4, name: 'FACTOR_B', size: 4, write: (value) => (factors[1] = value) },
    { offset: 0x8, name: 'PRODUCT', size: 4, read: () => factors.reduce((product, factor) => product * factor) },
    {
      offset: 0xc,
      name: 'CONSOLE',
      size: 1,
      write(byte) {
        text += String.fromCharCode(byte);
        output(String.fromCharCode(byte));
      },
    },
  ]);

  // A bus finds who serves an address. What nobody serves reads as all ones, as on a real bus.
  const unclaimed: number[] = [];
  const mmio = Bus.mmio((address) => unclaimed.push(address));
  mmio.attach(DEVICE, 0x10, multiplier);

  // The library's run loop: the same as lesson 3's, with a bus each for ports and memory.
  using fd = vm.createVcpu(0);
  fd.setSregs({ cs: { selector: 0, base: 0n } });
  fd.setRegs({ rip: BigInt(ENTRY), rflags: 2n });
  const stop = new Vcpu({ fd, pio: Bus.ports(), mmio }).run();
  if (stop.kind !== 'hlt') throw new Error(`lesson 4 ends with HLT, not with ${describeStop(stop)}`);

  const product = memory.readU32(RESULTS);
  const fromNobody = memory.readU32(RESULTS + 4);
  output(`The device multiplied ${factors.join(' and ')}; the guest found ${product}.\n`);
  output(
    `At 0x${unclaimed.map((gpa) => gpa.toString(16)).join(', 0x')} there is nobody: 0x${fromNobody.toString(16)}.\n`,
  );
  return { text, factors, product, fromNobody, unclaimed };
}
