// Whether this host is one on which a snapshot can go on: its processor has what the guest found, its KVM no new quirks.
// Intel SDM vol. 2A (CPUID), AMD APM vol. 3 appendix E; names of features as in Linux /proc/cpuinfo.
import { decodeCpuid, type CpuidEntry } from '../../kvm/entries.js';
import { ARCHITECTURE, type MachineState } from './state.js';

type Register = 'eax' | 'ebx' | 'ecx' | 'edx';

/** A register of CPUID in which each bit is a feature. */
interface FeatureRow {
  readonly leaf: number;
  readonly subleaf: number;
  readonly register: Register;
  /** The bits that a person may know by name. */
  readonly names?: Readonly<Record<number, string>>;
  /** Bits that say what software has switched on, not what the processor has. */
  readonly ignore?: number;
}

const OSXSAVE = 1 << 27;
const OSPKE = 1 << 4;

const FEATURE_ROWS: readonly FeatureRow[] = [
  {
    leaf: 1,
    subleaf: 0,
    register: 'ecx',
    ignore: OSXSAVE,
    names: {
      0: 'sse3',
      9: 'ssse3',
      12: 'fma',
      13: 'cx16',
      19: 'sse4_1',
      20: 'sse4_2',
      22: 'movbe',
      23: 'popcnt',
      25: 'aes',
      26: 'xsave',
      28: 'avx',
      30: 'rdrand',
    },
  },
  { leaf: 1, subleaf: 0, register: 'edx', names: { 25: 'sse', 26: 'sse2' } },
  {
    leaf: 7,
    subleaf: 0,
    register: 'ebx',
    names: {
      0: 'fsgsbase',
      3: 'bmi1',
      5: 'avx2',
      7: 'smep',
      8: 'bmi2',
      9: 'erms',
      10: 'invpcid',
      16: 'avx512f',
      18: 'rdseed',
      19: 'adx',
      20: 'smap',
      29: 'sha_ni',
    },
  },
  { leaf: 7, subleaf: 0, register: 'ecx', ignore: OSPKE, names: { 2: 'umip', 3: 'pku', 9: 'vaes', 16: 'la57' } },
  { leaf: 7, subleaf: 0, register: 'edx', names: { 4: 'fsrm' } },
  { leaf: 7, subleaf: 1, register: 'eax', names: { 4: 'avx_vnni' } },
  { leaf: 0xd, subleaf: 0, register: 'eax' },
  { leaf: 0xd, subleaf: 1, register: 'eax', names: { 0: 'xsaveopt', 1: 'xsavec', 3: 'xsaves' } },
  { leaf: 0x8000_0001, subleaf: 0, register: 'ecx', names: { 5: 'abm', 6: 'sse4a' } },
  { leaf: 0x8000_0001, subleaf: 0, register: 'edx', names: { 20: 'nx', 26: 'pdpe1gb', 27: 'rdtscp', 29: 'lm' } },
  { leaf: 0x8000_0008, subleaf: 0, register: 'ebx', names: { 0: 'clzero' } },
  { leaf: 0x4000_0001, subleaf: 0, register: 'eax', names: { 3: 'kvmclock', 24: 'kvmclock stable' } },
];

/** A TSC that ticks by more than this otherwise would make the guest's time wrong; a frequency is measured anew each boot. */
const TSC_TOLERANCE = 250 / 1_000_000;

/** @param quirks ids of those that this host has @returns why the snapshot cannot go on here, as a sentence */
export function hostProblem(state: MachineState, quirks: readonly string[]): string | undefined {
  const { architecture, vcpus, config } = state;
  if (architecture !== ARCHITECTURE)
    return `the snapshot is of a machine of architecture ${architecture}, not ${ARCHITECTURE}`;
  if (vcpus.length !== config.cpus) return `the snapshot has ${vcpus.length} vCPUs of a machine with ${config.cpus}`;
  const newQuirks = quirks.filter((quirk) => !state.quirks.includes(quirk));
  if (newQuirks.length === 0) return undefined;
  return `this host's KVM has quirks that the snapshot's host had not (${newQuirks.join(', ')}); boot the guest here`;
}

/**
 * Why the processor that a fresh vCPU is here cannot take over from the saved one.
 * @param here its CPUID table
 */
export function processorProblem(
  { cpuid }: MachineState['vcpus'][number],
  here: readonly CpuidEntry[],
  { processor }: MachineState['host'],
): string | undefined {
  const missing = missingFeatures(decodeCpuid(cpuid), here);
  if (missing.length === 0) return undefined;
  return (
    `this host's processor lacks features that the guest may use: ${missing.join(', ')}; ` +
    `the snapshot was made on ${processor || 'another processor'}`
  );
}

/** The snapshot's TSC frequency against that of a fresh vCPU here. */
export function tscProblem(saved: number, here: number): string | undefined {
  if (Math.abs(saved - here) <= here * TSC_TOLERANCE) return undefined;
  return `the TSC ticks with ${here} kHz on this host and did with ${saved} kHz where the snapshot was made; boot the guest here`;
}

function missingFeatures(theirs: readonly CpuidEntry[], ours: readonly CpuidEntry[]): string[] {
  if (vendorOf(theirs) !== vendorOf(ours)) return [`a processor by ${vendorOf(theirs)}`];
  return FEATURE_ROWS.flatMap(({ leaf, subleaf, register, names = {}, ignore = 0 }) => {
    const bits = registerOf(theirs, leaf, subleaf, register) & ~registerOf(ours, leaf, subleaf, register) & ~ignore;
    return Array.from({ length: 32 }, (_, bit) => bit)
      .filter((bit) => (bits & (1 << bit)) !== 0)
      .map((bit) => names[bit] ?? `CPUID 0x${leaf.toString(16)}.${subleaf} ${register.toUpperCase()} bit ${bit}`);
  });
}

function registerOf(entries: readonly CpuidEntry[], leaf: number, subleaf: number, register: Register): number {
  return entries.find((entry) => entry.function === leaf && entry.index === subleaf)?.[register] ?? 0;
}

function vendorOf(entries: readonly CpuidEntry[]): string {
  const words = new Uint32Array(
    (['ebx', 'edx', 'ecx'] as const).map((register) => registerOf(entries, 0, 0, register)),
  );
  return Buffer.from(words.buffer)
    .toString('latin1')
    .replaceAll(/[^ -~]/g, '?');
}
