// Flat binaries: put where they were asked to be, entered there, refused where no guest can start.
import { describe, expect, it } from 'vitest';
import { BootError } from '../../../src/boot/errors.js';
import { loadImage } from '../../../src/boot/load-image.js';
import { boot, bootError, MIB, requestFor } from '../../support/boot.js';
import { GuestMemory } from '../../../src/memory/guest-memory.js';

const CODE = Uint8Array.from({ length: 300 }, (_, i) => i & 0xff);

describe('a flat binary', () => {
  it.each([
    ['real', 0x7c00],
    ['protected', 0x10_0000],
    ['long', 0x10_0000],
  ] as const)('in %s mode is "loaded and entered at … by default" %d', (entry, load) => {
    const { plan, memory } = boot(CODE, { entry });
    expect(plan.format).toBe('flat');
    expect(plan.entryState.mode).toBe(entry);
    expect(plan.entryState.regs.rip).toBe(BigInt(load));
    expect(memory.read(load, CODE.length)).toEqual(CODE);
    expect(plan.placed).toContainEqual({ name: 'flat binary', base: load, size: CODE.length });
  });

  it('is taken as it is, even when it looks like an ELF file', () => {
    const elf = Uint8Array.from([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1]);
    expect(boot(elf, { entry: 'real' }).plan.format).toBe('flat');
  });

  it('needs no more RAM than it uses: 64 KiB do for a boot sector', () => {
    const { plan } = boot(CODE, { entry: 'real', firmware: 'both' }, 65536);
    expect(plan.placed.some(({ name }) => name.startsWith('ACPI'))).toBe(false);
    expect(plan.e820).toEqual([{ base: 0, size: 65536, type: 1 }]);
  });

  it('finds the MP table and the EBDA where a firmware leaves them', () => {
    const { memory } = boot(CODE, { entry: 'protected', cpus: 2 });
    expect(memory.readU16(0x40e) * 16).toBe(0x9_fc00);
    expect(Buffer.from(memory.read(0x9_fc00, 4)).toString()).toBe('_MP_');
  });

  it('may lie over the tables that nobody promised it', () => {
    const image = new Uint8Array(MIB).fill(0x90);
    const { plan } = boot(image, { entry: 'real', load: 0x600, firmware: 'both' });
    expect(plan.placed.map(({ name }) => name)).toEqual(['BIOS data area', 'flat binary']);
  });

  it.each([Number.NaN, -1, 0.5, 2 ** 64, Infinity, 0x10_0000])('in real mode is not loaded at %d', (load) => {
    expect(bootError(() => boot(CODE, { entry: 'real', load }))).toMatchObject({ file: 'load', field: 'load' });
  });

  it.each([
    ['outside RAM', 0x1000_0000, /RAM is 0x0–0x3ffffff/],
    ['across the end of RAM', 64 * MIB - 8, /RAM/],
    ['above 4 GiB', 2 ** 32, /whole number from 0 to 0xffffffff/],
    ['on the boot GDT', 0x4f0, /lies on the boot GDT/],
    ['on the page tables', 0xa000, /lies on the boot page tables/],
  ])('%s is refused', (_, load, message) => {
    expect(bootError(() => boot(CODE, { entry: 'long', load })).message).toMatch(message);
  });

  it('takes no initrd', () => {
    const initrd = { bytes: CODE, name: 'rd' };
    expect(bootError(() => boot(CODE, { entry: 'long', initrd }))).toMatchObject({ file: 'rd', field: 'initrd' });
  });

  it('writes nothing when it is refused', () => {
    const memory = GuestMemory.create(MIB);
    expect(() => loadImage(memory, requestFor(CODE, { entry: 'long', load: 0xa000 }))).toThrow(BootError);
    expect(memory.read(0, MIB).every((byte) => byte === 0)).toBe(true);
  });
});
