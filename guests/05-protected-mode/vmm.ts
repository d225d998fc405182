// Lesson 5: the VMM gives a processor in real mode, and the guest takes it to protected mode by itself.
// KVM API 4.13 (KVM_GET_SREGS: the hidden parts of the segment registers); Intel SDM vol. 3A §3.4, §9.9.1.
import { Bus, describeStop, GuestMemory, System, Vcpu } from 'microvisor';
import { buildLesson } from '../ladder/build.js';

const ENTRY = 0x1000;
const RAM_BYTES = 4 << 20;
const DEBUG_PORT = 0xe9;
const FAR_AWAY = 0x20_0000;

export interface ProtectedModeResult {
  readonly text: string;
  /** CR0 bit 0, before and after. */
  readonly protection: readonly [before: boolean, after: boolean];
  readonly cs: { readonly selector: number; readonly base: bigint; readonly limit: number; readonly db: number };
  readonly fs: { readonly selector: number; readonly base: bigint; readonly limit: number };
  /** What the guest stored at 2 MiB, and through FS 16 bytes further. */
  readonly flat: number;
  readonly throughFs: number;
}

export function runProtectedMode({ output }: { readonly output: (text: string) => void }): ProtectedModeResult {
  using system = System.open();
  using vm = system.createVm();
  vm.setIdentityMapAddr(0xfffb_c000);
  vm.setTssAddr(0xfffb_d000);
  const memory = GuestMemory.create(RAM_BYTES);
  memory.write(ENTRY, buildLesson('05-protected-mode', ENTRY));
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
  fd.setSregs({ cs: { selector: 0, base: 0n } });
  fd.setRegs({ rip: BigInt(ENTRY), rflags: 2n });
  const before = fd.getSregs();
  const stop = new Vcpu({ fd, pio, mmio: Bus.mmio() }).run();
  if (stop.kind !== 'hlt') throw new Error(`lesson 5 ends with HLT, not with ${describeStop(stop)}`);

  // A segment register has a visible part, the selector, and a hidden one, which was copied from the descriptor when
  // the selector was loaded. Programs never see the hidden part; a VMM does.
  const after = fd.getSregs();
  const hex = (value: bigint | number): string => `0x${value.toString(16)}`;
  for (const name of ['cs', 'ds', 'fs'] as const) {
    const { selector, base, limit, db } = after[name];
    output(`${name}: selector ${hex(selector)}, base ${hex(base)}, limit ${hex(limit)}, ${db === 1 ? 32 : 16} bits\n`);
  }
  const flat = memory.readU32(FAR_AWAY);
  const throughFs = memory.readU32(FAR_AWAY + 0x10);
  output(`CR0 was ${hex(before.cr0)} and is ${hex(after.cr0)}; at 2 MiB lie ${hex(flat)} and ${hex(throughFs)}.\n`);
  return {
    text,
    protection: [(before.cr0 & 1n) !== 0n, (after.cr0 & 1n) !== 0n],
    cs: after.cs,
    fs: after.fs,
    flat,
    throughFs,
  };
}
