// Multiboot 1: the header's search, both ways to load, and what EBX points to.
import { describe, expect, it } from 'vitest';
import { boot, bootError, MIB, textAt } from '../../support/boot.js';
import { elfImage, multibootHeader, type MultibootSpec, u32 } from '../../support/images.js';

const AT = 0x10_0000;

function elf(spec: MultibootSpec = {}, bits: 32 | 64 = 32): Uint8Array {
  const bytes = new Uint8Array([...multibootHeader(spec), ...new Uint8Array(64).fill(0xf4)]);
  return elfImage({ bits, entry: BigInt(AT + 12), segments: [{ paddr: BigInt(AT), bytes, memsz: 0x3000n }] });
}

/** An image that loads by the addresses in its header, with 16 bytes in front of it. */
function kludge(change: Partial<Record<'header' | 'load' | 'loadEnd' | 'bssEnd' | 'entry', number>> = {}): Uint8Array {
  const { header = AT + 16, load = AT, loadEnd = 0, bssEnd = AT + 0x3000, entry = AT + 48 } = change;
  const image = new Uint8Array(128).fill(0xf4);
  image.set(multibootHeader({ flags: 0x1_0003, addresses: [header, load, loadEnd, bssEnd, entry] }), 16);
  return image;
}

describe('the multiboot header', () => {
  it.each([32, 64] as const)('is found in an ELF%d file, which is loaded by its program headers', (bits) => {
    const { plan, memory } = boot(elf({}, bits));
    expect(plan.format).toBe('multiboot');
    expect(plan.entryState.regs.rip).toBe(BigInt(AT + 12));
    expect(memory.readU32(AT)).toBe(0x1bad_b002);
  });

  it('"must be contained completely within the first 8192 bytes", "longword (32-bit) aligned", checksum zero', () => {
    const at = (offset: number) => {
      const image = new Uint8Array(16384);
      const addresses = [AT, AT - offset, 0, 0, AT + 40];
      image.set(multibootHeader({ flags: 0x1_0000, addresses }), offset);
      return image;
    };
    expect(boot(at(8192 - 12)).plan.format).toBe('multiboot');
    expect(bootError(() => boot(at(8192))).field).toBe('magic');
    expect(bootError(() => boot(at(4096 + 2))).field).toBe('magic');
    const spoiled = at(0);
    spoiled[8] = (spoiled[8] ?? 0) ^ 1;
    expect(bootError(() => boot(spoiled)).field).toBe('magic');
  });

  it('"bits 0–15 … indicate requirements"; an unknown one "must notify the user and fail"', () => {
    expect(bootError(() => boot(elf({ flags: 1 << 5 }))).message).toMatch(/features 0x20/);
    expect(boot(elf({ flags: 7 })).plan.format).toBe('multiboot');
    expect(boot(elf({ flags: 1 << 20 })).plan.format).toBe('multiboot');
  });

  it('bit 16: "the fields at offsets 12–28 … are valid"', () => {
    const { plan, memory } = boot(kludge());
    expect(plan.entryState.regs.rip).toBe(BigInt(AT + 48));
    expect(memory.readU32(AT + 16)).toBe(0x1bad_b002);
    expect(plan.placed).toContainEqual({ name: 'kernel', base: AT, size: 0x3000 });
    expect(boot(kludge({ loadEnd: AT + 64 })).memory.readU8(AT + 64)).toBe(0);
  });

  it.each([
    ['load_addr', { load: AT + 32 }],
    ['load_addr', { load: AT - 64 }],
    ['load_end_addr', { loadEnd: AT - 4 }],
    ['the loaded part (load_addr, load_end_addr)', { loadEnd: AT + 1000 }],
    ['bss_end_addr', { bssEnd: AT + 8 }],
    ['entry_addr', { entry: AT + 0x2000 }],
    ['load_addr', { header: 0xf000_0010, load: 0xf000_0000, bssEnd: 0xf000_1000, entry: 0xf000_0000 }],
  ])('%s is refused when it contradicts the others', (field, change) => {
    expect(bootError(() => boot(kludge(change)))).toMatchObject({ file: 'kernel.img', field });
  });
});

