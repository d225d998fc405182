// `microvisor check` on hosts that were made up: what each row concludes, and how the table looks.
import { describe, expect, test } from 'vitest';
import { CAPABILITY_ROWS } from '../../../src/cli/check-capabilities.js';
import type { HostFacts, KvmFact } from '../../../src/cli/check-facts.js';
import { checkHost, type CheckedRow, type CheckResult } from '../../../src/cli/check-rows.js';
import { formatCheck, wrap } from '../../../src/cli/check-table.js';

const FINDING = { id: 'int3', symptom: 'int3 ends the run', remedy: 'the assist', evidence: 'ran' };

type Answer = Extract<KvmFact, { apiVersion: number }>;

const KVM: Answer = {
  apiVersion: 12,
  capabilities: Object.fromEntries(CAPABILITY_ROWS.map(({ name }) => [name, 1])),
  quirks: { findings: [{ ...FINDING, present: false }], kernelOptions: '' },
};

/** An Intel host on which everything is as it should be. */
const GOOD: HostFacts = {
  nodeVersion: '20.19.0',
  kernelRelease: '6.1.0',
  cpuFlags: ['fpu', 'vmx'],
  cpuModel: 'A processor',
  modules: [
    { name: 'kvm', parameters: {} },
    { name: 'kvm_intel', parameters: { nested: 'Y' } },
  ],
  kvmAccess: 'ok',
  kvm: KVM,
  ksmRun: '1',
  transparentHugePages: 'always [madvise] never',
  hugePages: { total: 4, free: 3, sizeKiB: 2048 },
  tunAccess: 'ok',
};

function row(result: CheckResult, id: string): CheckedRow {
  const found = [...result.host, ...result.quirks].find((candidate) => candidate.id === id);
  if (found === undefined) throw new Error(`no row ${id}`);
  return found;
}

const check = (changes: Partial<HostFacts>): CheckResult => checkHost({ ...GOOD, ...changes });

describe('rows', () => {
  test('a host without fault: every row is ok', () => {
    const result = check({});
    expect(result.usable).toBe(true);
    expect([...result.host, ...result.quirks].filter(({ state }) => state !== 'ok')).toEqual([]);
  });

  test.each<[string, Partial<HostFacts>, string, RegExp, RegExp]>([
    ['no /dev/kvm', { kvmAccess: 'missing', kvm: { error: 'x' } }, 'dev-kvm', /no \/dev\/kvm/, /npm run svm-host/],
    [
      'no permission on it',
      { kvmAccess: 'forbidden', kvm: { error: 'x' } },
      'dev-kvm',
      /permission/,
      /usermod -aG kvm/,
    ],
    ['wrong API version', { kvm: { error: 'the KVM API has version 11' } }, 'api-version', /version 11/, /kernel/],
    ['an old Node', { nodeVersion: '20.18.3' }, 'node', /20\.18/, /20\.19/],
    ['an older Node', { nodeVersion: '18.30.0' }, 'node', /18\.30/, /20\.19/],
    [
      'a capability that is needed is missing',
      { kvm: { ...KVM, capabilities: { ...KVM.capabilities, KVM_CAP_IRQFD: 0 } } },
      'capabilities',
      /KVM_CAP_IRQFD/,
      /newer/,
    ],
    [
      'neither vmx nor svm, and no KVM',
      { cpuFlags: ['fpu'], modules: [], kvmAccess: 'missing', kvm: { error: 'x' } },
      'cpu-flags',
      /neither vmx nor svm/,
      /firmware/,
    ],
    ['no module and no KVM', { modules: [], kvmAccess: 'missing', kvm: { error: 'x' } }, 'modules', /none/, /modprobe/],
    ['no micro-guest runs', { kvm: { ...KVM, quirks: { error: 'KVM_RUN: EIO' } } }, 'quirks', /EIO/, /kernel/],
  ])('%s: no VM runs, and the row says what to do', (_, changes, id, found, remedy) => {
    const result = check(changes);
    expect(result.usable).toBe(false);
    expect(row(result, id)).toMatchObject({ state: 'bad', found: expect.stringMatching(found) as string });
    expect(row(result, id).remedy).toMatch(remedy);
  });

  test.each<[string, Partial<HostFacts>, string, RegExp]>([
    ['KVM without vmx and svm', { cpuFlags: ['hypervisor'] }, 'cpu-flags', /KVM works without/],
    ['a nested host', { cpuFlags: ['vmx', 'hypervisor'], modules: [] }, 'nested', /is a VM itself.*cannot run VMs/],
    [
      'nested switched off',
      { modules: [{ name: 'kvm_amd', parameters: { nested: '0' } }] },
      'nested',
      /cannot run VMs/,
    ],
    ['KSM off', { ksmRun: '0' }, 'ksm', /not running/],
    ['a kernel without KSM', { ksmRun: undefined }, 'ksm', /no effect/],
    ['huge pages off', { transparentHugePages: 'always madvise [never]' }, 'huge-pages', /never/],
    ['a kernel without them', { transparentHugePages: undefined, hugePages: undefined }, 'huge-pages', /no effect/],
    ['no /dev/net/tun', { tunAccess: 'missing' }, 'tun', /no \/dev\/net\/tun/],
    ['no permission on it', { tunAccess: 'forbidden' }, 'tun', /permission/],
    [
      'an optional capability is missing',
      { kvm: { ...KVM, capabilities: { ...KVM.capabilities, KVM_CAP_X86_SMM: 0 } } },
      'optional-capabilities',
      /KVM_CAP_X86_SMM/,
    ],
    [
      'a quirk',
      { kvm: { ...KVM, quirks: { findings: [{ ...FINDING, present: true }], kernelOptions: 'a=b' } } },
      'quirk:int3',
      /int3 ends the run/,
    ],
  ])('%s: a note, and VMs run all the same', (_, changes, id, found) => {
    const result = check(changes);
    expect(result.usable).toBe(true);
    expect(row(result, id)).toMatchObject({ state: 'note', found: expect.stringMatching(found) as string });
  });

  test('KVM built into the kernel has no modules, and that is fine', () => {
    expect(row(check({ modules: [] }), 'modules').state).toBe('ok');
  });

  test('every capability of the table is named in a row when all are missing', () => {
    const { host } = check({ kvm: { ...KVM, capabilities: {} } });
    const text = host.map(({ found }) => found).join(' ');
    for (const { name, counts } of CAPABILITY_ROWS) if (counts !== true) expect(text).toContain(name);
  });
});

