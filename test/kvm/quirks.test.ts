// The quirk probes on this host, whatever it is: what they say agrees with what the same code does.
// The rows are in src/vcpu/assist/quirks.ts.
import { beforeAll, describe, expect, it } from 'vitest';
import { readdirSync } from 'node:fs';
import { System } from '../../src/kvm/system.js';
import {
  kernelOptionRows,
  kernelOptions,
  presentQuirks,
  probeQuirks,
  type QuirkReport,
} from '../../src/vcpu/assist/probe.js';
import { QUIRKS } from '../../src/vcpu/assist/quirks.js';
import { noKvm } from '../support/kvm.js';

describe.skipIf(noKvm)('probeQuirks', () => {
  let report: QuirkReport;
  let present: string[];

  beforeAll(() => {
    using system = System.open();
    report = probeQuirks(system);
    present = presentQuirks(report);
  });

  it('has a finding for each row, with evidence, as plain data', () => {
    expect(report.findings.map(({ id }) => id)).toEqual(QUIRKS.map(({ id }) => id));
    for (const { evidence } of report.findings) expect(evidence).not.toBe('');
    expect(JSON.parse(JSON.stringify(report))).toEqual(report);
  });

  it('"a host without quirks pays nothing": either kernel code is emulated, or no instruction is lacking', () => {
    const instructions = [
      'int3',
      'fwait',
      'clac',
      'stac',
      'popcnt',
      'cmpxchg16b',
      'xsave',
      'xrstor',
      'rdtscp',
      'int-n',
    ];
    const lacking = instructions.filter((id) => present.includes(id));
    if (present.includes('kernel-emulated')) expect(lacking).toContain('int3');
    else expect([...lacking, kernelOptions(report)]).toEqual(['']);
  });

  it('the remedy for syscall has the hardware breakpoints that it needs', () => {
    if (present.includes('syscall')) expect(present).not.toContain('hardware-breakpoint');
  });

  it('finds the same each time, and the selection for a run is part of it', () => {
    using system = System.open();
    const forRun = probeQuirks(system, { only: 'run' });
    const all = new Map(report.findings.map((finding) => [finding.id, finding.present]));
    for (const { id, present: isPresent } of forRun.findings) expect([id, isPresent]).toEqual([id, all.get(id)]);
    expect(forRun.findings.map(({ id }) => id)).toContain('syscall');
    expect(kernelOptions(forRun)).toBe(kernelOptions(report));
  });

  it('leaves no file descriptor behind', () => {
    using system = System.open();
    const before = openFiles();
    for (let i = 0; i < 5; i++) probeQuirks(system, { only: 'run' });
    expect(openFiles()).toBe(before);
  });
});

describe('kernelOptions', () => {
  const finding = (id: string) => ({ id, symptom: '', remedy: '', present: true, evidence: '' });

  it('is empty on a host without quirks', () => {
    expect(kernelOptions({ findings: [{ ...finding('int3'), present: false }], milliseconds: 0 })).toBe('');
    expect(kernelOptions({ findings: [], milliseconds: 0 })).toBe('');
  });

  it('has one clearcpuid= with each feature once, and a reason for each option', () => {
    const all = { findings: QUIRKS.map(({ id }) => finding(id)), milliseconds: 0 };
    const options = kernelOptions(all).split(' ');
    const cleared = options.filter((option) => option.startsWith('clearcpuid='));
    expect(cleared).toHaveLength(1);
    const features = cleared[0]?.slice('clearcpuid='.length).split(',') ?? [];
    expect(new Set(features).size).toBe(features.length);
    expect(features).toEqual(expect.arrayContaining(['smap', 'xsave', 'popcnt', 'rdtscp', 'erms', 'fsrm']));
    for (const { why } of kernelOptionRows(QUIRKS.map(({ id }) => id))) expect(why.length).toBeGreaterThan(10);
  });
});

function openFiles(): number {
  return readdirSync('/proc/self/fd').length;
}
