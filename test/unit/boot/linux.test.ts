// Linux as vmlinux and as bzImage: what startup_64 finds in memory and in its registers.
import { describe, expect, it } from 'vitest';
import { CMDLINE, HIGH_RAM_START, SETUP_DATA, ZERO_PAGE } from '../../../src/memory/layout.js';
import { GuestMemory } from '../../../src/memory/guest-memory.js';
import { checkBoot } from '../../../src/boot/load-image.js';
import { boot, bootError, MIB, requestFor, textAt } from '../../support/boot.js';
import { bzImageFile, cpioArchive, elfImage, linuxNote, pvhNote, u32 } from '../../support/images.js';

const TEXT = Uint8Array.from({ length: 200 }, (_, i) => (i * 7) & 0xff);
const DATA = new Uint8Array(50).fill(0xdd);
const ENTRY = 0x100_0010;
const VMLINUX = elfImage({
  entry: BigInt(ENTRY),
  segments: [
    { paddr: 0x100_0000n, vaddr: 0xffff_ffff_8100_0000n, bytes: TEXT },
    // As Linux' per-processor data: linked at virtual address 0.
    { paddr: 0x110_0000n, vaddr: 0n, bytes: DATA, memsz: 0x4000n },
    { type: 4, paddr: 0x100_0000n, bytes: new Uint8Array([...linuxNote(), ...pvhNote(0x100_0040)]) },
  ],
});
const INITRD = cpioArchive({ init: 'hello' });

/** Fields of the zero page, at the offsets of zero-page.rst and boot.rst. */
function zeroPage(memory: GuestMemory) {
  const u32At = (offset: number) => memory.readU32(ZERO_PAGE + offset);
  return {
    rsdp: memory.readU64(ZERO_PAGE + 0x70),
    extRamdisk: u32At(0xc0),
    bootFlag: memory.readU16(ZERO_PAGE + 0x1fe),
    header: u32At(0x202),
    version: memory.readU16(ZERO_PAGE + 0x206),
    loader: memory.readU8(ZERO_PAGE + 0x210),
    code32: u32At(0x214),
    ramdisk: u32At(0x218),
    ramdiskSize: u32At(0x21c),
    cmdline: u32At(0x228),
    cmdlineSize: u32At(0x238),
    setupData: memory.readU64(ZERO_PAGE + 0x250),
    e820: Array.from({ length: memory.readU8(ZERO_PAGE + 0x1e8) }, (_, i) => {
      const at = ZERO_PAGE + 0x2d0 + i * 20;
      return [Number(memory.readU64(at)), Number(memory.readU64(at + 8)), memory.readU32(at + 16)];
    }),
  };
}

