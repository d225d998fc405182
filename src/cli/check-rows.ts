// What `microvisor check` concludes: one row per question, from the facts to a finding and its remedy. Pure.
// Our own; Intel SDM vol. 3 ch. 24 (VMX), AMD APM vol. 2 ch. 15 (SVM) for the processor flags.
import type { QuirkFinding } from '../vcpu/assist/probe.js';
import { CAPABILITY_ROWS } from './check-capabilities.js';
import type { Access, HostFacts, KvmFact } from './check-facts.js';

/** `ok`; `note`: VMs run, but something is worth knowing; `bad`: no VM runs here. */
export type FindingState = 'ok' | 'note' | 'bad';

export interface Finding {
  readonly state: FindingState;
  /** What was found, in words. */
  readonly found: string;
  /** What to do about it. */
  readonly remedy?: string;
}

export interface CheckedRow extends Finding {
  readonly id: string;
  readonly title: string;
  /** What a probe saw. */
  readonly evidence?: string;
}

interface CheckRow {
  readonly id: string;
  readonly title: string;
  find(facts: HostFacts): Finding;
}

const ok = (found: string): Finding => ({ state: 'ok', found });
const note = (found: string, remedy?: string): Finding =>
  remedy === undefined ? { state: 'note', found } : { state: 'note', found, remedy };
const bad = (found: string, remedy: string): Finding => ({ state: 'bad', found, remedy });

type AnsweringKvm = Exclude<KvmFact, { error: string }>;
const answers = (kvm: KvmFact): kvm is AnsweringKvm => 'apiVersion' in kvm;

/** A row that can only be answered by the kvm device. */
function ofKvm(find: (kvm: AnsweringKvm, facts: HostFacts) => Finding): (facts: HostFacts) => Finding {
  return (facts) => (answers(facts.kvm) ? find(facts.kvm, facts) : note('unknown: KVM could not be asked'));
}

const FLAGS = [
  { flag: 'vmx', name: 'vmx (Intel VT-x)' },
  { flag: 'svm', name: 'svm (AMD-V)' },
] as const;

const NODE_NEEDED = [20, 19] as const;

function nodeVersion({ nodeVersion }: HostFacts): Finding {
  const [major = 0, minor = 0] = nodeVersion.split('.').map(Number);
  const isEnough = major > NODE_NEEDED[0] || (major === NODE_NEEDED[0] && minor >= NODE_NEEDED[1]);
  return isEnough ? ok(nodeVersion) : bad(nodeVersion, `install Node ${NODE_NEEDED.join('.')} or newer`);
}

function processorFlags({ cpuFlags, kvm }: HostFacts): Finding {
  const names = FLAGS.filter(({ flag }) => cpuFlags.includes(flag)).map(({ name }) => name);
  if (names.length > 0) return ok(names.join(', '));
  if (answers(kvm)) return note('none (neither vmx nor svm), but KVM works without them: expect quirks, see below');
  return bad(
    'none: neither vmx nor svm',
    'switch virtualization on in the firmware, or in the settings of the VM that this machine is; ' +
      'without it, npm run svm-host -- COMMAND emulates a host',
  );
}

function modules({ modules, kvm }: HostFacts): Finding {
  const found = modules
    .map(({ name, parameters }) => {
      const list = Object.entries(parameters).map(([key, value]) => `${key}=${value}`);
      return list.length === 0 ? name : `${name} (${list.join(' ')})`;
    })
    .join(', ');
  if (found !== '') return ok(found);
  if (answers(kvm)) return ok('none listed: KVM is built into the kernel');
  return bad('none loaded', 'sudo modprobe kvm_intel, or kvm_amd on AMD processors');
}

const KVM_ACCESS: Readonly<Record<Access, Finding>> = {
  ok: ok('readable and writable'),
  missing: bad(
    'there is no /dev/kvm',
    'load the module (sudo modprobe kvm_intel or kvm_amd), in a container pass --device /dev/kvm; ' +
      'without any KVM, npm run svm-host -- COMMAND emulates a host',
  ),
  forbidden: bad('no permission', 'sudo usermod -aG kvm $USER and log in again; in a container pass --device /dev/kvm'),
};

function apiVersion({ kvm, kvmAccess }: HostFacts): Finding {
  if (answers(kvm)) return ok(String(kvm.apiVersion));
  return kvmAccess === 'ok' ? bad(kvm.error, 'use a Linux kernel with a working KVM') : note('unknown: see /dev/kvm');
}

const present = (kvm: AnsweringKvm, name: string): boolean => (kvm.capabilities[name] ?? 0) > 0;

function capabilities(kvm: AnsweringKvm): Finding {
  const rows = CAPABILITY_ROWS.filter(({ counts }) => counts !== true);
  const needed = rows.filter((row) => row.needed);
  const missing = needed.filter(({ name }) => !present(kvm, name)).map(({ name, why }) => `${name} (${why})`);
  if (missing.length > 0) return bad(`missing: ${missing.join(', ')}`, 'use a newer Linux kernel on this host');
  return ok(`all ${needed.length} that are needed`);
}

function optionalCapabilities(kvm: AnsweringKvm): Finding {
  const rows = CAPABILITY_ROWS.filter(({ needed, counts }) => !needed && counts !== true);
  const missing = rows.filter(({ name }) => !present(kvm, name)).map(({ name, why }) => `${name} (${why})`);
  return missing.length === 0 ? ok(`all ${rows.length}`) : note(`missing: ${missing.join(', ')}`);
}

