// Lesson 6: a guest goes to long mode; the VMM says what processor it is, and walks the guest's page tables.
// KVM API 4.20 (KVM_SET_CPUID2), 4.15 (KVM_TRANSLATE); Intel SDM vol. 3A §4.5 (4-level paging), §9.8.5.
import { Bus, describeStop, GuestMemory, System, Vcpu } from 'microvisor';
import { buildLesson } from '../ladder/build.js';

const ENTRY = 0x1000;
const RAM_BYTES = 8 << 20;
const DEBUG_PORT = 0xe9;
/** The guest's own choice: an address in the upper half of the 64-bit address space. */
const HIGH = 0xffff_8000_0000_0000n;
const EFER_LMA = 1n << 10n;
/** Bits 51:12 of an entry: the frame that it points to. */
const FRAME = 0x000f_ffff_ffff_f000n;
export const LARGE_PAGE = 1n << 7n;

export interface LongModeResult {
  readonly text: string;
  /** EFER.LMA and the L flag of CS: together 64-bit mode. */
  readonly lma: boolean;
  readonly l: number;
  /** GPA of HIGH by our own walk, and by KVM's. */
  readonly walked: bigint;
  readonly translated: bigint;
  /** What the guest stored at HIGH + 8. */
  readonly stored: bigint;
}

export function runLongMode({ output }: { readonly output: (text: string) => void }): LongModeResult {
  using system = System.open();
  using vm = system.createVm();
  vm.setIdentityMapAddr(0xfffb_c000);
  vm.setTssAddr(0xfffb_d000);
  const memory = GuestMemory.create(RAM_BYTES);
  memory.write(ENTRY, buildLesson('06-long-mode', ENTRY));
  vm.setUserMemoryRegion({ slot: 0, guestPhysAddr: 0, memory: memory.window(0, RAM_BYTES) });

  let text = '';
  const pio = Bus.ports();
  pio.attach(DEBUG_PORT, 1, {
    name: 'debug console',
    read: () => DEBUG_PORT,
    write(_offset, _size, byte) {
      text += String.fromCharCode(byte);
      output(String.fromCharCode(byte));
    },
  });

  using fd = vm.createVcpu(0);
  // A new vCPU's CPUID is empty: a processor without long mode, on which setting EFER.LME is a fault. The VMM chooses
  // what the guest's processor can do; here it is all that this KVM supports.
  fd.setCpuid2(system.supportedCpuid());
  fd.setSregs({ cs: { selector: 0, base: 0n } });
  fd.setRegs({ rip: BigInt(ENTRY), rflags: 2n });
  const stop = new Vcpu({ fd, pio, mmio: Bus.mmio() }).run();
  if (stop.kind !== 'hlt') throw new Error(`lesson 6 ends with HLT, not with ${describeStop(stop)}`);

  const { cr3, efer, cs } = fd.getSregs();
  output(`EFER is 0x${efer.toString(16)}, CS has L=${cs.l}; CR3 says the PML4 is at 0x${cr3.toString(16)}.\n`);
  const walked = walk(memory, cr3, HIGH, output);
  const translated = fd.translate(HIGH).physicalAddress;
  const stored = memory.readU64(Number(walked) + 8);
  output(`At 0x${walked.toString(16)} + 8 the VMM finds 0x${stored.toString(16)}.\n`);
  return { text, lma: (efer & EFER_LMA) !== 0n, l: cs.l, walked, translated, stored };
}

function walk(memory: GuestMemory, cr3: bigint, linear: bigint, output: (text: string) => void): bigint {
  for (const { name, index, entry, next, shift } of walkSteps(memory, cr3, linear)) {
    output(`  ${name}[${index}] = ${hex(entry)}\n`);
    if ((entry & 1n) === 0n) throw new Error(`${hex(linear)} is not mapped: ${name}[${index}] is not present`);
    const within = (1n << shift) - 1n;
    if (name === 'PT' || (entry & LARGE_PAGE) !== 0n) return (next & ~within) | (linear & within);
  }
  throw new Error('a walk ends at a page');
}

/** One step of a walk: the entry that was read, and the table or frame that it leads to. */
export interface WalkStep {
  readonly name: 'PML4' | 'PDPT' | 'PD' | 'PT';
  readonly index: number;
  readonly entry: bigint;
  readonly next: bigint;
  /** The lowest bit of the address that indexes this table. */
  readonly shift: bigint;
}

// What the processor does on each TLB miss: nine bits of the address index a table, whose entry names the next one.
export function* walkSteps(memory: GuestMemory, cr3: bigint, linear: bigint): Generator<WalkStep> {
  let table = cr3 & FRAME;
  for (const [name, shift] of [
    ['PML4', 39n],
    ['PDPT', 30n],
    ['PD', 21n],
    ['PT', 12n],
  ] as const) {
    const index = Number((linear >> shift) & 0x1ffn);
    const entry = memory.readU64(Number(table) + index * 8);
    table = entry & FRAME;
    yield { name, index, entry, next: table, shift };
  }
}

function hex(value: bigint): string {
  return `0x${value.toString(16)}`;
}
