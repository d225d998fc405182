// The state of a saved machine, all but its RAM: the types, and the check of what a file says. A file is like a guest's
// word: whoever made it may have chosen every value. Sizes, counts and forms are checked here, meanings by who uses them.
// Our own; the kernel's structures inside are those of KVM API chapter 4.
import * as v from 'valibot';
import { STATE_NAMES, STATE_ROWS, type SavedVcpu, type StateName } from '../../vcpu/saved-vcpu.js';
import { LIMITS } from '../config.js';

export const ARCHITECTURE = 'x86_64';

const U32_MAX = 0xffff_ffff;
/** What a list may have at most, where nothing else bounds it. */
const MANY = 1 << 16;
const IRQCHIP_BYTES = 512;
const PIT_BYTES = 112;

// Without a prototype: valibot looks its keys up by `in`, and would take `constructor` and `__proto__` for known ones.
function strict<const T extends v.ObjectEntries>(entries: T): v.StrictObjectSchema<T, undefined> {
  return v.strictObject(Object.assign(Object.create(null) as T, entries));
}

const whole = (low: number, high: number) =>
  v.pipe(v.number(), v.safeInteger(), v.minValue(low, `is below ${low}`), v.maxValue(high, `is above ${high}`));
const u32 = whole(0, U32_MAX);
const text = v.pipe(v.string(), v.maxLength(MANY));
const texts = v.pipe(v.array(text), v.maxLength(MANY));
const u64 = v.pipe(
  v.string(),
  v.regex(/^\d{1,20}$/, 'is no decimal number'),
  v.transform((digits) => BigInt(digits)),
  v.check((value) => value < 1n << 64n, 'has more than 64 bits'),
);
const bytes = v.pipe(
  v.string(),
  v.regex(/^[A-Za-z0-9+/]*={0,2}$/, 'is no base64'),
  v.transform((value): Uint8Array => new Uint8Array(Buffer.from(value, 'base64'))),
);
const bytesOf = (size: number) =>
  v.pipe(
    bytes,
    v.check((value) => value.length === size, `must be ${size} bytes`),
  );
const listOf = <T extends v.GenericSchema>(item: T, most: number) => v.pipe(v.array(item), v.maxLength(most));

const rows = Object.fromEntries(STATE_NAMES.map((name) => [name, bytesOf(STATE_ROWS[name].size)])) as Record<
  StateName,
  ReturnType<typeof bytesOf>
>;

const CPUID_HEADER = 8;
const CPUID_ENTRY = 40;
const CPUID_ENTRIES_MAX = 256;

/** The count in front is the number of entries behind it. */
function isCpuidTable(table: Uint8Array): boolean {
  const count = (table.length - CPUID_HEADER) / CPUID_ENTRY;
  const view = new DataView(table.buffer, table.byteOffset, table.byteLength);
  return Number.isInteger(count) && count >= 1 && count <= CPUID_ENTRIES_MAX && view.getUint32(0, true) === count;
}

const vcpu = strict({
  rows: strict(rows),
  msrs: listOf(
    v.pipe(
      v.strictTuple([u32, u64]),
      v.transform(([index, data]) => ({ index, data })),
    ),
    4096,
  ),
  cpuid: v.pipe(bytes, v.check(isCpuidTable, 'is no table of CPUID entries')),
  tsc: strict({ khz: whole(1, U32_MAX), value: u64, offset: u64 }),
});

const macAddress = v.pipe(v.string(), v.regex(/^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/, 'is no MAC address'));

/** A file as it was: whoever changed it since has changed the guest's disk under it. */
const fileMark = strict({ path: text, bytes: whole(0, Number.MAX_SAFE_INTEGER), modified: u64 });

const config = strict({
  memoryMiB: whole(...LIMITS.memoryMiB),
  cpus: whole(...LIMITS.cpus),
  firmware: v.picklist(['mptable', 'acpi', 'both']),
  console: v.picklist(['serial', 'virtio']),
  consoleOverflow: v.picklist(['drop', 'wait']),
  entropy: v.boolean(),
  disks: listOf(
    strict({
      path: text,
      readOnly: v.boolean(),
      overlay: v.optional(text),
      id: v.optional(text),
      bytesPerSecond: v.optional(whole(1, 2 ** 40)),
      operationsPerSecond: v.optional(whole(1, 2 ** 40)),
    }),
    64,
  ),
  nets: listOf(
    strict({
      /** Absent for a backend that is an object of the program's. */
      backend: v.optional(
        v.variant('kind', [
          strict({
            kind: v.literal('user'),
            forwards: listOf(strict({ host: whole(1, 65_535), guest: whole(1, 65_535) }), 1024),
          }),
          strict({ kind: v.literal('tap'), name: text }),
          strict({ kind: v.literal('switch'), name: text }),
        ]),
      ),
      mac: macAddress,
      lockMac: v.boolean(),
    }),
    64,
  ),
  /** How many virtio devices of the program's own there were. */
  virtio: whole(0, 64),
  /** Names of the program's own devices of either form. */
  devices: texts,
});

