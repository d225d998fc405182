// What CPUID tells the guest: KVM's supported set, edited by a table, a vCPU at a time.
// Intel SDM vol. 2A (CPUID), AMD APM vol. 3 appendix E; KVM API 4.46; Linux Documentation/virt/kvm/x86/cpuid.rst.
import { KVM_CPUID_FLAG_SIGNIFCANT_INDEX } from '../../kvm/abi.js';
import type { CpuidEntry } from '../../kvm/entries.js';

export interface CpuTopology {
  /** 0 is the boot processor; also the APIC id. */
  readonly index: number;
  /** Processors of the VM: cores of one thread each, in one package. */
  readonly cpus: number;
}

type Register = 'eax' | 'ebx' | 'ecx' | 'edx';
type Vendor = 'intel' | 'amd';

export interface CpuidEdit {
  readonly leaf: number;
  /** Left out: every subleaf. */
  readonly subleaf?: number;
  readonly register: Register;
  /** Left out: processors of both vendors. */
  readonly vendor?: Vendor;
  /** Left out: every host. Else only one with the quirk of this id. */
  readonly quirk?: string;
  readonly why: string;
  /** The register's new value; the result is taken as unsigned. */
  readonly edit: (value: number, topology: CpuTopology, entry: CpuidEntry) => number;
}

/** Bits of an APIC id that tell the cores of the package apart. */
function coreBits({ cpus }: CpuTopology): number {
  return Math.ceil(Math.log2(cpus));
}

/** Replaces the bits high … low of `value`. */
function field(value: number, high: number, low: number, bits: number): number {
  const mask = (2 ** (high - low + 1) - 1) * 2 ** low;
  return (value & ~mask) | ((bits * 2 ** low) & mask);
}

const setBit = (value: number, bit: number, isSet: boolean): number => field(value, bit, bit, isSet ? 1 : 0);

/** Leaves 4 and 0x8000001d: the last level is shared by the package, the others belong to one core. */
function cacheSharing(value: number, topology: CpuTopology): number {
  if ((value & 0x1f) === 0) return value;
  const level = (value >> 5) & 7;
  return field(value, 25, 14, level >= 3 ? 2 ** coreBits(topology) - 1 : 0);
}

export const CPUID_EDITS: readonly CpuidEdit[] = [
  {
    leaf: 0x1,
    register: 'ebx',
    why: 'initial APIC id, and the number of ids in the package',
    edit: (value, topology) => field(field(value, 31, 24, topology.index), 23, 16, 2 ** coreBits(topology)),
  },
  {
    leaf: 0x1,
    register: 'ecx',
    why: 'hypervisor bit: without it Linux finds no kvmclock and takes the machine for bare hardware',
    edit: (value) => setBit(value, 31, true),
  },
  {
    leaf: 0x1,
    register: 'ecx',
    why: 'TSC-deadline timer and x2APIC: the in-kernel APIC has both, KVM leaves the first to the VMM',
    edit: (value) => setBit(setBit(value, 24, true), 21, true),
  },
  {
    leaf: 0x1,
    register: 'ecx',
    why: 'no PMU: no PERF_CAPABILITIES',
    edit: (value) => setBit(value, 15, false),
  },
  {
    leaf: 0x1,
    register: 'edx',
    why: 'HTT says that the id count above means something',
    edit: (value, { cpus }) => setBit(value, 28, cpus > 1),
  },
  {
    leaf: 0x4,
    register: 'eax',
    why: 'which processors share a cache, and cores in the package',
    edit: (value, topology) =>
      (value & 0x1f) === 0 ? value : field(cacheSharing(value, topology), 31, 26, 2 ** coreBits(topology) - 1),
  },
  {
    leaf: 0x6,
    register: 'ecx',
    why: 'no energy-performance bias: KVM has no such MSR',
    edit: (value) => setBit(value, 3, false),
  },
  ...(['eax', 'ebx', 'ecx', 'edx'] as const).flatMap((register): CpuidEdit[] => [
    { leaf: 0xa, register, why: 'no PMU', edit: () => 0 },
    {
      leaf: 0x15,
      register,
      why: "a crystal of the host's would give Linux a wrong APIC timer rate; kvmclock tells the TSC's frequency",
      edit: () => 0,
    },
    { leaf: 0x16, register, why: "the host's nominal frequencies are not the guest's", edit: () => 0 },
  ]),
  {
    leaf: 0x8000_0001,
    register: 'ecx',
    vendor: 'amd',
    why: 'CmpLegacy: the ids in the package are cores, not threads',
    edit: (value, { cpus }) => setBit(value, 1, cpus > 1),
  },
  {
    leaf: 0x8000_0001,
    register: 'ecx',
    vendor: 'amd',
    why: 'no PMU: no core, northbridge and last-level-cache counters',
    edit: (value) => setBit(setBit(setBit(value, 23, false), 24, false), 28, false),
  },
  {
    leaf: 0x8000_0008,
    register: 'ecx',
    vendor: 'amd',
    why: 'cores in the package, and APIC id bits for them',
    edit: (value, topology) => field(field(value, 7, 0, topology.cpus - 1), 15, 12, coreBits(topology)),
  },
  {
    leaf: 0x8000_001d,
    register: 'eax',
    vendor: 'amd',
    why: 'which processors share a cache',
    edit: cacheSharing,
  },
  {
    leaf: 0x8000_001e,
    register: 'eax',
    vendor: 'amd',
    why: 'extended APIC id',
    edit: (_value, { index }) => index,
  },
  {
    leaf: 0x8000_001e,
    register: 'ebx',
    vendor: 'amd',
    why: 'core id, one thread a core',
    edit: (_value, { index }) => index,
  },
  { leaf: 0x8000_001e, register: 'ecx', vendor: 'amd', why: 'one node', edit: () => 0 },
  {
    leaf: 0x4000_0001,
    register: 'eax',
    quirk: 'vmcall',
    why: 'no PV_UNHALT, PV_SEND_IPI, PV_SCHED_YIELD: they are hypercalls, and a processor that makes one never goes on',
    edit: (value) => setBit(setBit(setBit(value, 7, false), 11, false), 13, false),
  },
];

