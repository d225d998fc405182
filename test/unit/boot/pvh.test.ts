// The PVH boot protocol: which files are entered by it, and what hvm_start_info says.
import { describe, expect, it } from 'vitest';
import { PVH_START_INFO } from '../../../src/memory/layout.js';
import type { GuestMemory } from '../../../src/memory/guest-memory.js';
import { boot, bootError, MIB, textAt } from '../../support/boot.js';
import { cpioArchive, elfImage, elfNote, linuxNote, pvhNote } from '../../support/images.js';

const CODE = new Uint8Array(64).fill(0xf4);
const START = 0x20_0008;

function kernel(notes: Uint8Array, bits: 32 | 64 = 64): Uint8Array {
  return elfImage({
    bits,
    entry: 0x20_0000n,
    segments: [
      { paddr: 0x20_0000n, bytes: CODE },
      { type: 4, paddr: 0n, bytes: notes },
    ],
  });
}
const BOTH_NOTES = new Uint8Array([...linuxNote(), ...pvhNote(START)]);

/** hvm_start_info at the offsets of start_info.h. */
function startInfo(memory: GuestMemory) {
  const u64 = (offset: number) => Number(memory.readU64(PVH_START_INFO + offset));
  const u32 = (offset: number) => memory.readU32(PVH_START_INFO + offset);
  return {
    magic: u32(0),
    version: u32(4),
    flags: u32(8),
    modules: u32(12),
    modlist: u64(16),
    cmdline: u64(24),
    rsdp: u64(32),
    memmap: u64(40),
    entries: u32(48),
  };
}

describe('the choice of the entry', () => {
  it('takes PVH for a kernel that has the note', () => {
    expect(boot(kernel(pvhNote(START))).plan.format).toBe('elf-pvh');
    expect(boot(kernel(pvhNote(START), 32)).plan.format).toBe('elf-pvh');
  });

  it('takes the 64-bit entry for Linux, and for an ELF file without the note', () => {
    expect(boot(kernel(BOTH_NOTES)).plan.format).toBe('elf-linux');
    expect(boot(kernel(elfNote('GNU', 3, [1, 2, 3]))).plan.format).toBe('elf-linux');
  });

  it('follows the caller', () => {
    expect(boot(kernel(BOTH_NOTES), { entry: 'pvh' }).plan.format).toBe('elf-pvh');
    expect(boot(kernel(pvhNote(START)), { entry: 'linux64' }).plan.format).toBe('elf-linux');
    expect(bootError(() => boot(kernel(linuxNote()), { entry: 'pvh' })).field).toBe('entry');
    expect(bootError(() => boot(kernel(linuxNote()), { entry: 'multiboot' })).field).toBe('entry');
  });
});

describe('the PVH entry', () => {
  it('"ebx: contains the physical memory address where the loader has placed the boot start info structure"', () => {
    const { plan } = boot(kernel(pvhNote(START)));
    expect(plan.entryState.regs).toMatchObject({ rip: BigInt(START), rbx: BigInt(PVH_START_INFO), rflags: 2n });
  });

  it('"cr0: bit 0 (PE) must be set … cr4: all bits are cleared"; "cs … base of 0 and a limit of 0xFFFFFFFF"', () => {
    const { mode, sregs } = boot(kernel(pvhNote(START))).plan.entryState;
    expect(mode).toBe('protected');
    expect(sregs.cr0 & 0x8000_0001n).toBe(1n);
    expect(sregs.cr4).toBe(0n);
    expect(sregs.cs).toMatchObject({ base: 0n, limit: 0xffff_ffff, db: 1, l: 0 });
    expect(sregs.tr).toMatchObject({ base: 0n, limit: 0x67, type: 0xb });
  });

  it('hands over command line, module, memory map and RSDP', () => {
    const rd = cpioArchive({ init: 'x' });
    const { memory, plan } = boot(kernel(pvhNote(START)), {
      cmdline: 'a b',
      firmware: 'both',
      initrd: { bytes: rd, name: 'rd' },
    });
    const info = startInfo(memory);
    expect(info).toMatchObject({ magic: 0x336e_c578, version: 1, flags: 0, modules: 1, rsdp: 0xe_0000 });
    expect(textAt(memory, info.cmdline)).toBe('a b');
    expect([Number(memory.readU64(info.modlist)), Number(memory.readU64(info.modlist + 8))]).toEqual([
      64 * MIB - 4096,
      rd.length,
    ]);
    expect(memory.read(64 * MIB - 4096, rd.length)).toEqual(rd);
    const map = Array.from({ length: info.entries }, (_, i) => {
      const at = info.memmap + i * 24;
      return { base: Number(memory.readU64(at)), size: Number(memory.readU64(at + 8)), type: memory.readU32(at + 16) };
    });
    expect(map).toEqual(plan.e820);
  });

  it('looks into an initrd only for Linux: what another kernel takes as its module is its own affair', () => {
    const initrd = { bytes: Uint8Array.of(1), name: 'rd' };
    expect(startInfo(boot(kernel(pvhNote(START)), { initrd }).memory).modules).toBe(1);
    expect(bootError(() => boot(kernel(BOTH_NOTES), { initrd, entry: 'pvh' })).file).toBe('rd');
  });

  it('says that there is no module when there is none', () => {
    expect(startInfo(boot(kernel(pvhNote(START))).memory)).toMatchObject({ modules: 0, modlist: 0 });
  });

  it('is refused when the note names an address outside the image', () => {
    expect(bootError(() => boot(kernel(pvhNote(0x30_0000)))).field).toBe('XEN_ELFNOTE_PHYS32_ENTRY');
  });
});
