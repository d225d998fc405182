// Runs the quirks' probes on a throwaway VM, and says what Linux must be told on a host that has some.
// KVM API 4.2, 4.7 (a VM and a vCPU of its own); the rows are in quirks.ts.
import type { System } from '../../kvm/system.js';
import { MicroGuest } from './micro-guest.js';
import { probeCpuid, QUIRKS, type KernelOption, type Quirk } from './quirks.js';

export interface QuirkFinding {
  readonly id: string;
  readonly symptom: string;
  readonly remedy: string;
  readonly present: boolean;
  readonly evidence: string;
}

/** Plain data. */
export interface QuirkReport {
  readonly findings: readonly QuirkFinding[];
  /** Wall time of all probes in milliseconds. */
  readonly milliseconds: number;
}

export interface ProbeOptions {
  /** Only the quirks that these need to know. Default: all. */
  readonly only?: Quirk['neededBy'];
}

/**
 * Probes on the calling thread; the VM is gone when it returns. Nothing is remembered.
 * @throws KvmError when a VM cannot be made at all
 */
export function probeQuirks(system: System, { only }: ProbeOptions = {}): QuirkReport {
  const start = performance.now();
  using guest = new MicroGuest(system, probeCpuid(system.supportedCpuid()));
  const present = new Set<string>();
  const findings: QuirkFinding[] = [];
  for (const { id, symptom, remedy, neededBy, probe } of QUIRKS) {
    if (only !== undefined && neededBy !== only) continue;
    const result = probe(guest, present);
    if (result.present) present.add(id);
    findings.push({ id, symptom, remedy, ...result });
  }
  return { findings, milliseconds: performance.now() - start };
}

/** Ids of the quirks that are there: what createAssist and configureVcpu take. */
export function presentQuirks({ findings }: QuirkReport): string[] {
  return findings.filter(({ present }) => present).map(({ id }) => id);
}

/**
 * What to put on the default guest's command line, one reason each, in the order of the table. Empty without quirks.
 * @param present ids of quirks that are there
 */
export function kernelOptionRows(present: readonly string[]): { readonly option: string; readonly why: string }[] {
  const rows = QUIRKS.filter(({ id }) => present.includes(id)).flatMap(({ kernelOptions }) => kernelOptions);
  const seen = new Set<string>();
  return rows.flatMap((row) => {
    const option = optionText(row);
    if (seen.has(option)) return [];
    seen.add(option);
    return [{ option, why: row.why }];
  });
}

/** The same as text, with one `clearcpuid=` for all features. */
export function kernelOptions(report: QuirkReport): string {
  const rows = kernelOptionRows(presentQuirks(report)).map(({ option }) => option);
  const features = rows
    .filter((option) => option.startsWith(CLEARCPUID))
    .map((option) => option.slice(CLEARCPUID.length));
  const others = rows.filter((option) => !option.startsWith(CLEARCPUID));
  return [...others, ...(features.length === 0 ? [] : [CLEARCPUID + features.join(',')])].join(' ');
}

const CLEARCPUID = 'clearcpuid=';

function optionText({ option }: KernelOption): string {
  return typeof option === 'string' ? option : CLEARCPUID + option.clearcpuid;
}