/** Leaves of the extended topology; the second one only where the host's processor has it. */
const TOPOLOGY_LEAVES = [0xb, 0x1f];
const LEVEL_THREAD = 1;
const LEVEL_CORE = 2;

/** "KVMKVMKVM" in EBX, ECX, EDX; the leaf that says whether there are paravirtual features follows it. */
const KVM_SIGNATURE: CpuidEntry = {
  function: 0x4000_0000,
  index: 0,
  flags: 0,
  eax: 0x4000_0001,
  ebx: 0x4b4d_564b,
  ecx: 0x564b_4d56,
  edx: 0x4d,
};

/** The table for KVM_SET_CPUID2 of one vCPU on a host with `quirks`. `supported` is left as it is. */
export function guestCpuid(
  supported: readonly CpuidEntry[],
  topology: CpuTopology,
  quirks: readonly string[] = [],
): CpuidEntry[] {
  const vendor = vendorOf(supported);
  const maxLeaf = supported.find((entry) => entry.function === 0)?.eax ?? 0;
  const kept = supported.filter((entry) => !TOPOLOGY_LEAVES.includes(entry.function));
  const rows = CPUID_EDITS.filter(
    (row) =>
      (row.vendor === undefined || row.vendor === vendor) && (row.quirk === undefined || quirks.includes(row.quirk)),
  );
  const edited = kept.map((entry) => editEntry(entry, topology, rows));
  const topologyEntries = TOPOLOGY_LEAVES.filter((leaf) => leaf <= maxLeaf).flatMap((leaf) =>
    extendedTopology(leaf, topology),
  );
  const hasSignature = supported.some((entry) => entry.function === KVM_SIGNATURE.function);
  return [...edited, ...topologyEntries, ...(hasSignature ? [] : [KVM_SIGNATURE])];
}

function editEntry(entry: CpuidEntry, topology: CpuTopology, rows: readonly CpuidEdit[]): CpuidEntry {
  const result = { ...entry };
  for (const row of rows) {
    if (row.leaf !== entry.function || (row.subleaf ?? entry.index) !== entry.index) continue;
    result[row.register] = row.edit(result[row.register], topology, entry) >>> 0;
  }
  return result;
}

/** Subleaf 0: threads of a core (one); 1: cores of the package; 2: the end. EDX is the x2APIC id in all of them. */
function extendedTopology(leaf: number, topology: CpuTopology): CpuidEntry[] {
  const level = (index: number, eax: number, ebx: number, type: number): CpuidEntry => ({
    function: leaf,
    index,
    flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
    eax,
    ebx,
    ecx: (type << 8) | index,
    edx: topology.index,
  });
  return [level(0, 0, 1, LEVEL_THREAD), level(1, coreBits(topology), topology.cpus, LEVEL_CORE), level(2, 0, 0, 0)];
}

/** AMD's leaves are Hygon's too. */
function vendorOf(entries: readonly CpuidEntry[]): Vendor {
  const AUTH = 0x6874_7541;
  const HYGO = 0x6f67_7948;
  const ebx = entries.find((entry) => entry.function === 0)?.ebx;
  return ebx === AUTH || ebx === HYGO ? 'amd' : 'intel';
}