describe('vmlinux', () => {
  it('"startup_64 at e_entry", "%rsi must hold the base address of the struct boot_params"', () => {
    const { plan } = boot(VMLINUX);
    expect(plan.format).toBe('elf-linux');
    expect(plan.entryState.mode).toBe('long');
    expect(plan.entryState.regs).toMatchObject({ rip: BigInt(ENTRY), rsi: BigInt(ZERO_PAGE) });
  });

  it('lies at its physical addresses, its bss zero', () => {
    const { memory, plan } = boot(VMLINUX);
    expect(memory.read(0x100_0000, TEXT.length)).toEqual(TEXT);
    expect(memory.read(0x110_0000, DATA.length)).toEqual(DATA);
    expect(memory.readU8(0x110_0000 + DATA.length)).toBe(0);
    expect(plan.placed).toContainEqual({ name: 'kernel segment 1', base: 0x110_0000, size: 0x4000 });
  });

  it('finds the command line, as UTF-8 with its NUL', () => {
    const { memory } = boot(VMLINUX, { cmdline: 'console=ttyS0 name=Zoë' });
    expect(zeroPage(memory).cmdline).toBe(CMDLINE);
    expect(textAt(memory, CMDLINE)).toBe('console=ttyS0 name=Zoë');
  });

  it('finds the initrd "as high as allowed", at a page, whole', () => {
    const { memory } = boot(VMLINUX, { initrd: { bytes: INITRD, name: 'rd' } });
    const { ramdisk, ramdiskSize, extRamdisk, loader } = zeroPage(memory);
    expect([ramdisk, ramdiskSize, extRamdisk, loader]).toEqual([64 * MIB - 4096, INITRD.length, 0, 0xff]);
    expect(memory.read(ramdisk, ramdiskSize)).toEqual(INITRD);
  });

  it('is told the memory map: conventional memory, EBDA, ACPI, RAM around the 32-bit hole', () => {
    const memory = GuestMemory.create(4096 * MIB);
    const { e820 } = checkBoot(memory.size, requestFor(VMLINUX));
    expect(e820.map(({ base, size, type }) => [base, size, type])).toEqual([
      [0, 0x9_fc00, 1],
      [0x9_fc00, 0x400, 2],
      [0xe_0000, 0x2_0000, 2],
      [0x10_0000, 0xc000_0000 - 0x10_0000, 1],
      [HIGH_RAM_START, 4096 * MIB - 0xc000_0000, 1],
    ]);
    expect(zeroPage(boot(VMLINUX).memory).e820).toEqual([
      [0, 0x9_fc00, 1],
      [0x9_fc00, 0x400, 2],
      [0xe_0000, 0x2_0000, 2],
      [0x10_0000, 63 * MIB, 1],
    ]);
  });

  it('does not see where one region of host memory ends and the next begins', () => {
    const { e820 } = checkBoot(16384 * MIB, requestFor(VMLINUX));
    expect(e820.at(-1)).toEqual({ base: HIGH_RAM_START, size: 16384 * MIB - 0xc000_0000, type: 1 });
  });

  it('finds random bytes in setup_data, as SETUP_RNG_SEED', () => {
    const rngSeed = Uint8Array.from({ length: 32 }, (_, i) => i + 1);
    const { memory } = boot(VMLINUX, { rngSeed });
    expect(zeroPage(memory).setupData).toBe(BigInt(SETUP_DATA));
    expect([memory.readU64(SETUP_DATA), memory.readU32(SETUP_DATA + 8), memory.readU32(SETUP_DATA + 12)]).toEqual([
      0n,
      9,
      32,
    ]);
    expect(memory.read(SETUP_DATA + 16, 32)).toEqual(rngSeed);
    expect(zeroPage(boot(VMLINUX).memory).setupData).toBe(0n);
  });

  it('finds the RSDP when there is one', () => {
    expect(zeroPage(boot(VMLINUX, { firmware: 'acpi' }).memory).rsdp).toBe(0xe_0000n);
    expect(zeroPage(boot(VMLINUX, { firmware: 'mptable' }).memory).rsdp).toBe(0n);
  });

  it.each([
    [2047, true],
    [2048, false],
  ])('keeps a command line of %d bytes: %s', (length, fits) => {
    const load = () => boot(VMLINUX, { cmdline: 'x'.repeat(length) });
    if (fits) expect(load().plan.format).toBe('elf-linux');
    else expect(bootError(load)).toMatchObject({ file: 'cmdline', field: 'cmdline_size' });
  });

  it('counts the command line in bytes, not characters', () => {
    expect(bootError(() => boot(VMLINUX, { cmdline: 'é'.repeat(1024) })).field).toBe('cmdline_size');
  });
});

