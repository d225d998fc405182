// The state in which the boot processor starts, and the descriptors and page tables in memory that it refers to.
import { describe, expect, it } from 'vitest';
import type { BootState, Segment } from '../../../src/boot/boot-state.js';
import type { FlatMode } from '../../../src/boot/request.js';
import { BOOT_PML4 } from '../../../src/memory/layout.js';
import { boot } from '../../support/boot.js';

const HLT = new Uint8Array(64).fill(0xf4);

function enter(entry: FlatMode, load?: number): { state: BootState; memory: ReturnType<typeof boot>['memory'] } {
  const { plan, memory } = boot(HLT, { entry, load });
  return { state: plan.entryState, memory };
}

/** The parts of a descriptor in memory that the hidden part of a segment register must agree with. */
function descriptor(raw: bigint) {
  const bits = (from: bigint, count: bigint) => Number((raw >> from) & ((1n << count) - 1n));
  return {
    base: BigInt(bits(16n, 24n)) | (BigInt(bits(56n, 8n)) << 24n),
    limit: bits(0n, 16n) | (bits(48n, 4n) << 16),
    type: bits(40n, 4n),
    s: bits(44n, 1n),
    dpl: bits(45n, 2n),
    present: bits(47n, 1n),
    avl: bits(52n, 1n),
    l: bits(53n, 1n),
    db: bits(54n, 1n),
    g: bits(55n, 1n),
  };
}

describe('the boot GDT', () => {
  it.each(['protected', 'long'] as const)('holds in memory what the segment registers of %s mode hide', (mode) => {
    const { state, memory } = enter(mode);
    const { gdt } = state.sregs;
    const check = ({ selector, limit, unusable, ...fields }: Segment) => {
      expect(selector + 7).toBeLessThanOrEqual(gdt.limit);
      expect(unusable).toBe(0);
      const inMemory = descriptor(memory.readU64(Number(gdt.base) + selector));
      // With granularity the limit counts pages.
      expect(inMemory).toEqual({ ...fields, limit: limit >>> 12 });
    };
    check(state.sregs.cs);
    check(state.sregs.ds);
    check(state.sregs.ss);
    expect(memory.readU64(Number(gdt.base))).toBe(0n);
  });
});

describe('boot.rst, 64-bit boot protocol', () => {
  it('"__BOOT_CS … 0x10 … execute/read … __BOOT_DS … 0x18 … read/write"', () => {
    const { sregs } = enter('long').state;
    expect(sregs.cs).toMatchObject({ selector: 0x10, type: 0xb, l: 1, db: 0, base: 0n });
    for (const name of ['ds', 'es', 'ss'] as const) expect(sregs[name]).toMatchObject({ selector: 0x18, type: 0x3 });
  });

  it('"the CPU must be in 64-bit mode with paging enabled"', () => {
    const { sregs, regs } = enter('long').state;
    expect(sregs.cr0 & 0x8000_0001n).toBe(0x8000_0001n);
    expect(sregs.cr4 & 0x20n).toBe(0x20n);
    expect(sregs.efer).toBe(0x500n);
    expect(regs.rflags).toBe(2n);
  });

  it('maps the first 4 GiB to themselves, writable, with 2 MiB pages', () => {
    const { state, memory } = enter('long');
    expect(state.sregs.cr3).toBe(BigInt(BOOT_PML4));
    const ADDRESS = 0xf_ffff_ffff_f000n;
    for (const address of [0n, 0x20_0000n, 0x1234_5678n, 0xbfff_ffffn, 0xfee0_0000n, 0xffff_ffffn]) {
      const pml4e = memory.readU64(BOOT_PML4 + Number((address >> 39n) & 511n) * 8);
      const pdpte = memory.readU64(Number(pml4e & ADDRESS) + Number((address >> 30n) & 511n) * 8);
      const pde = memory.readU64(Number(pdpte & ADDRESS) + Number((address >> 21n) & 511n) * 8);
      expect([pml4e & 3n, pdpte & 3n, pde & 0x83n]).toEqual([3n, 3n, 0x83n]);
      expect((pde & ADDRESS) | (address & 0x1f_ffffn)).toBe(address);
    }
  });
});

describe('real mode', () => {
  it('enters a boot sector at 0000:7c00 with the stack below it, as a BIOS does', () => {
    const { regs, sregs } = enter('real').state;
    expect(sregs.cs).toMatchObject({ selector: 0, base: 0n, limit: 0xffff });
    expect(regs.rip).toBe(0x7c00n);
    expect(sregs.ss.base + regs.rsp).toBe(0x7c00n);
    expect(sregs.cr0 & 1n).toBe(0n);
    expect(sregs.idt).toEqual({ base: 0n, limit: 0x3ff });
  });

  it('enters an image elsewhere with its segment in CS, DS and ES', () => {
    const { regs, sregs } = enter('real', 0x1_2345).state;
    expect(sregs.cs).toMatchObject({ selector: 0x1234, base: 0x1_2340n });
    expect(sregs.ds).toMatchObject({ selector: 0x1234, base: 0x1_2340n });
    expect(regs.rip).toBe(5n);
  });
});
