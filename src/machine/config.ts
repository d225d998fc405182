// What a machine is made of: the typed configuration, its defaults, and the check that runs before any VM exists.
import * as v from 'valibot';
import type { VirtioDevice } from '../devices/virtio/device.js';
import type { GuestMemory } from '../memory/guest-memory.js';
import { ConfigError } from './config-error.js';
import { integer, oneOf, text } from './config-words.js';
import { deviceEntries, type DiskConfig, type NetConfig } from './device-config.js';
import type { Diagnosis } from './doctor/diagnosis.js';
import type { TerminalSize } from './exec-protocol.js';
import type { GdbConfig } from './gdb-server.js';
import type { UserDeviceConfig } from './user-devices.js';
import { VcpuPool } from './vcpu-pool.js';

export { ConfigError };

/** A command for the default guest, run over the exec channel instead of a shell. */
export interface ExecRequest {
  /** Program and arguments; a program without a slash is looked up in the guest's PATH. */
  readonly argv: readonly string[];
  /** Added to the guest's environment. */
  readonly env?: Readonly<Record<string, string>> | undefined;
  readonly cwd?: string | undefined;
}

/** A shell on the console of the default guest, which its agent starts. */
export interface ShellRequest {
  /** The size in characters of the terminal behind the console, each 1 to 65535; true when nobody knows. */
  readonly shell: true | TerminalSize;
}

/** Makes a device for a machine's RAM. */
export type VirtioFactory = (memory: GuestMemory) => VirtioDevice | Promise<VirtioDevice>;

export interface VmConfig {
  /** Path of an ELF vmlinux, bzImage, multiboot ELF or flat binary; or the bytes, with a name for messages. */
  readonly kernel: string | { readonly name: string; readonly bytes: Uint8Array };
  /** Path of the initial RAM disk (multiboot: the module). */
  readonly initrd?: string;
  /** The whole kernel command line; default `console=ttyS0`. Device entries are appended to it. */
  readonly cmdline?: string;
  /**
   * How the kernel is entered. `auto` decides by the image; `pvh` and `linux64` choose between the two entries of an
   * ELF vmlinux; `real`, `protected` and `long` load a flat binary.
   */
  readonly entry?: 'auto' | 'pvh' | 'linux64' | 'real' | 'protected' | 'long';
  /** GPA at which a flat binary is loaded and entered; default 0x7c00 for `real`, 0x100000 for the others. */
  readonly load?: number;
  /** RAM in MiB, 1 to 65536; default 128. */
  readonly memoryMiB?: number;
  /** vCPUs, 1 to 32; default 1. */
  readonly cpus?: number;
  /** The tables through which the guest finds processors and devices; default `both`. */
  readonly firmware?: 'mptable' | 'acpi' | 'both';
  /** Offers guest RAM to the host's KSM (MADV_MERGEABLE); default false. */
  readonly mergeable?: boolean;
  /** Asks the host for huge pages under guest RAM (MADV_HUGEPAGE); default false. */
  readonly hugePages?: boolean;
  /**
   * Each vCPU keeps its last exits, to be read live as `Vm.vcpus[i].trace`: as many as this says, a power of two from 2
   * to 2^20, or 4096 for true. `explorer`: 4096, and only while a page of `explore` is open. Default false: nothing is
   * traced.
   */
  readonly trace?: boolean | number | 'explorer';
  /** What COM1 does when nobody reads its output: `drop` loses and counts bytes, `wait` stalls the guest; default `drop`. */
  readonly consoleOverflow?: 'drop' | 'wait';
  /**
   * Runs this in the default guest, by its agent on COM2; `later`: the agent waits until `Vm.execute` says what to run.
   * A guest with an agent is told its time, and gets new random numbers after a restore.
   */
  readonly exec?: ExecRequest | ShellRequest | 'later';
  /** virtio-blk devices, /dev/vda and on. */
  readonly disks?: readonly DiskConfig[];
  /** virtio-net devices, eth0 and on. */
  readonly nets?: readonly NetConfig[];
  /** What `Vm.console` is: COM1 (`serial`, the default) or a virtio console, hvc0 in Linux (`virtio`). */
  readonly console?: 'serial' | 'virtio';
  /** A virtio entropy device, /dev/hwrng in Linux; default false. */
  readonly entropy?: boolean;
  /** virtio devices of your own, made for the machine's RAM: see VirtioDevice. */
  readonly virtio?: readonly VirtioFactory[];
  /** Devices of your own: modules with a table of registers, or closures; see UserDeviceConfig for what each costs. */
  readonly devices?: readonly UserDeviceConfig[];
  /** Gets a line when a device meets something that its owner should know; at most a few a second. */
  readonly onWarning?: (message: string) => void;
  /** Adds the options by which Linux avoids what this host's KVM cannot do; default false: they are only suggested. */
  readonly appendQuirkOptions?: boolean;
  /** Name → text: the report gets a time stamp of this name when the console first shows the text. */
  readonly milestones?: Readonly<Record<string, string>>;
  /** Called once when the guest makes no progress for a while during its boot, with what the boot doctor says of it. */
  readonly onStall?: (diagnosis: Diagnosis) => void;
  /** Milliseconds after which that is so, 100 to 3600000; default 10 s, and a minute where KVM emulates kernel code. */
  readonly stallAfterMs?: number;
  /** ELF file or System.map with the kernel's symbols, for diagnoses; default: those in the kernel itself. */
  readonly symbols?: string;
  /** Lets gdb connect. Whoever can, has the whole machine: on a shared host prefer a Unix socket to a port. */
  readonly gdb?: GdbConfig;
  /** Threads that wait for vCPUs, so that the machine need not start its own. */
  readonly threads?: VcpuPool;
  /** Stops the VM when it aborts. */
  readonly signal?: AbortSignal;
}

