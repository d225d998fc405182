// The CPUID table over made-up supported sets of both vendors.
// Intel SDM vol. 2A (CPUID), AMD APM vol. 3 appendix E.
import { describe, expect, it } from 'vitest';
import type { CpuidEntry } from '../../../src/kvm/entries.js';
import { CPUID_EDITS, guestCpuid } from '../../../src/vcpu/cpu-model/cpuid.js';

const entry = (leaf: number, index: number, values: Partial<CpuidEntry> = {}): CpuidEntry => ({
  function: leaf,
  index,
  flags: 0,
  eax: 0,
  ebx: 0,
  ecx: 0,
  edx: 0,
  ...values,
});
const INTEL = { ebx: 0x756e_6547, edx: 0x4965_6e69, ecx: 0x6c65_746e };
const AMD = { ebx: 0x6874_7541, edx: 0x6974_6e65, ecx: 0x444d_4163 };

const intel: readonly CpuidEntry[] = [
  entry(0, 0, { eax: 0x1f, ...INTEL }),
  entry(1, 0, { ebx: 0xff40_0800, ecx: 0x0000_8201, edx: 0x1fcb_fbff }),
  entry(4, 0, { eax: 0xfc00_4121, flags: 1 }),
  entry(4, 3, { eax: 0xfc1f_c163, flags: 1 }),
  entry(4, 4, { flags: 1 }),
  entry(6, 0, { eax: 4, ecx: 9 }),
  entry(0xa, 0, { eax: 0x0830_0802, edx: 0x603 }),
  entry(0xb, 0, { eax: 7, ebx: 99, edx: 200, flags: 1 }),
  entry(0x15, 0, { eax: 2, ebx: 200, ecx: 25_000_000 }),
  entry(0x16, 0, { eax: 2500 }),
  entry(0x8000_0001, 0, { ecx: 0x121 }),
  entry(0x4000_0000, 0, { eax: 0x4000_0001, ebx: 0x4b4d_564b, ecx: 0x564b_4d56, edx: 0x4d }),
];
const amd: readonly CpuidEntry[] = [
  entry(0, 0, { eax: 0x10, ...AMD }),
  entry(1, 0, { ebx: 0x0002_0800, edx: 0x178b_fbff }),
  entry(0x8000_0001, 0, { ecx: 0x11c0_0391 }),
  entry(0x8000_0008, 0, { eax: 0x3030, ecx: 0x7001 }),
  entry(0x8000_001d, 0, { eax: 0x0000_0121, flags: 1 }),
  entry(0x8000_001d, 3, { eax: 0x0000_4163, flags: 1 }),
  entry(0x8000_001e, 0, { eax: 77, ebx: 0x177, ecx: 0x701 }),
];

const find = (entries: readonly CpuidEntry[], leaf: number, index = 0): CpuidEntry => {
  const found = entries.filter((row) => row.function === leaf && row.index === index);
  expect(found).toHaveLength(1);
  return found[0] as CpuidEntry;
};

