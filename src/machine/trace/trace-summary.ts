// What a recorded trace says, summed up: which exits took the time, when, and what each device did. Pure.
import { EXIT_NAMES } from '../../vcpu/observe/exit-names.js';
import type { TracedAccess, TracedExit } from '../../vcpu/observe/trace-reader.js';
import type { TraceDevice, TraceHeader, TraceRecord } from './trace-format.js';

/** All exits of one kind: of one reason, or of one port or address in one direction. */
export interface ExitKind {
  /** `out 0x3f8 COM1`, `KVM_EXIT_HLT`. */
  readonly name: string;
  count: number;
  /** Milliseconds from exit to entry: what serving them took. */
  totalMs: number;
  longestMs: number;
}

export interface DeviceActivity {
  readonly name: string;
  reads: number;
  writes: number;
  /** Of all items of all accesses. */
  bytes: number;
  /** Milliseconds since the trace's start. */
  firstMs: number;
  lastMs: number;
}

export interface TraceSummary {
  readonly exits: number;
  /** Exits that were not recorded because they were not read in time. */
  readonly lost: number;
  readonly durationMs: number;
  /** Milliseconds inside KVM_RUN, and outside, of all vCPUs together. */
  readonly insideMs: number;
  readonly outsideMs: number;
  /** In no order. */
  readonly kinds: readonly ExitKind[];
  readonly devices: readonly DeviceActivity[];
  /** By vCPU: exits in each of the equal parts into which the time is cut. */
  readonly timeline: readonly (readonly number[])[];
}

/** More different places than any guest touches in earnest; the rest share one kind. */
const KINDS_MAX = 10_000;
const OTHERS = 'others';

/** @param nameExit what the kind of an exit is called */
export function summarize(
  header: TraceHeader,
  records: () => Iterable<TraceRecord>,
  parts: number,
  nameExit: typeof exitName = exitName,
): TraceSummary {
  const { first, last } = spanOf(records());
  const ms = (cycles: number): number => cycles / header.tscKhz;
  const nameDevice = deviceNames(header.devices);
  const kinds = new Map<string, ExitKind>();
  const devices = new Map<string, DeviceActivity>();
  const timeline = Array.from({ length: header.cpus }, () => Array.from({ length: parts }, () => 0));
  const previous = new Map<number, { readonly kind: ExitKind; readonly exited: number }>();
  let exits = 0;
  let lost = 0;
  let inside = 0;
  let outside = 0;
  for (const item of records()) {
    if ('lost' in item) {
      lost += item.lost;
      // Between it and the next exit lies what nobody saw.
      previous.delete(item.vcpu);
      continue;
    }
    const { vcpu, exit } = item;
    exits++;
    inside += exit.exited - exit.entered;
    const before = previous.get(vcpu);
    if (before !== undefined) {
      const served = exit.entered - before.exited;
      outside += served;
      before.kind.totalMs += ms(served);
      before.kind.longestMs = Math.max(before.kind.longestMs, ms(served));
    }
    const kind = kindOf(kinds, nameExit(exit, nameDevice));
    kind.count++;
    previous.set(vcpu, { kind, exited: exit.exited });
    const part = last > first ? Math.min(Math.floor(((exit.exited - first) / (last - first)) * parts), parts - 1) : 0;
    const row = timeline[vcpu];
    if (row !== undefined) row[part] = (row[part] as number) + 1;
    if (exit.access !== undefined && exit.access.space !== 'msr')
      note(devices, nameDevice(exit.access.space, exit.access.address), exit.access, ms(exit.exited - first));
  }
  return {
    exits,
    lost,
    durationMs: ms(last - first),
    insideMs: ms(inside),
    outsideMs: ms(outside),
    kinds: [...kinds.values()],
    devices: [...devices.values()].toSorted((a, b) => b.reads + b.writes - (a.reads + a.writes)),
    timeline,
  };
}

/** The stamps of the first entry and of the last exit. */
export function spanOf(records: Iterable<TraceRecord>): { readonly first: number; readonly last: number } {
  let first = Infinity;
  let last = -Infinity;
  for (const item of records) {
    if ('lost' in item) continue;
    first = Math.min(first, item.exit.entered);
    last = Math.max(last, item.exit.exited);
  }
  return first > last ? { first: 0, last: 0 } : { first, last };
}

export type DeviceNames = (space: TracedAccess['space'], address: number) => string;

/** By address; `nobody` where no device lies. */
export function deviceNames(devices: readonly TraceDevice[]): DeviceNames {
  const known = new Map<string, string>();
  return (space, address) => {
    const key = `${space} ${address}`;
    const name =
      known.get(key) ??
      devices.find(
        (device) => device.space === space && address >= device.base && address < device.base + device.length,
      )?.name ??
      'nobody';
    if (known.size < KINDS_MAX) known.set(key, name);
    return name;
  };
}

/** The register that an access meets, by the specification's name; undefined where it has none, or is in no device. */
export function registerName(
  devices: readonly TraceDevice[],
  { space, address, isWrite }: Pick<TracedAccess, 'space' | 'address' | 'isWrite'>,
): string | undefined {
  const device = devices.find(
    (each) => each.space === space && address >= each.base && address < each.base + each.length,
  );
  const offset = address - (device?.base ?? 0);
  return device?.registers?.find(
    (register) =>
      offset >= register.offset &&
      offset < register.offset + register.size &&
      register.access !== (isWrite ? 'read' : 'write'),
  )?.name;
}

const VERBS = { port: ['in', 'out'], mmio: ['read', 'write'], msr: ['rdmsr', 'wrmsr'] } as const;

/** An exit's kind in a few words. */
export function exitName({ reason, access }: Pick<TracedExit, 'reason' | 'access'>, nameDevice: DeviceNames): string {
  if (access === undefined) return EXIT_NAMES[reason] ?? `exit reason ${reason}`;
  const verb = VERBS[access.space][access.isWrite ? 1 : 0];
  const owner = access.space === 'msr' ? '' : ` ${nameDevice(access.space, access.address)}`;
  return `${verb} 0x${access.address.toString(16)}${owner}`;
}

function kindOf(kinds: Map<string, ExitKind>, name: string): ExitKind {
  const shared = kinds.size < KINDS_MAX || kinds.has(name) ? name : OTHERS;
  const known = kinds.get(shared);
  if (known !== undefined) return known;
  const kind = { name: shared, count: 0, totalMs: 0, longestMs: 0 };
  kinds.set(shared, kind);
  return kind;
}

function note(devices: Map<string, DeviceActivity>, name: string, access: TracedAccess, ms: number): void {
  const device = devices.get(name) ?? { name, reads: 0, writes: 0, bytes: 0, firstMs: ms, lastMs: ms };
  devices.set(name, device);
  if (access.isWrite) device.writes++;
  else device.reads++;
  device.bytes += access.size * access.count;
  device.firstMs = Math.min(device.firstMs, ms);
  device.lastMs = Math.max(device.lastMs, ms);
}
