// The quirks of this host's KVM, probed once per boot of the host and kept in the user's cache directory.
// Probing costs tens of milliseconds of processor time, a second on an emulated host; the answer lasts until KVM changes.
import { mkdirSync, readdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import type { System } from '../kvm/system.js';
import { presentQuirks, probeQuirks, type QuirkReport } from '../vcpu/assist/probe.js';
import { QUIRKS } from '../vcpu/assist/quirks.js';
import { DEBUG_REGISTERS } from '../vcpu/guest-debug.js';
import type { DebugFacilities } from '../vcpu/gdb/points.js';

/** What must be as it was for a kept answer to hold: this boot, this KVM, this table of quirks. */
function hostKey(): string {
  const modules = readdirSync('/sys/module').filter((name) => name.startsWith('kvm'));
  const parts = [readText('/proc/sys/kernel/random/boot_id'), readText('/proc/version'), process.version];
  for (const name of modules) {
    parts.push(name, readText(`/sys/module/${name}/srcversion`));
    // A module that was loaded again may have other parameters.
    for (const parameter of readNames(`/sys/module/${name}/parameters`))
      parts.push(`${parameter}=${readText(`/sys/module/${name}/parameters/${parameter}`)}`);
  }
  return JSON.stringify([...parts, QUIRKS.filter(({ neededBy }) => neededBy === 'run').map(({ id }) => id)]);
}

/**
 * The quirks that a run needs to know. A cache that cannot be read or written only costs the probing.
 * @throws KvmError when a VM cannot be made at all
 */
export function hostQuirks(system: System): QuirkReport {
  const directory = join(process.env['XDG_CACHE_HOME'] || join(homedir(), '.cache'), 'microvisor');
  const file = join(directory, 'quirks.json');
  const key = hostKey();
  const kept = readKept(file);
  if (kept?.key === key) return kept.report;
  const report = probeQuirks(system, { only: 'run' });
  try {
    mkdirSync(directory, { recursive: true });
    // Renamed into place: two processes that probe at once both leave a whole file.
    writeFileSync(`${file}.${process.pid}`, JSON.stringify({ key, report }));
    renameSync(`${file}.${process.pid}`, file);
  } catch {
    // No home, a read-only one, a full disk: the next run probes again.
  }
  return report;
}

/** What a debugger can have of this host's KVM; probed each time, for debuggers are rare. */
export function debugFacilities(system: System, quirks: readonly string[]): DebugFacilities {
  const lacks = presentQuirks(probeQuirks(system, { only: 'debugger' }));
  const registers = lacks.includes('hardware-breakpoint') ? 0 : DEBUG_REGISTERS - (quirks.includes('syscall') ? 1 : 0);
  return {
    int3: !lacks.includes('breakpoint-exit'),
    realModeInt3: !quirks.includes('int3'),
    registers,
    watchpoints: registers > 0 && !lacks.includes('watchpoint'),
    steps: !lacks.includes('user-single-step'),
  };
}

function readKept(file: string): { readonly key: string; readonly report: QuirkReport } | undefined {
  try {
    return JSON.parse(readFileSync(file, 'utf8')) as { key: string; report: QuirkReport };
  } catch {
    return undefined;
  }
}

function readText(file: string): string {
  try {
    return readFileSync(file, 'utf8').trim();
  } catch {
    return '';
  }
}

function readNames(directory: string): readonly string[] {
  try {
    return readdirSync(directory);
  } catch {
    return [];
  }
}
