// What `microvisor check` looks at, read as it is: plain data, no judgement.
// proc(5), sysfs: Documentation/ABI/stable/sysfs-module, Documentation/admin-guide/mm/{ksm,transhuge,hugetlbpage}.rst.
import { accessSync, constants, readdirSync, readFileSync } from 'node:fs';
import { release } from 'node:os';
import { join } from 'node:path';
import * as abi from '../kvm/abi.js';
import { errorCode } from '../kvm/file-words.js';
import { System } from '../kvm/system.js';
import { kernelOptions, probeQuirks, type QuirkFinding } from '../vcpu/assist/probe.js';
import { CAPABILITY_ROWS } from './check-capabilities.js';

/** How a device node may be used. */
export type Access = 'ok' | 'missing' | 'forbidden';

export interface ModuleFact {
  readonly name: string;
  readonly parameters: Readonly<Record<string, string>>;
}

/** What the probes found, or why they could not be run. */
export type QuirkFacts =
  { readonly findings: readonly QuirkFinding[]; readonly kernelOptions: string } | { readonly error: string };

/** What the kvm device said, or why it could not be asked. */
export type KvmFact =
  | { readonly error: string }
  | {
      readonly apiVersion: number;
      /** By name; 0 means that the host lacks it. */
      readonly capabilities: Readonly<Record<string, number>>;
      readonly quirks: QuirkFacts;
    };

export interface HostFacts {
  readonly nodeVersion: string;
  readonly kernelRelease: string;
  /** Of the first processor; empty where /proc/cpuinfo cannot be read. */
  readonly cpuFlags: readonly string[];
  readonly cpuModel: string | undefined;
  readonly modules: readonly ModuleFact[];
  readonly kvmAccess: Access;
  readonly kvm: KvmFact;
  /** /sys/kernel/mm/ksm/run; undefined where the kernel has no KSM. */
  readonly ksmRun: string | undefined;
  /** /sys/kernel/mm/transparent_hugepage/enabled. */
  readonly transparentHugePages: string | undefined;
  /** Reserved huge pages, free of them, and the size of one in KiB. */
  readonly hugePages: { readonly total: number; readonly free: number; readonly sizeKiB: number } | undefined;
  readonly tunAccess: Access;
}

function readText(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8').trim();
  } catch {
    return undefined;
  }
}

function readAccess(path: string): Access {
  try {
    accessSync(path, constants.R_OK | constants.W_OK);
    return 'ok';
  } catch (error) {
    return errorCode(error) === 'ENOENT' ? 'missing' : 'forbidden';
  }
}

function readModules(): ModuleFact[] {
  const directory = '/sys/module';
  let names: string[];
  try {
    names = readdirSync(directory).filter((name) => name === 'kvm' || name.startsWith('kvm_'));
  } catch {
    return [];
  }
  return names.toSorted().map((name) => {
    const parameters: Record<string, string> = {};
    const folder = join(directory, name, 'parameters');
    let files: string[] = [];
    try {
      files = readdirSync(folder);
    } catch {
      // A module without parameters has no such folder.
    }
    for (const file of files.toSorted()) {
      const value = readText(join(folder, file));
      if (value !== undefined) parameters[file] = value;
    }
    return { name, parameters };
  });
}

/** `key : value` or `key: value` lines, the first of each key. */
function readTable(path: string): ReadonlyMap<string, string> {
  const rows = new Map<string, string>();
  for (const line of (readText(path) ?? '').split('\n')) {
    const colon = line.indexOf(':');
    const key = line.slice(0, colon).trim();
    if (colon > 0 && !rows.has(key)) rows.set(key, line.slice(colon + 1).trim());
  }
  return rows;
}

function readHugePages(): HostFacts['hugePages'] {
  const memory = readTable('/proc/meminfo');
  const number = (key: string): number => parseInt(memory.get(key) ?? '', 10);
  const [total, free, sizeKiB] = [number('HugePages_Total'), number('HugePages_Free'), number('Hugepagesize')];
  return Number.isNaN(total + free + sizeKiB) ? undefined : { total, free, sizeKiB };
}

function readQuirks(system: System): QuirkFacts {
  try {
    const report = probeQuirks(system);
    return { findings: report.findings, kernelOptions: kernelOptions(report) };
  } catch (error) {
    return { error: error instanceof Error ? error.message : String(error) };
  }
}

function readKvm(): KvmFact {
  try {
    using system = System.open();
    const numbers: Readonly<Record<string, unknown>> = abi;
    const capabilities: Record<string, number> = {};
    for (const { name } of CAPABILITY_ROWS) {
      const number = numbers[name];
      if (typeof number === 'number') capabilities[name] = system.checkExtension(number);
    }
    return { apiVersion: system.apiVersion, capabilities, quirks: readQuirks(system) };
  } catch (error) {
    return { error: error instanceof Error ? error.message : String(error) };
  }
}

/** Reads everything; nothing here throws because something is missing. */
export function readHostFacts(): HostFacts {
  const processor = readTable('/proc/cpuinfo');
  return {
    nodeVersion: process.versions.node,
    kernelRelease: release(),
    cpuFlags: (processor.get('flags') ?? '').split(' ').filter((flag) => flag !== ''),
    cpuModel: processor.get('model name'),
    modules: readModules(),
    kvmAccess: readAccess('/dev/kvm'),
    kvm: readKvm(),
    ksmRun: readText('/sys/kernel/mm/ksm/run'),
    transparentHugePages: readText('/sys/kernel/mm/transparent_hugepage/enabled'),
    hugePages: readHugePages(),
    tunAccess: readAccess('/dev/net/tun'),
  };
}
