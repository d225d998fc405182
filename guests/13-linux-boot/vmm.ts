// Lesson 13: a boot loader for Linux in forty lines, by its 32-bit boot protocol, tried on a kernel of our own.
// Linux Documentation/arch/x86/boot.rst (32-bit Boot Protocol), zero-page.rst (struct boot_params).
import { Bus, describeStop, GuestMemory, System, Vcpu } from 'microvisor';
import { buildLesson } from '../ladder/build.js';
import type { Guard } from '../ladder/lesson.js';

const RAM_BYTES = 4 << 20;
const DEBUG_PORT = 0xe9;

// Offsets in boot_params, which is a page; from SETUP_HEADER on they are those of the image's file as well.
const E820_ENTRIES = 0x1e8;
const SETUP_HEADER = 0x1f1;
const HEADER_LENGTH = 0x201;
const HEADER = 0x202;
const TYPE_OF_LOADER = 0x210;
const CODE32_START = 0x214;
const CMD_LINE_PTR = 0x228;
const E820_TABLE = 0x2d0;
const E820_ENTRY_BYTES = 20;
const HDRS = 0x5372_6448;
/** "No number of its own": what loaders write that kernel.org does not list. */
const UNDEFINED_LOADER = 0xff;

/** Our own choices, below the EBDA. */
const ZERO_PAGE = 0x7000;
const COMMAND_LINE = 0x2_0000;

/** A row of the memory map: 1 is usable, 2 is reserved. */
export interface E820Row {
  readonly base: number;
  readonly size: number;
  readonly type: number;
}

export interface BootRequest {
  /** A bzImage. */
  readonly image: Uint8Array;
  readonly cmdline: string;
  readonly e820: readonly E820Row[];
}

/** Where to start: EIP, and what ESI has to be. */
export interface BootEntry {
  readonly eip: number;
  readonly esi: number;
}

/** Puts a kernel and what it wants to know into memory. */
export type LoadKernel = (memory: Pick<GuestMemory, 'write'>, request: BootRequest) => BootEntry;

export const loadKernel: LoadKernel = (memory, { image, cmdline, e820 }) => {
  const file = new DataView(image.buffer, image.byteOffset, image.byteLength);
  if (file.getUint32(HEADER, true) !== HDRS) throw new Error('the image has no setup header');
  // "setup_sects: if this field contains 0, the real value is 4"; one more is the boot sector.
  const protectedMode = ((file.getUint8(SETUP_HEADER) || 4) + 1) * 512;
  const start = file.getUint32(CODE32_START, true);
  memory.write(start, image.subarray(protectedMode));

  // boot_params: zeros, then the setup header as it is in the file, then what the loader has to say.
  const page = new Uint8Array(4096);
  const params = new DataView(page.buffer);
  const headerEnd = HEADER + file.getUint8(HEADER_LENGTH);
  page.set(image.subarray(SETUP_HEADER, headerEnd), SETUP_HEADER);
  params.setUint8(TYPE_OF_LOADER, UNDEFINED_LOADER);
  params.setUint32(CMD_LINE_PTR, COMMAND_LINE, true);
  params.setUint8(E820_ENTRIES, e820.length);
  for (const [i, { base, size, type }] of e820.entries()) {
    const at = E820_TABLE + i * E820_ENTRY_BYTES;
    params.setBigUint64(at, BigInt(base), true);
    params.setBigUint64(at + 8, BigInt(size), true);
    params.setUint32(at + 16, type, true);
  }
  memory.write(COMMAND_LINE, Buffer.from(`${cmdline}\0`));
  memory.write(ZERO_PAGE, page);
  return { eip: start, esi: ZERO_PAGE };
};

/** The kernel of this lesson: its file is as a bzImage is, and its protected-mode part is made for 1 MiB. */
export function lessonKernel(): Uint8Array {
  return buildLesson('13-linux-boot', 0x10_0000 - 2 * 512);
}

export const E820: readonly E820Row[] = [
  { base: 0, size: 0x9_fc00, type: 1 },
  { base: 0x9_fc00, size: 0x6_0400, type: 2 },
  { base: 0x10_0000, size: RAM_BYTES - 0x10_0000, type: 1 },
];

/** Starts what `load` has loaded, in the state that boot.rst asks for; the exam gives it the student's, with a guard. */
export function boot(
  load: LoadKernel,
  request: BootRequest,
  guard: Guard = (_vcpu, run) => run(),
): { readonly text: string; readonly memory: GuestMemory } {
  using system = System.open();
  using vm = system.createVm();
  vm.setIdentityMapAddr(0xfffb_c000);
  vm.setTssAddr(0xfffb_d000);
  const memory = GuestMemory.create(RAM_BYTES);
  vm.setUserMemoryRegion({ slot: 0, guestPhysAddr: 0, memory: memory.window(0, RAM_BYTES) });
  const { eip, esi } = load(memory, request);

  // Lesson 5 in reverse: this time it is the VMM that makes the GDT, and sets the hidden parts as if they came from it.
  memory.write(0x500, new Uint8Array(new BigUint64Array([0n, 0n, 0xcf9b_0000_00ffffn, 0xcf93_0000_00ffffn]).buffer));
  const flat = { base: 0n, limit: 0xffff_ffff, present: 1, dpl: 0, db: 1, s: 1, l: 0, g: 1 };
  const code = { ...flat, selector: 0x10, type: 0xb };
  const data = { ...flat, selector: 0x18, type: 0x3 };
  using fd = vm.createVcpu(0);
  fd.setSregs({
    cs: code,
    ds: data,
    es: data,
    fs: data,
    gs: data,
    ss: data,
    gdt: { base: 0x500n, limit: 4 * 8 - 1 },
    cr0: fd.getSregs().cr0 | 1n,
  });
  fd.setRegs({ rip: BigInt(eip), rsi: BigInt(esi), rbp: 0n, rdi: 0n, rbx: 0n, rflags: 2n });

  let text = '';
  const pio = Bus.ports();
  pio.attach(DEBUG_PORT, 1, {
    name: 'debug console',
    read: () => DEBUG_PORT,
    write: (_offset, _size, byte) => void (text += String.fromCharCode(byte)),
  });
  const vcpu = new Vcpu({ fd, pio, mmio: Bus.mmio() });
  const stop = guard(fd, () => vcpu.run());
  if (stop.kind !== 'hlt') text += `(it ended with ${describeStop(stop)})\n`;
  return { text, memory };
}

export interface LinuxBootResult {
  readonly text: string;
}

export function runLinuxBoot({ output }: { readonly output: (text: string) => void }): LinuxBootResult {
  const request = { image: lessonKernel(), cmdline: 'console=ttyS0 lesson=13', e820: E820 };
  const { text } = boot(loadKernel, request);
  output(text);
  return { text };
}