describe('bzImage', () => {
  it('"64-bit entry point … 0x200", at the preferred address', () => {
    const { plan, memory } = boot(bzImageFile());
    expect(plan.format).toBe('bzimage');
    expect(plan.entryState.regs).toMatchObject({ rip: 0x100_0200n, rsi: BigInt(ZERO_PAGE) });
    expect(memory.read(0x100_0000, 0x1000).every((byte) => byte === 0x90)).toBe(true);
    expect(zeroPage(memory)).toMatchObject({ header: 0x5372_6448, version: 0x20f, loader: 0xff, code32: 0x100_0000 });
  });

  it('"init_size … amount of linear contiguous memory … needed", kept free of the initrd', () => {
    const { plan } = boot(bzImageFile(), { initrd: { bytes: new Uint8Array(MIB).fill(1), name: 'rd' } }, 20 * MIB);
    expect(plan.placed).toContainEqual({ name: 'kernel', base: 0x100_0000, size: 0x20_0000 });
    expect(plan.placed).toContainEqual({ name: 'initrd', base: 19 * MIB, size: MIB });
    expect(bootError(() => boot(bzImageFile(), {}, 17 * MIB)).field).toBe('init_size');
  });

  it('"initrd_addr_max … maximum address that may be occupied by the initial ramdisk"', () => {
    const image = bzImageFile({ fields: { 0x22c: u32(0x1ff_ffff) } });
    const { memory } = boot(image, { initrd: { bytes: INITRD, name: 'rd' } });
    expect(zeroPage(memory).ramdisk).toBe(0x1ff_f000);
  });

  it('puts an initrd above 4 GiB when low memory has no room and the kernel can take it there', () => {
    const initrd = { bytes: INITRD, name: 'rd' };
    const fields = { 0x22c: u32(0x10_0000) };
    const { placed } = checkBoot(4096 * MIB, requestFor(bzImageFile({ fields }), { initrd }));
    expect(placed.find(({ name }) => name === 'initrd')?.base).toBe(5120 * MIB - 4096);
    const low = bzImageFile({ fields: { ...fields, 0x236: [1, 0] } });
    expect(bootError(() => checkBoot(4096 * MIB, requestFor(low, { initrd })))).toMatchObject({
      file: 'rd',
      field: 'initrd',
    });
  });

  it('"cmdline_size … maximum size of the command line without the terminating zero"', () => {
    const image = bzImageFile({ fields: { 0x238: u32(255) } });
    expect(boot(image, { cmdline: 'x'.repeat(255) }).plan.format).toBe('bzimage');
    expect(bootError(() => boot(image, { cmdline: 'x'.repeat(256) })).message).toMatch(
      /256 bytes long, but this kernel takes 255/,
    );
  });

  it('aligns a relocatable kernel to kernel_alignment', () => {
    const image = bzImageFile({ fields: { 0x258: u32(0x100_1000) } });
    expect(boot(image).plan.entryState.regs.rip).toBe(0x120_0200n);
  });

  it('copies of the file only the setup header', () => {
    const image = bzImageFile({ fields: { 0x1ef: [0xff], 0x1e8: [77], 0x270: [0xee] } });
    const { memory } = boot(image);
    // 0x1ef is the sentinel: 0xff there would tell Linux to distrust the page.
    expect(memory.readU8(ZERO_PAGE + 0x1ef)).toBe(0);
    expect(zeroPage(memory).e820).toHaveLength(4);
    expect(memory.readU8(ZERO_PAGE + 0x270)).toBe(0);
  });

  it.each([
    ['version', { 0x206: [0x0b, 0x02] }],
    ['xloadflags', { 0x236: [0, 0] }],
    ['loadflags', { 0x211: [0] }],
    ['boot_flag', { 0x1fe: [0, 0] }],
    ['kernel_alignment', { 0x230: u32(0) }],
    ['kernel_alignment', { 0x230: u32(0x30_0000) }],
    ['syssize', { 0x1f4: u32(0) }],
    ['jump', { 0x201: [0] }],
    ['the kernel proper (setup_sects, syssize)', { 0x1f4: u32(0x1000) }],
    ['the kernel proper (setup_sects, syssize)', { 0x1f1: [255] }],
    ['init_size', { 0x260: u32(0xffff_ffff) }],
    ['init_size', { 0x258: [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff] }],
  ])('a bad %s is refused by name', (field, fields) => {
    expect(bootError(() => boot(bzImageFile({ fields })))).toMatchObject({ file: 'kernel.img', field });
  });
});