describe('the table', () => {
  const bad = check({ kvmAccess: 'missing', kvm: { error: 'x' }, modules: [] });
  const quirky = check({
    kvm: {
      ...KVM,
      quirks: {
        findings: [{ ...FINDING, present: true, symptom: 'word '.repeat(60).trim() }],
        kernelOptions: 'a=b c=d',
      },
    },
  });

  test.each([
    ['a good host', check({})],
    ['a bad one', bad],
    ['one with quirks', quirky],
  ])('"readable in 80 columns", without control characters: %s', (_, result) => {
    const text = formatCheck(result, { columns: 80, colour: false });
    for (const line of text.split('\n')) expect(line.length).toBeLessThanOrEqual(80);
    // oxlint-disable-next-line no-control-regex
    expect(text).not.toMatch(/[\x00-\x09\x0b-\x1f\x7f]/);
  });

  test('colour changes nothing but colour', () => {
    const colours = formatCheck(bad, { columns: 80, colour: true });
    expect(colours).toContain('\x1b[31mBAD');
    // oxlint-disable-next-line no-control-regex
    expect(colours.replaceAll(/\x1b\[\d+m/g, '')).toBe(formatCheck(bad, { columns: 80, colour: false }));
  });

  test('its last line is the verdict', () => {
    const last = (result: CheckResult): string | undefined =>
      formatCheck(result, { columns: 80, colour: false }).trimEnd().split('\n').at(-1);
    expect(last(check({}))).toBe('VMs can run here.');
    expect(last(bad)).toMatch(/^VMs cannot run here: 2 of the points above are/);
    expect(last(quirky)).toMatch(/^VMs can run here; this KVM has 1 quirk,/);
  });

  test('wrap cuts at spaces, and words that are too long anywhere', () => {
    expect(wrap('aa bb cc', 5)).toEqual(['aa bb', 'cc']);
    expect(wrap('aaaaaaa b', 3)).toEqual(['aaa', 'aaa', 'a b']);
    expect(wrap('', 3)).toEqual(['']);
  });
});
