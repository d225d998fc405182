// Lesson 2: a VMM with a device, written by hand: the loop around KVM_RUN, and what KVM_EXIT_IO carries.
// KVM API 4.10 (KVM_RUN), 5 (struct kvm_run, member io); Intel SDM vol. 1 §19 (I/O ports).
import { abi, EXIT_NAMES, GuestMemory, KVM_RUN_OFFSET, System, type VcpuFd } from '../../src/index.js';
import { assemble } from '../assemble.js';

const ENTRY = 0x1000;
const RAM_BYTES = 64 << 10;
const PORT = 0x3f8;
const EINTR = 4;

/** One KVM_EXIT_IO. `rep ins` and `rep outs` transfer `count` items of `size` bytes in one exit. */
export interface PortExit {
  readonly port: number;
  readonly direction: 'in' | 'out';
  readonly size: number;
  readonly count: number;
}

export interface PortHelloResult {
  readonly text: string;
  readonly exits: readonly PortExit[];
}

export function runPortHello({ output }: { readonly output: (text: string) => void }): PortHelloResult {
  using system = System.open();
  using vm = system.createVm();
  vm.setIdentityMapAddr(0xfffb_c000);
  vm.setTssAddr(0xfffb_d000);
  const memory = GuestMemory.create(RAM_BYTES);
  memory.write(ENTRY, assemble('02-port-hello', ENTRY));
  vm.setUserMemoryRegion({ slot: 0, guestPhysAddr: 0, memory: memory.window(0, RAM_BYTES) });
  using vcpu = vm.createVcpu(0);
  vcpu.setSregs({ cs: { selector: 0, base: 0n } });
  vcpu.setRegs({ rip: BigInt(ENTRY), rflags: 2n });

  // The device: it prints what is written, and answers reads with the length of a name and then its letters.
  const name = Buffer.from('dear reader');
  const answers = [name.length, ...name];
  let text = '';
  const device = {
    write(byte: number): void {
      text += String.fromCharCode(byte);
      output(String.fromCharCode(byte));
    },
    read: (): number => answers.shift() ?? 0xff,
  };

  // The whole run loop: enter, look why the guest came back, do what it asked for, enter again.
  const exits: PortExit[] = [];
  for (;;) {
    vcpu.enter();
    if (vcpu.lastErrno[0] === EINTR) continue;
    const reason = vcpu.run.view.getUint32(KVM_RUN_OFFSET.exit_reason, true);
    if (reason === abi.KVM_EXIT_HLT) return { text, exits };
    if (reason !== abi.KVM_EXIT_IO) throw new Error(`lesson 2 knows no exit ${EXIT_NAMES[reason] ?? reason}`);
    exits.push(serve(vcpu, device));
  }
}

// The data lie in the shared mapping, `data_offset` bytes from its start. For IN we put them there, and KVM hands them
// to the guest when it is entered again.
function serve(vcpu: VcpuFd, device: { write(byte: number): void; read(): number }): PortExit {
  const { view, u8 } = vcpu.run;
  const { io } = KVM_RUN_OFFSET;
  const exit: PortExit = {
    port: view.getUint16(io.port, true),
    direction: view.getUint8(io.direction) === abi.KVM_EXIT_IO_OUT ? 'out' : 'in',
    size: view.getUint8(io.size),
    count: view.getUint32(io.count, true),
  };
  const start = view.getUint32(io.data_offset, true);
  for (let at = start; at < start + exit.size * exit.count; at++) {
    if (exit.direction === 'in') u8[at] = exit.port === PORT ? device.read() : 0xff;
    else if (exit.port === PORT) device.write(u8[at] as number);
  }
  return exit;
}
