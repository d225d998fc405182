// Page walks over hand-made tables: every mode, page size and fault, and the fast walk against the full one.
// Intel SDM vol. 3A §4.3, §4.4, §4.5.
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { GuestMemory } from '../../../src/memory/guest-memory.js';
import { readLinear, translateLong, walk, type PagingRegisters } from '../../../src/vcpu/paging.js';

const PG = 1n << 31n;
const PSE = 1n << 4n;
const PAE = 1n << 5n;
const LA57 = 1n << 12n;
const LMA = 1n << 10n;
const NXE = 1n << 11n;
const NX = 1n << 63n;

const memory = (): GuestMemory => GuestMemory.create(16 * 65536);
const registers = (more: Partial<PagingRegisters>): PagingRegisters => ({
  cr0: PG,
  cr3: 0x1000n,
  cr4: 0n,
  efer: 0n,
  ...more,
});
const LONG = registers({ cr4: PAE, efer: LMA | NXE });

describe('walk', () => {
  it('with paging off the linear address is the physical one', () => {
    expect(walk(memory(), registers({ cr0: 1n }), 0x1_2345_6789n)).toMatchObject({ mode: 'none', gpa: 0x2345_6789 });
  });

  it('32-bit paging: 10 + 10 + 12 bits', () => {
    const ram = memory();
    ram.writeU32(0x1000 + 3 * 4, 0x2007);
    ram.writeU32(0x2000 + 5 * 4, 0x7003);
    expect(walk(ram, registers({}), 0x00c0_5abcn)).toMatchObject({
      mode: '32-bit',
      gpa: 0x7abc,
      pageSize: 4096,
      writeable: true,
      user: false,
      steps: [
        { name: 'PDE', entryGpa: 0x100c, entry: 0x2007n },
        { name: 'PTE', entryGpa: 0x2014, entry: 0x7003n },
      ],
    });
  });

  it('"If CR4.PSE = 1 and the PDE\'s PS flag is 1, the PDE maps a 4-MByte page", with PSE-36 bits', () => {
    const ram = memory();
    ram.writeU32(0x1004, 0x0040_0087 | (3 << 13));
    expect(walk(ram, registers({ cr4: PSE }), 0x0045_6789n)).toMatchObject({ gpa: 0x3_0045_6789, pageSize: 1 << 22 });
    expect(walk(ram, registers({}), 0x0045_6789n).pageSize).not.toBe(1 << 22);
  });

  it('PAE paging: 2 + 9 + 9 + 12 bits, CR3 aligned to 32 bytes', () => {
    const ram = memory();
    ram.writeU64(0x1020 + 8, 0x2001n);
    ram.writeU64(0x2000 + 2 * 8, 0x3007n);
    ram.writeU64(0x3000 + 7 * 8, 0x9000n | 5n | NX);
    const found = walk(ram, registers({ cr3: 0x1020n, cr4: PAE, efer: NXE }), 0x4040_7123n);
    expect(found).toMatchObject({ mode: 'PAE', gpa: 0x9123, user: true, writeable: false, executable: false });
  });

  it.each([
    [30, '1 GiB', 0x8000_0000n],
    [21, '2 MiB', 0x8060_0000n],
    [12, '4 KiB', 0x8060_5000n],
  ])('4-level paging: a page of 2^%i bytes (%s)', (shift, _name, frame) => {
    const ram = memory();
    ram.writeU64(0x1000 + 511 * 8, 0x2003n);
    ram.writeU64(0x2000 + 510 * 8, shift === 30 ? frame | 0x83n : 0x3003n);
    ram.writeU64(0x3000 + 511 * 8, shift === 21 ? frame | 0x83n : 0x4003n);
    ram.writeU64(0x4000 + 0x102 * 8, frame | 3n);
    const linear = 0xffff_ffff_bff0_2345n;
    const offset = linear & ((1n << BigInt(shift)) - 1n);
    const found = walk(ram, LONG, linear);
    expect(found).toMatchObject({ mode: '4-level', gpa: Number(frame | offset), pageSize: 2 ** shift });
    expect(translateLong(ram, false, 0x1000, 0, 0xbff0_2345, 0xffff_ffff)).toBe(found.gpa);
  });

  it('5-level paging reads a PML5E first', () => {
    const ram = memory();
    ram.writeU64(0x1000 + 1 * 8, 0x2003n);
    ram.writeU64(0x2000, 0x3003n);
    ram.writeU64(0x3000, 0x83n);
    const found = walk(ram, { ...LONG, cr4: PAE | LA57 }, 0x0001_0000_0000_1234n);
    expect(found).toMatchObject({ mode: '5-level', gpa: 0x1234 });
    expect(found.steps.map(({ name }) => name)).toEqual(['PML5E', 'PML4E', 'PDPTE']);
    expect(translateLong(ram, true, 0x1000, 0, 0x1234, 0x0001_0000)).toBe(0x1234);
  });

  it('names why an address is not mapped', () => {
    const ram = memory();
    expect(walk(ram, LONG, 0x0000_8000_0000_0000n).fault).toBe('not canonical');
    expect(walk(ram, LONG, 0n)).toMatchObject({ fault: 'not present', steps: [{ name: 'PML4E', entry: 0n }] });
    ram.writeU64(0x1000, 0x4000_0003n);
    expect(walk(ram, LONG, 0n).fault).toBe('entry outside RAM');
    expect(walk(ram, { ...LONG, cr3: 0xf_ffff_ffff_f000n }, 0n).fault).toBe('entry outside RAM');
  });

  it('rights of all levels are taken together', () => {
    const ram = memory();
    ram.writeU64(0x1000, 0x2007n);
    ram.writeU64(0x2000, 0x3005n);
    ram.writeU64(0x3000, 0x87n);
    expect(walk(ram, LONG, 0n)).toMatchObject({ writeable: false, user: true, executable: true });
  });

  it('the fast walk agrees with the full one on any tables and addresses', () => {
    const entry = fc.tuple(fc.integer({ min: 0, max: 15 }), fc.constantFrom(0n, 1n, 3n, 0x83n, 0x87n, NX | 7n));
    const tables = fc.array(entry, { minLength: 64, maxLength: 64 });
    const address = fc.bigInt({ min: 0n, max: (1n << 64n) - 1n });
    fc.assert(
      fc.property(tables, fc.boolean(), address, fc.bigInt({ min: 0n, max: 3n }), (entries, isLa57, wild, index) => {
        const ram = memory();
        // The first entries of each table lead anywhere; the address uses them by its index bits.
        for (const [i, [page, flags]] of entries.entries())
          ram.writeU64((i >> 2) * 0x1000 + (i & 3) * 8, (BigInt(page) << 12n) | flags);
        const indices = [12n, 21n, 30n, 39n, 48n].reduce((sum, shift) => sum | (index << shift), 0n);
        const linear = wild % 2n === 0n ? indices | (wild & 0xfffn) : wild;
        const full = walk(ram, { ...LONG, cr4: isLa57 ? PAE | LA57 : PAE }, linear);
        const low = Number(linear & 0xffff_ffffn);
        const fast = translateLong(ram, isLa57, 0x1000, 0, low, Number(linear >> 32n));
        if (full.fault !== 'not canonical') expect(fast).toBe(full.gpa ?? -1);
      }),
    );
  });
});

describe('readLinear', () => {
  it('follows the page tables page by page and stops where nothing is mapped', () => {
    const ram = memory();
    ram.writeU64(0x1000, 0x2003n);
    ram.writeU64(0x2000, 0x3003n);
    ram.writeU64(0x3000, 0x4003n);
    ram.writeU64(0x4000, 0x9003n);
    ram.writeU64(0x4008, 0x7003n);
    ram.fill(0x9000, 0x1000, 0xaa);
    ram.fill(0x7000, 0x1000, 0xbb);
    expect([...readLinear(ram, LONG, 0xffen, 4)]).toEqual([0xaa, 0xaa, 0xbb, 0xbb]);
    expect(readLinear(ram, LONG, 0x1ffen, 16)).toHaveLength(2);
    expect(readLinear(ram, LONG, 0x5000n, 16)).toHaveLength(0);
  });
});
