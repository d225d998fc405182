// Lesson 7: exceptions are the guest's own affair. KVM delivers them, and a VMM sees none; it reads the IDT as memory.
// Intel SDM vol. 3A §6.14.1 (64-bit gates); KVM API 4.13 (idt in struct kvm_sregs).
import { Bus, describeStop, ExitStatistics, GuestMemory, System, Vcpu } from 'microvisor';
import { buildLesson } from '../ladder/build.js';

const ENTRY = 0x1000;
const RAM_BYTES = 4 << 20;
const DEBUG_PORT = 0xe9;
/** The guest's own choices. */
const FOUND = 0x9000;
const FRAME = 0x20_0000;
const PRESENT = 0x8000;
const GATE_BYTES = 16;

/** A gate of the guest's IDT that is present. */
export interface Gate {
  readonly vector: number;
  readonly handler: bigint;
}

export interface ExceptionsResult {
  readonly text: string;
  readonly gates: readonly Gate[];
  /** What the page fault's handler found. */
  readonly errorCode: bigint;
  readonly cr2: bigint;
  readonly rip: bigint;
  /** The word at the frame that the handler mapped. */
  readonly stored: number;
  /** How often the guest came back to the VMM, for whatever reason. */
  readonly entries: number;
}

export function runExceptions({ output }: { readonly output: (text: string) => void }): ExceptionsResult {
  using system = System.open();
  using vm = system.createVm();
  vm.setIdentityMapAddr(0xfffb_c000);
  vm.setTssAddr(0xfffb_d000);
  const memory = GuestMemory.create(RAM_BYTES);
  memory.write(ENTRY, buildLesson('07-exceptions', ENTRY));
  vm.setUserMemoryRegion({ slot: 0, guestPhysAddr: 0, memory: memory.window(0, RAM_BYTES) });

  let text = '';
  const pio = Bus.ports();
  pio.attach(DEBUG_PORT, 1, {
    name: 'debug console',
    read: () => DEBUG_PORT,
    write: (_offset, _size, byte) => void (text += String.fromCharCode(byte)),
  });

  using fd = vm.createVcpu(0);
  fd.setCpuid2(system.supportedCpuid());
  fd.setSregs({ cs: { selector: 0, base: 0n } });
  fd.setRegs({ rip: BigInt(ENTRY), rflags: 2n });
  const statistics = new ExitStatistics(ExitStatistics.allocate());
  const stop = new Vcpu({ fd, pio, mmio: Bus.mmio(), statistics }).run();
  if (stop.kind !== 'hlt') throw new Error(`lesson 7 ends with HLT, not with ${describeStop(stop)}`);

  const gates = readGates(memory, fd.getSregs().idt);
  for (const { vector, handler } of gates) output(`vector ${vector} is handled at ${hex(handler)}\n`);
  const [errorCode, cr2, rip] = [memory.readU64(FOUND), memory.readU64(FOUND + 8), memory.readU64(FOUND + 16)];
  output(`The page fault came from ${hex(rip)}: address ${hex(cr2)}, error code ${hex(errorCode)}.\n`);
  const stored = memory.readU32(FRAME);
  output(`The guest printed ${JSON.stringify(text)}, and its frame has ${hex(BigInt(stored))}.\n`);
  // Two letters and the HLT. On a host with EPT or NPT there are none for the exceptions, here and everywhere.
  output(`It was entered ${statistics.entries} times: for its letters and its HLT, not for its exceptions.\n`);
  return { text, gates, errorCode, cr2, rip, stored, entries: statistics.entries };
}

/** The IDT as the guest wrote it: the handler's address lies in three pieces (SDM vol. 3A, figure 6-8). */
export function readGates(memory: GuestMemory, idt: { readonly base: bigint; readonly limit: number }): Gate[] {
  const gates: Gate[] = [];
  // The guest chooses where its IDT lies, and may choose badly.
  if (!memory.contains(Number(idt.base), idt.limit + 1)) return gates;
  for (let vector = 0; (vector + 1) * GATE_BYTES - 1 <= idt.limit; vector++) {
    const low = memory.readU64(Number(idt.base) + vector * GATE_BYTES);
    const high = BigInt(memory.readU32(Number(idt.base) + vector * GATE_BYTES + 8));
    if ((Number((low >> 32n) & 0xffffn) & PRESENT) === 0) continue;
    gates.push({ vector, handler: (low & 0xffffn) | ((low >> 48n) << 16n) | (high << 32n) });
  }
  return gates;
}

function hex(value: bigint): string {
  return `0x${value.toString(16)}`;
}