describe('guestCpuid', () => {
  it('always sets the hypervisor bit, x2APIC and the TSC-deadline timer', () => {
    for (const supported of [intel, amd])
      for (const cpus of [1, 4]) {
        const { ecx } = find(guestCpuid(supported, { index: 0, cpus }), 1);
        expect([(ecx >>> 31) & 1, (ecx >>> 24) & 1, (ecx >>> 21) & 1, (ecx >>> 15) & 1]).toEqual([1, 1, 1, 0]);
      }
  });

  it('gives each vCPU its APIC id in leaves 1, 0xb and 0x1f, and in 0x8000001e on AMD', () => {
    for (const index of [0, 2, 5]) {
      const cpuid = guestCpuid(intel, { index, cpus: 6 });
      expect(find(cpuid, 1).ebx >>> 24).toBe(index);
      for (const leaf of [0xb, 0x1f]) for (const level of [0, 1, 2]) expect(find(cpuid, leaf, level).edx).toBe(index);
      const other = guestCpuid(amd, { index, cpus: 6 });
      expect(find(other, 0x8000_001e)).toMatchObject({ eax: index, ebx: index, ecx: 0 });
    }
  });

  it.each([
    [1, 0],
    [2, 1],
    [3, 2],
    [4, 2],
    [8, 3],
  ])('%i processors are cores of one package with %i bits of APIC id', (cpus, bits) => {
    const cpuid = guestCpuid(intel, { index: 0, cpus });
    expect(find(cpuid, 0xb, 0)).toMatchObject({ eax: 0, ebx: 1, ecx: 0x100 });
    expect(find(cpuid, 0xb, 1)).toMatchObject({ eax: bits, ebx: cpus, ecx: 0x201 });
    expect(find(cpuid, 0xb, 2)).toMatchObject({ eax: 0, ebx: 0, ecx: 2 });
    expect((find(cpuid, 1).ebx >>> 16) & 0xff).toBe(2 ** bits);
    expect((find(cpuid, 1).edx >>> 28) & 1).toBe(cpus > 1 ? 1 : 0);
    const other = guestCpuid(amd, { index: 0, cpus });
    expect(find(other, 0x8000_0008).ecx & 0xf0ff).toBe((bits << 12) | (cpus - 1));
    expect((find(other, 0x8000_0001).ecx >>> 1) & 1).toBe(cpus > 1 ? 1 : 0);
  });

  it('the first cache levels belong to a core, the last to the package; an end marker stays one', () => {
    const cpuid = guestCpuid(intel, { index: 1, cpus: 4 });
    expect((find(cpuid, 4, 0).eax >>> 14) & 0xfff).toBe(0);
    expect((find(cpuid, 4, 3).eax >>> 14) & 0xfff).toBe(3);
    expect(find(cpuid, 4, 0).eax >>> 26).toBe(3);
    expect(find(cpuid, 4, 4).eax).toBe(0);
    const other = guestCpuid(amd, { index: 1, cpus: 4 });
    expect((find(other, 0x8000_001d, 3).eax >>> 14) & 0xfff).toBe(3);
    expect((find(other, 0x8000_001d, 0).eax >>> 14) & 0xfff).toBe(0);
  });

  it('shows no PMU, no crystal frequency and no energy bias', () => {
    const cpuid = guestCpuid(intel, { index: 0, cpus: 1 });
    for (const leaf of [0xa, 0x15, 0x16]) expect(find(cpuid, leaf)).toMatchObject({ eax: 0, ebx: 0, ecx: 0, edx: 0 });
    expect(find(cpuid, 6)).toMatchObject({ eax: 4, ecx: 1 });
    expect(find(guestCpuid(amd, { index: 0, cpus: 1 }), 0x8000_0001).ecx).toBe(0x0040_0391);
  });

  it("AMD's rows leave an Intel processor's leaves alone", () => {
    expect(find(guestCpuid(intel, { index: 0, cpus: 4 }), 0x8000_0001).ecx).toBe(0x121);
  });

  it('keeps the KVM signature, or adds it', () => {
    const signature = { ebx: 0x4b4d_564b, ecx: 0x564b_4d56, edx: 0x4d };
    expect(find(guestCpuid(intel, { index: 0, cpus: 1 }), 0x4000_0000)).toMatchObject(signature);
    expect(find(guestCpuid(amd, { index: 0, cpus: 1 }), 0x4000_0000)).toMatchObject(signature);
  });

  it('has topology leaves only up to the highest leaf, values of 32 bits, and leaves its argument alone', () => {
    const before = structuredClone(amd);
    const cpuid = guestCpuid(amd, { index: 254, cpus: 255 });
    expect(amd).toEqual(before);
    expect(cpuid.some((row) => row.function === 0x1f)).toBe(false);
    for (const row of cpuid) for (const value of [row.eax, row.ebx, row.ecx, row.edx]) expect(value).toBe(value >>> 0);
  });

  it('each edit says why', () => {
    for (const { why } of CPUID_EDITS) expect(why).not.toBe('');
  });

  it('"vmcall at CPL0 may never complete": no feature that is a hypercall is offered there, and only there', () => {
    const features = { function: 0x4000_0001, index: 0, flags: 0, eax: 0xffff, ebx: 0, ecx: 0, edx: 0 };
    const eax = (quirks: readonly string[]): number =>
      find(guestCpuid([...intel, features], { index: 0, cpus: 2 }, quirks), 0x4000_0001).eax;
    expect(eax([])).toBe(0xffff);
    // PV_UNHALT 7, PV_SEND_IPI 11, PV_SCHED_YIELD 13
    expect(eax(['vmcall'])).toBe(0xffff & ~((1 << 7) | (1 << 11) | (1 << 13)));
  });
});