const TRACE_FORM = "must be true, false, 'explorer', or a power of two from 2 to 2^20";
const NAMED_TEXTS = 'must be an object that gives each name a text';

const execRequest = v.strictObject({
  argv: v.pipe(v.array(text('an argument')), v.minLength(1, 'a command is needed')),
  env: v.optional(v.record(text('a name'), text('a value'), NAMED_TEXTS)),
  cwd: v.optional(text('the directory')),
});

const shellRequest = v.strictObject({
  shell: v.union(
    [
      v.literal(true),
      v.strictObject({ columns: integer('the columns', 1, 65535), rows: integer('the rows', 1, 65535) }),
    ],
    'must be true, or columns and rows',
  ),
});

/** Limits that the command line and the library share. */
export const LIMITS = { memoryMiB: [1, 65536], cpus: [1, 32] } as const;

const schema = v.strictObject({
  kernel: v.union(
    [
      v.pipe(text('the kernel'), v.nonEmpty('a path is needed')),
      v.object({ name: v.string(), bytes: v.instance(Uint8Array) }),
    ],
    'must be a path, or bytes with a name',
  ),
  initrd: v.optional(v.pipe(text('the initrd'), v.nonEmpty('a path is needed'))),
  cmdline: v.optional(text('the command line'), 'console=ttyS0'),
  entry: v.optional(oneOf(['auto', 'pvh', 'linux64', 'real', 'protected', 'long']), 'auto'),
  load: v.optional(integer('the load address', 0, 2 ** 48 - 1)),
  memoryMiB: v.optional(integer('RAM in MiB', ...LIMITS.memoryMiB), 128),
  cpus: v.optional(integer('the number of vCPUs', ...LIMITS.cpus), 1),
  firmware: v.optional(oneOf(['mptable', 'acpi', 'both']), 'both'),
  mergeable: v.optional(v.boolean('must be true or false'), false),
  hugePages: v.optional(v.boolean('must be true or false'), false),
  trace: v.optional(
    v.union(
      [
        v.boolean(),
        v.literal('explorer'),
        v.pipe(
          v.number(),
          v.check((value) => Number.isInteger(Math.log2(value)) && value >= 2 && value <= 2 ** 20, TRACE_FORM),
        ),
      ],
      TRACE_FORM,
    ),
    false,
  ),
  consoleOverflow: v.optional(oneOf(['drop', 'wait']), 'drop'),
  exec: v.optional(
    v.lazy((value) => {
      if (value === 'later') return v.literal('later');
      return typeof value === 'object' && value !== null && 'shell' in value ? shellRequest : execRequest;
    }),
  ),
  ...deviceEntries,
  console: v.optional(oneOf(['serial', 'virtio']), 'serial'),
  entropy: v.optional(v.boolean('must be true or false'), false),
  virtio: v.optional(
    v.array(
      v.custom<VirtioFactory>((value) => typeof value === 'function', 'must be a function'),
      'must be a list of functions',
    ),
    [],
  ),
  devices: v.optional(
    v.array(
      v.custom<UserDeviceConfig>((value) => typeof value === 'object' && value !== null, 'must be an object'),
      'must be a list of devices',
    ),
    [],
  ),
  onWarning: v.optional(
    v.custom<(message: string) => void>((value) => typeof value === 'function', 'must be a function'),
  ),
  appendQuirkOptions: v.optional(v.boolean('must be true or false'), false),
  milestones: v.optional(v.record(v.string(), v.string('must be a text'), NAMED_TEXTS), {}),
  onStall: v.optional(
    v.custom<(diagnosis: Diagnosis) => void>((value) => typeof value === 'function', 'must be a function'),
  ),
  stallAfterMs: v.optional(integer('the time in milliseconds', 100, 3_600_000)),
  symbols: v.optional(v.pipe(text('the symbols'), v.nonEmpty('a path is needed'))),
  gdb: v.optional(
    v.strictObject({
      listen: v.union(
        [integer('the port', 0, 65535), v.pipe(text('the socket'), v.nonEmpty('a path is needed'))],
        'must be a port from 0 to 65535, or the path of a socket',
      ),
      wait: v.optional(v.boolean('must be true or false')),
    }),
  ),
  threads: v.optional(v.instance(VcpuPool, 'must be a VcpuPool')),
  signal: v.optional(v.custom<AbortSignal>((value) => value instanceof AbortSignal, 'must be an AbortSignal')),
});