describe('the machine state', () => {
  it('"EAX must contain the magic value 0x2BADB002", protected mode without paging, interrupts off', () => {
    const { regs, sregs, mode } = boot(elf()).plan.entryState;
    expect(regs.rax).toBe(0x2bad_b002n);
    expect(mode).toBe('protected');
    expect(sregs.cr0 & 0x8000_0001n).toBe(1n);
    expect(regs.rflags & 0x2_0200n).toBe(0n);
    expect(sregs.cs).toMatchObject({ base: 0n, limit: 0xffff_ffff, type: 0xb });
    expect(sregs.ss).toMatchObject({ base: 0n, limit: 0xffff_ffff, type: 0x3 });
  });
});

describe('the information structure', () => {
  const module = new Uint8Array(5000).fill(0xab);
  const { memory, plan } = boot(elf(), { cmdline: 'a=1 b', initrd: { bytes: module, name: 'dir/rd.img' } });
  const info = Number(plan.entryState.regs.rbx);

  it('says which fields are valid: memory, command line, modules, map, loader name', () => {
    expect(memory.readU32(info)).toBe(0b10_0100_1101);
    expect(textAt(memory, memory.readU32(info + 64))).toBe('Microvisor');
  });

  it('mem_lower and mem_upper are "in kilobytes"', () => {
    expect([memory.readU32(info + 4), memory.readU32(info + 8)]).toEqual([639, 63 * 1024]);
  });

  it('the command line\'s "first word is the kernel\'s file name"', () => {
    expect(textAt(memory, memory.readU32(info + 16))).toBe('kernel.img a=1 b');
  });

  it('the name is one word whatever the file is called', () => {
    const { memory, plan } = boot(elf(), { kernel: { bytes: elf(), name: 'my kernel' }, cmdline: '' });
    expect(textAt(memory, memory.readU32(Number(plan.entryState.regs.rbx) + 16))).toBe('my_kernel');
  });

  it('has the initrd "as its one module with its string", at a page', () => {
    expect(memory.readU32(info + 20)).toBe(1);
    const mods = memory.readU32(info + 24);
    const [start, end] = [memory.readU32(mods), memory.readU32(mods + 4)];
    expect(start % 4096).toBe(0);
    expect(memory.read(start, end - start)).toEqual(module);
    expect(textAt(memory, memory.readU32(mods + 8))).toBe('dir/rd.img');
  });

  it('"size" of a map entry does not count itself; the entries are the memory map', () => {
    const length = memory.readU32(info + 44);
    const start = memory.readU32(info + 48);
    const entries = [];
    for (let at = start; at < start + length; at += memory.readU32(at) + 4)
      entries.push({
        base: Number(memory.readU64(at + 4)),
        size: Number(memory.readU64(at + 12)),
        type: memory.readU32(at + 20),
      });
    expect(entries).toEqual(plan.e820);
  });

  it('is not in page 0, nor inside the image, also where the image lies on its usual place', () => {
    const addresses = [0x2_0000, 0x2_0000, 0, 0x6_0000, 0x2_0020];
    const image = new Uint8Array(64);
    image.set(multibootHeader({ flags: 0x1_0000, addresses }));
    const { plan } = boot(image, { initrd: { bytes: module, name: 'rd' } });
    const base = Number(plan.entryState.regs.rbx);
    expect(base).toBeGreaterThanOrEqual(0x6_0000);
    expect(base).toBeLessThan(0x9_fc00);
  });

  it('refuses an initrd that does not fit', () => {
    const initrd = { bytes: new Uint8Array(2 * MIB), name: 'rd' };
    expect(bootError(() => boot(elf(), { initrd }, 2 * MIB))).toMatchObject({ file: 'rd', field: 'initrd' });
  });
});

it('u32 writes what the header needs', () => {
  expect(u32(0x1bad_b002)).toEqual([0x02, 0xb0, 0xad, 0x1b]);
});