const schema = strict({
  architecture: v.string(),
  /** Where it was made, for messages. */
  host: strict({ kernel: text, processor: text }),
  /** Milliseconds since 1970-01-01 UTC at which the machine stood still. */
  savedAt: whole(0, Number.MAX_SAFE_INTEGER),
  config,
  kernel: strict({
    format: text,
    cmdline: text,
    placed: listOf(
      strict({ name: text, base: whole(0, Number.MAX_SAFE_INTEGER), size: whole(0, Number.MAX_SAFE_INTEGER) }),
      1024,
    ),
  }),
  quirks: texts,
  /** Files behind the disks. */
  files: listOf(fileMark, 128),
  /** What each virtio device offered its driver. */
  offers: listOf(
    strict({
      name: text,
      deviceId: u32,
      features: listOf(whole(0, 63), 64),
      queueSizes: listOf(u32, 64),
      config: bytes,
    }),
    64,
  ),
  registers: strict({
    fields: listOf(v.strictTuple([text, text, u32]), MANY),
    areas: listOf(v.strictTuple([text, text, bytes]), MANY),
  }),
  vcpus: listOf(vcpu, LIMITS.cpus[1]),
  irqchips: strict({
    picMaster: bytesOf(IRQCHIP_BYTES),
    picSlave: bytesOf(IRQCHIP_BYTES),
    ioapic: bytesOf(IRQCHIP_BYTES),
  }),
  pit: bytesOf(PIT_BYTES),
  /** kvmclock in nanoseconds. */
  clock: u64,
  /** The end of the console's output that no newline has ended: a prompt. */
  prompt: text,
  /** The exec channel's side of the conversation with the guest's agent. */
  exec: v.optional(
    strict({
      isReady: v.boolean(),
      task: v.picklist(['awaited', 'command', 'shell'], 'is no task of an agent'),
      credit: u32,
      /** Frames that wait for credit, and bytes that wait for the line. */
      waiting: listOf(v.strictTuple([whole(0, 255), bytes]), MANY),
      toLine: bytes,
      fromLine: bytes,
    }),
  ),
  ram: strict({
    /** Name of the file beside this one. */
    file: v.pipe(v.string(), v.regex(/^ram\.[0-9a-f]{16}$/, 'is no name of a RAM file')),
    bytes: whole(1, Number.MAX_SAFE_INTEGER),
    /** Runs of pages that hold something: first page, count; ascending, not touching. */
    extents: listOf(v.strictTuple([u32, u32]), 1 << 24),
    /** SHA-256 of each chunk in which there are any, by its number. */
    hashes: listOf(v.strictTuple([u32, v.pipe(v.string(), v.regex(/^[0-9a-f]{64}$/, 'is no hash'))]), 1 << 20),
  }),
});

export type MachineState = v.InferOutput<typeof schema>;
export type SavedConfig = MachineState['config'];
export type SavedExec = NonNullable<MachineState['exec']>;
export type RamMap = MachineState['ram'];
export type FileMark = MachineState['files'][number];

/** @returns the state, or what is wrong with it: the field, and why */
export function checkState(value: unknown): MachineState | string {
  const result = v.safeParse(schema, value, { abortEarly: true });
  if (result.success) return result.output;
  const [issue] = result.issues;
  return `${v.getDotPath(issue) ?? 'the state'}: ${issue.message}`;
}

/** As checkState takes it. */
export function plainState(state: MachineState): unknown {
  return { ...state, vcpus: state.vcpus.map(plainVcpu) };
}

function plainVcpu({ msrs, ...vcpuState }: SavedVcpu): unknown {
  return { ...vcpuState, msrs: msrs.map(({ index, data }) => [index, data]) };
}
