// Lesson 3: all that KVM_EXIT_IO carries: direction, size, port, count, and where the data lie.
// KVM API 4.10 (KVM_RUN), 5 (struct kvm_run, member io: "the kernel will complete the operation only after re-entering").
import { abi, EXIT_NAMES, GuestMemory, KVM_RUN_OFFSET, System } from 'microvisor';
import { buildLesson } from '../ladder/build.js';

const ENTRY = 0x1000;
const RAM_BYTES = 64 << 10;
const EINTR = 4;

/** One KVM_EXIT_IO. `rep ins` and `rep outs` transfer `count` items of `size` bytes in one exit. */
export interface PortExit {
  readonly port: number;
  readonly direction: 'in' | 'out';
  readonly size: number;
  readonly count: number;
}

/** A device on a port, a byte at a time. */
export interface ByteDevice {
  read(port: number): number;
  write(port: number, byte: number): void;
}

/** Serves one KVM_EXIT_IO: `kvmRun` is struct kvm_run with the data behind it, `io` the offsets of its member io. */
export type Serve = (kvmRun: DataView, io: typeof KVM_RUN_OFFSET.io, device: ByteDevice) => void;

// For OUT the data are the guest's. For IN we put them there, and KVM hands them to the guest when it is entered again.
export const serve: Serve = (kvmRun, io, device) => {
  const port = kvmRun.getUint16(io.port, true);
  const isOut = kvmRun.getUint8(io.direction) === abi.KVM_EXIT_IO_OUT;
  const bytes = kvmRun.getUint8(io.size) * kvmRun.getUint32(io.count, true);
  const start = kvmRun.getUint32(io.data_offset, true);
  for (let at = start; at < start + bytes; at++) {
    if (isOut) device.write(port, kvmRun.getUint8(at));
    else kvmRun.setUint8(at, device.read(port));
  }
};

export interface PortInputResult {
  readonly exits: readonly PortExit[];
  /** What the guest stored of what it read, behind its program. */
  readonly stored: string;
}

/** Runs the lesson's guest with any `serve`; the exam gives it the student's. */
export function runWith(serve: Serve, device: ByteDevice): PortInputResult {
  using system = System.open();
  using vm = system.createVm();
  vm.setIdentityMapAddr(0xfffb_c000);
  vm.setTssAddr(0xfffb_d000);
  const memory = GuestMemory.create(RAM_BYTES);
  memory.write(ENTRY, buildLesson('03-port-input', ENTRY));
  vm.setUserMemoryRegion({ slot: 0, guestPhysAddr: 0, memory: memory.window(0, RAM_BYTES) });
  using vcpu = vm.createVcpu(0);
  vcpu.setSregs({ cs: { selector: 0, base: 0n } });
  vcpu.setRegs({ rip: BigInt(ENTRY), rflags: 2n });

  const { view } = vcpu.run;
  const { io } = KVM_RUN_OFFSET;
  const exits: PortExit[] = [];
  for (;;) {
    vcpu.enter();
    if (vcpu.lastErrno[0] === EINTR) continue;
    const reason = view.getUint32(KVM_RUN_OFFSET.exit_reason, true);
    if (reason === abi.KVM_EXIT_HLT) break;
    if (reason !== abi.KVM_EXIT_IO) throw new Error(`lesson 3 knows no exit ${EXIT_NAMES[reason] ?? reason}`);
    exits.push({
      port: view.getUint16(io.port, true),
      direction: view.getUint8(io.direction) === abi.KVM_EXIT_IO_OUT ? 'out' : 'in',
      size: view.getUint8(io.size),
      count: view.getUint32(io.count, true),
    });
    serve(view, io, device);
  }
  const name = memory.window(0x2000, 256);
  return { exits, stored: Buffer.from(name.subarray(0, name.indexOf(0))).toString('latin1') };
}

/** Where the lesson's guest talks to its device. */
export const PORT = 0x3f8;

/** The device: it tells what is written, and answers reads with the length of a name and then its letters. */
export function nameDevice(name: string, tell: (letter: string) => void): ByteDevice {
  const answers = [name.length, ...Buffer.from(name)];
  return {
    // A bus with nobody at an address floats high.
    read: (port) => (port === PORT ? (answers.shift() ?? 0xff) : 0xff),
    write(port, byte) {
      if (port === PORT) tell(String.fromCharCode(byte));
    },
  };
}

export function runPortInput({ output }: { readonly output: (text: string) => void }): PortInputResult & {
  readonly text: string;
} {
  let text = '';
  const device = nameDevice('dear reader', (letter) => {
    text += letter;
    output(letter);
  });
  const result = runWith(serve, device);
  return { ...result, text };
}