/** A configuration with its defaults filled in. */
export type CompleteConfig = v.InferOutput<typeof schema>;

/** An object's own issues: a field too many, one too few, or no object at all (valibot's word for what it expected). */
function aboutObject(expected: string | null): string {
  if (expected === 'never') return 'no such field; see VmConfig for those that exist';
  return expected === 'Object' ? 'must be an object with named fields' : 'is missing';
}

/** Checks `config` and fills in the defaults. @throws ConfigError that names the field */
export function completeConfig(config: VmConfig): CompleteConfig {
  const result = v.safeParse(schema, config);
  if (!result.success) {
    const [issue] = result.issues;
    const field = v.getDotPath(issue) ?? 'configuration';
    throw new ConfigError(field, issue.type === 'strict_object' ? aboutObject(issue.expected) : issue.message);
  }
  if (result.output.load !== undefined && !['real', 'protected', 'long'].includes(result.output.entry))
    throw new ConfigError('load', 'an address goes with a flat binary only; add entry real, protected or long');
  return result.output;
}

/** What all forks of one call have in common. */
export type ForkOptions = Pick<
  VmConfig,
  'virtio' | 'devices' | 'consoleOverflow' | 'trace' | 'milestones' | 'threads' | 'signal' | 'onWarning'
> & {
  /** Runs this in each, when the guest's agent waits for a command. */
  readonly exec?: ExecRequest | ShellRequest;
};