function limits(kvm: AnsweringKvm): Finding {
  const rows = CAPABILITY_ROWS.filter(({ counts }) => counts === true);
  return ok(rows.map(({ name, why }) => `${why} ${kvm.capabilities[name] ?? 0}`).join(', '));
}

const isOn = (value: string | undefined): boolean => value === '1' || value === 'Y';

function nested({ modules, cpuFlags, kvm }: HostFacts): Finding {
  const inside = cpuFlags.includes('hypervisor') ? 'this machine is a VM itself; ' : '';
  const parameter = modules.map(({ parameters }) => parameters['nested']).find((value) => value !== undefined);
  const hasState = answers(kvm) && present(kvm, 'KVM_CAP_NESTED_STATE');
  if (isOn(parameter) && hasState) return ok(`${inside}guests may run VMs (nested=${parameter ?? ''})`);
  const remedy =
    parameter === undefined ? undefined : 'only where guests are to run VMs: reload the module with nested=1';
  return note(`${inside}guests cannot run VMs`, remedy);
}

function ksm({ ksmRun }: HostFacts): Finding {
  if (ksmRun === undefined) return note('not in this kernel: --mergeable has no effect');
  if (ksmRun === '1') return ok('running');
  return note(`not running (${ksmRun})`, 'only for --mergeable: echo 1 | sudo tee /sys/kernel/mm/ksm/run');
}

function hugePages({ transparentHugePages: transparent, hugePages: reserved }: HostFacts): Finding {
  const list =
    reserved === undefined
      ? ''
      : `; ${reserved.free} of ${reserved.total} reserved free (${reserved.sizeKiB} KiB each)`;
  const chosen = /\[(\w+)\]/.exec(transparent ?? '')?.[1];
  if (chosen === undefined) return note(`no transparent huge pages: --huge-pages has no effect${list}`);
  if (chosen !== 'never') return ok(`transparent: ${chosen}${list}`);
  return note(
    `transparent: never${list}`,
    'only for --huge-pages: echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled',
  );
}

function tun({ tunAccess }: HostFacts): Finding {
  if (tunAccess === 'ok') return ok('readable and writable');
  return tunAccess === 'missing'
    ? note('there is no /dev/net/tun', 'only for networks over TAP: sudo modprobe tun')
    : note('no permission', 'only for networks over TAP: let the user open /dev/net/tun');
}

const HOST_ROWS: readonly CheckRow[] = [
  { id: 'node', title: 'Node', find: nodeVersion },
  { id: 'kernel', title: 'Linux', find: ({ kernelRelease }) => ok(kernelRelease) },
  { id: 'cpu', title: 'processor', find: ({ cpuModel }) => ok(cpuModel ?? 'unknown') },
  { id: 'cpu-flags', title: 'virtualization', find: processorFlags },
  { id: 'modules', title: 'kvm modules', find: modules },
  { id: 'dev-kvm', title: '/dev/kvm', find: ({ kvmAccess }) => KVM_ACCESS[kvmAccess] },
  { id: 'api-version', title: 'KVM API', find: apiVersion },
  { id: 'capabilities', title: 'capabilities', find: ofKvm(capabilities) },
  { id: 'optional-capabilities', title: 'optional ones', find: ofKvm(optionalCapabilities) },
  { id: 'limits', title: 'limits', find: ofKvm(limits) },
  { id: 'nested', title: 'nested VMs', find: nested },
  { id: 'ksm', title: 'KSM', find: ksm },
  { id: 'huge-pages', title: 'huge pages', find: hugePages },
  { id: 'tun', title: '/dev/net/tun', find: tun },
];

function quirkRow({ id, symptom, remedy, present, evidence }: QuirkFinding): CheckedRow {
  const finding = present ? note(symptom, remedy) : ok('not here');
  return { id: `quirk:${id}`, title: id, ...finding, evidence };
}

/** The host's rows, and those of the quirks, which stay empty where KVM could not be asked. */
export interface CheckResult {
  readonly host: readonly CheckedRow[];
  readonly quirks: readonly CheckedRow[];
  /** Whether VMs can run here. */
  readonly usable: boolean;
  /** For the command line of a Linux guest; empty where none are needed. */
  readonly kernelOptions: string;
}

export function checkHost(facts: HostFacts): CheckResult {
  const host = HOST_ROWS.map((row): CheckedRow => ({ id: row.id, title: row.title, ...row.find(facts) }));
  const { kvm } = facts;
  const quirks = answers(kvm) ? probed(kvm) : [];
  const kernelOptions = answers(kvm) && 'kernelOptions' in kvm.quirks ? kvm.quirks.kernelOptions : '';
  return { host, quirks, kernelOptions, usable: [...host, ...quirks].every(({ state }) => state !== 'bad') };
}

function probed({ quirks }: AnsweringKvm): readonly CheckedRow[] {
  if ('error' in quirks) {
    const finding = bad(quirks.error, 'this KVM runs no guest of a few bytes: try another host or kernel');
    return [{ id: 'quirks', title: 'probing', ...finding }];
  }
  return quirks.findings.map(quirkRow);
}
