// Lesson 2: a VMM with a device, written by hand: the loop around KVM_RUN, and the exit of an OUT.
// KVM API 4.10 (KVM_RUN), 5 (struct kvm_run, member io); Intel SDM vol. 1 §19 (I/O ports).
import { abi, EXIT_NAMES, GuestMemory, KVM_RUN_OFFSET, System } from 'microvisor';
import { buildLesson } from '../ladder/build.js';

const ENTRY = 0x1000;
const RAM_BYTES = 64 << 10;
const PORT = 0x3f8;
const EINTR = 4;

export interface PortOutputResult {
  readonly text: string;
  /** How often the guest came back because of its port. */
  readonly exits: number;
}

export function runPortOutput({ output }: { readonly output: (text: string) => void }): PortOutputResult {
  // All of this is lesson 1's.
  using system = System.open();
  using vm = system.createVm();
  vm.setIdentityMapAddr(0xfffb_c000);
  vm.setTssAddr(0xfffb_d000);
  const memory = GuestMemory.create(RAM_BYTES);
  memory.write(ENTRY, buildLesson('02-port-output', ENTRY));
  vm.setUserMemoryRegion({ slot: 0, guestPhysAddr: 0, memory: memory.window(0, RAM_BYTES) });
  using vcpu = vm.createVcpu(0);
  vcpu.setSregs({ cs: { selector: 0, base: 0n } });
  vcpu.setRegs({ rip: BigInt(ENTRY), rflags: 2n });

  // The whole run loop: enter, look why the guest came back, do what it asked for, enter again.
  const { view, u8 } = vcpu.run;
  const { io } = KVM_RUN_OFFSET;
  let text = '';
  let exits = 0;
  for (;;) {
    vcpu.enter();
    if (vcpu.lastErrno[0] === EINTR) continue;
    const reason = view.getUint32(KVM_RUN_OFFSET.exit_reason, true);
    if (reason === abi.KVM_EXIT_HLT) break;
    if (reason !== abi.KVM_EXIT_IO) throw new Error(`lesson 2 knows no exit ${EXIT_NAMES[reason] ?? reason}`);
    exits++;
    // Which port, and where in the shared mapping the byte lies: `data_offset` counts from the start of kvm_run.
    const port = view.getUint16(io.port, true);
    const letter = String.fromCharCode(u8[view.getUint32(io.data_offset, true)] as number);
    if (port !== PORT) continue;
    text += letter;
    output(letter);
  }
  output(`Those were ${exits} exits, one a letter.\n`);
  return { text, exits };
}
