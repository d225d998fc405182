// The options of `microvisor run`: one row each, and the rules about which go together. Pure: no file is touched here.
// Our own; names follow kvmtool and QEMU where they have one.
import type { DiskConfig, NetConfig } from '../machine/device-config.js';
import type { Diagnosis } from '../machine/doctor/diagnosis.js';
import { CONSOLE_FORM_LIST, parseConsoleTarget, type ConsoleTarget } from './console-target.js';
import { DISK_FORM, parseDisk } from './disk-option.js';
import { checkWish, GUEST_HELP, parseGuest, type GuestKind } from './guest-option.js';
import { NET_FORM, parseNet } from './net-option.js';
import { parseNumber, type NumberRow } from './numbers.js';
import { UsageError } from './usage-error.js';

const FLAT_ENTRIES = ['real', 'protected', 'long'] as const;
const ENTRIES = ['auto', 'linux64', 'pvh', ...FLAT_ENTRIES] as const;
const FIRMWARES = ['mptable', 'acpi', 'both'] as const;

/** What `microvisor run` was asked for. What is undefined was not given. */
export interface RunRequest {
  readonly kernel?: string;
  readonly initrd?: string;
  readonly cmdline?: string;
  readonly append?: string;
  readonly entry?: (typeof ENTRIES)[number];
  readonly load?: number;
  readonly memoryMiB: number;
  readonly cpus: number;
  readonly firmware?: (typeof FIRMWARES)[number];
  readonly console?: ConsoleTarget;
  readonly disks?: readonly DiskConfig[];
  /** Empty for `--net none`. */
  readonly nets?: readonly NetConfig[];
  readonly entropy?: boolean;
  readonly report?: string;
  readonly symbols?: string;
  readonly trace?: string;
  readonly timeoutMs?: number;
  readonly mergeable?: boolean;
  readonly hugePages?: boolean;
  readonly guest?: GuestKind;
  readonly kernelSource?: string;
  readonly verbose?: boolean;
  /** Where the VM is saved when that is asked for. */
  readonly snapshot?: string;
  readonly snapshotAt?: RegExp;
  /** The default guest goes on from a kept snapshot (true), or boots (false); not given: as needsBoot and the host say. */
  readonly warm?: boolean;
  /** Port or path of a socket. */
  readonly gdb?: number | string;
  readonly wait?: boolean;
  /** Port of the explorer's page; 0 for any. */
  readonly explore?: number;
  /** Program and arguments to run in the default guest. */
  readonly command?: readonly string[];
}

/** What the making of a VM gets of its run. */
export interface RunHooks {
  /** Aborts when the run is to be given up. */
  readonly signal: AbortSignal;
  readonly onWarning: (message: string) => void;
  readonly onStall: (diagnosis: Diagnosis) => void;
}

type Options = Omit<RunRequest, 'command'>;

/** Longest delay that a Node timer keeps; a longer one would fire at once. */
const TIMER_MAX_S = 2_147_483;

/** Limits of the numeric options; the library has the last word on memory and processors. */
export const NUMBER_ROWS = {
  mem: { option: '--mem', unit: ' of MiB', form: 'whole', low: 1, high: 65_536, example: '--mem 128' },
  cpus: { option: '--cpus', unit: '', form: 'whole', low: 1, high: 32, example: '--cpus 2' },
  // Address 0 holds the interrupt vectors in real mode and is no place for an image in the others.
  load: { option: '--load', unit: '', form: 'address', low: 1, high: 2 ** 48 - 1, example: '--load 0x7c00' },
  explore: { option: '--explore', unit: '', form: 'whole', low: 1, high: 65_535, example: '--explore 8080' },
  gdb: { option: '--gdb', unit: '', form: 'whole', low: 1, high: 65_535, example: '--gdb 1234' },
  timeout: {
    option: '--timeout',
    unit: ' of seconds',
    form: 'fraction',
    low: 0.001,
    high: TIMER_MAX_S,
    example: '--timeout 10',
  },
} as const satisfies Readonly<Record<string, NumberRow>>;

/** One option. `parse` sees the option's value (empty for a flag) and what this option gave before. */
export interface OptionRow {
  /** As commander wants it: `--mem <MiB>`. */
  readonly flags: string;
  readonly help: string;
  readonly group: 'guest' | 'machine' | 'run';
  parse(value: string, before: Partial<Options>): Partial<Options>;
}

function oneOf<const T extends readonly string[]>(option: string, choices: T, value: string): T[number] {
  const found = choices.find((choice) => choice === value);
  if (found === undefined) throw new UsageError(option, `takes ${choices.join(', ')}, not ${JSON.stringify(value)}`);
  return found;
}

function nonEmpty(option: string, what: string, value: string): string {
  if (value === '') throw new UsageError(option, `takes ${what}, not an empty text`);
  return value;
}

function parsePattern(option: string, value: string): RegExp {
  try {
    return new RegExp(nonEmpty(option, 'a regular expression', value));
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
    throw new UsageError(option, `takes a regular expression, and ${JSON.stringify(value)} is none: ${error.message}`);
  }
}

export const OPTION_ROWS: readonly OptionRow[] = [
  {
    flags: '--kernel <FILE>',
    help: 'ELF vmlinux, bzImage, multiboot ELF, or flat binary (with --entry); without it, the default guest',
    group: 'guest',
    parse: (value) => ({ kernel: nonEmpty('--kernel', 'a file', value) }),
  },
  {
    flags: '--initrd <FILE>',
    help: 'initial RAM disk; for multiboot the module',
    group: 'guest',
    parse: (value) => ({ initrd: nonEmpty('--initrd', 'a file', value) }),
  },
  {
    flags: '--cmdline <TEXT>',
    help: "the whole kernel command line (default: console=ttyS0, or the default guest's own)",
    group: 'guest',
    parse: (value) => ({ cmdline: value }),
  },
  {
    flags: '--append <TEXT>',
    help: 'added to the kernel command line; may be repeated',
    group: 'guest',
    parse: (value, before) => ({ append: before.append === undefined ? value : `${before.append} ${value}` }),
  },
  {
    flags: '--entry <MODE>',
    help: `how the kernel is entered: ${ENTRIES.join(', ')} (default: auto; the last three load a flat binary)`,
    group: 'guest',
    parse: (value) => ({ entry: oneOf('--entry', ENTRIES, value) }),
  },
  {
    flags: '--load <ADDR>',
    help: 'where a flat binary is loaded and entered (default: 0x7c00 for real, 0x100000 for the others)',
    group: 'guest',
    parse: (value) => ({ load: parseNumber(NUMBER_ROWS.load, value) }),
  },
  {
    flags: '--guest <KIND>',
    help: GUEST_HELP,
    group: 'guest',
    parse: (value) => ({ guest: parseGuest(value) }),
  },
  {
    flags: '--kernel-source <DIR>',
    help: "Linux source from which the small guest's kernel is built, for machines without apt",
    group: 'guest',
    parse: (value) => ({ kernelSource: nonEmpty('--kernel-source', 'a directory or tarball', value) }),
  },
  {
    flags: '--mem <MiB>',
    help: 'guest RAM (default: 128)',
    group: 'machine',
    parse: (value) => ({ memoryMiB: parseNumber(NUMBER_ROWS.mem, value) }),
  },
  {
    flags: '--cpus <N>',
    help: 'number of vCPUs (default: 1)',
    group: 'machine',
    parse: (value) => ({ cpus: parseNumber(NUMBER_ROWS.cpus, value) }),
  },
  {
    flags: '--firmware <TABLES>',
    help: `tables that describe the machine to the guest: ${FIRMWARES.join(', ')} (default: both)`,
    group: 'machine',
    parse: (value) => ({ firmware: oneOf('--firmware', FIRMWARES, value) }),
  },
  {
    flags: '--console <TARGET>',
    help: `where the guest's console, its first serial port, goes: ${CONSOLE_FORM_LIST}, for hvc0 (default: stdio)`,
    group: 'machine',
    parse: (value) => ({ console: parseConsoleTarget(value) }),
  },
  {
    flags: '--disk <DISK>',
    help: `a virtio disk, /dev/vda and on: ${DISK_FORM}; the file is raw, whatever is in it`,
    group: 'machine',
    parse: (value, { disks = [] }) => ({ disks: [...disks, parseDisk(value)] }),
  },
  {
    flags: '--net <NET>',
    help: `a virtio network card, eth0 and on: ${NET_FORM} (default: none)`,
    group: 'machine',
    parse: (value, { nets }) => ({ nets: parseNet(value, nets) }),
  },
  {
    flags: '--entropy',
    help: "a virtio entropy device, /dev/hwrng; the default with the default guest's kernel",
    group: 'machine',
    parse: () => ({ entropy: true }),
  },
  { flags: '--no-entropy', help: 'no such device', group: 'machine', parse: () => ({ entropy: false }) },
  {
    flags: '--mergeable',
    help: "offer guest RAM to the host's KSM",
    group: 'machine',
    parse: () => ({ mergeable: true }),
  },
  {
    flags: '--huge-pages',
    help: 'ask the host for huge pages under guest RAM',
    group: 'machine',
    parse: () => ({ hugePages: true }),
  },
  {
    flags: '--timeout <SECONDS>',
    help: 'stop the VM after this time, with status 124; fractions are accepted',
    group: 'run',
    parse: (value) => ({ timeoutMs: Math.ceil(parseNumber(NUMBER_ROWS.timeout, value) * 1000) }),
  },
  {
    flags: '--report <FILE>',
    help: 'write time stamps, exits, assists and the outcome there as JSON when the VM has ended',
    group: 'run',
    parse: (value) => ({ report: nonEmpty('--report', 'a file', value) }),
  },
  {
    flags: '--snapshot <DIR>',
    help: 'where Ctrl-A s and --snapshot-at save the VM (default: microvisor-snapshot); see microvisor restore',
    group: 'run',
    parse: (value) => ({ snapshot: nonEmpty('--snapshot', 'a folder', value) }),
  },
  {
    flags: '--snapshot-at <LINE>',
    help: 'save the VM once, when a line of its console matches this regular expression; it goes on',
    group: 'run',
    parse: (value) => ({ snapshotAt: parsePattern('--snapshot-at', value) }),
  },
  {
    flags: '--cold',
    help: 'boot the default guest, even if a snapshot of it is kept from which it could go on',
    group: 'run',
    parse: () => ({ warm: false }),
  },
  {
    flags: '--warm',
    help: 'go on from a kept snapshot of the default guest also with VMX or SVM, where a boot is quick, and with --report',
    group: 'run',
    parse: () => ({ warm: true }),
  },
  {
    flags: '--gdb <PORT|SOCKET>',
    help: 'let gdb connect: to a port of 127.0.0.1, or to a Unix socket that only you can open',
    group: 'run',
    parse: (value) => ({
      gdb: /^[0-9]+$/.test(value)
        ? parseNumber(NUMBER_ROWS.gdb, value)
        : nonEmpty('--gdb', 'a port or the path of a socket', value),
    }),
  },
  {
    flags: '--wait',
    help: 'with --gdb: do not start before gdb says so',
    group: 'run',
    parse: () => ({ wait: true }),
  },
  {
    flags: '--explore [PORT]',
    help: 'open a page on this machine that shows the VM and steers it, and print its address (default: any port)',
    group: 'run',
    parse: (value) => ({ explore: value === '' ? 0 : parseNumber(NUMBER_ROWS.explore, value) }),
  },
  {
    flags: '--trace <FILE>',
    help: 'record every exit there, for microvisor trace FILE; it costs each exit a little',
    group: 'run',
    parse: (value) => ({ trace: nonEmpty('--trace', 'a file', value) }),
  },
  {
    flags: '--symbols <FILE>',
    help: "the kernel's symbols for reports of failures: an ELF file or a System.map (default: the kernel's own)",
    group: 'run',
    parse: (value) => ({ symbols: nonEmpty('--symbols', 'a file', value) }),
  },
  {
    flags: '--verbose',
    help: 'say on stderr what is done; with COMMAND also show the boot messages there',
    group: 'run',
    parse: () => ({ verbose: true }),
  },
];

/** A pair of options that cannot go together, and why. */
interface ConflictRow {
  readonly option: string;
  readonly found: (options: Partial<Options>, command: readonly string[] | undefined) => boolean;
  readonly problem: string;
}

const isFlat = (options: Partial<Options>): boolean => FLAT_ENTRIES.some((entry) => entry === options.entry);

/**
 * Whether the guest has to boot: it is another one, its boot is to be watched, or it has what no snapshot can keep for
 * later runs.
 */
export function needsBoot(options: Partial<Options>): boolean {
  const { kernel, initrd, cmdline, console, snapshotAt, gdb, explore, trace, verbose, mergeable, hugePages } = options;
  const isOwn = [kernel, initrd, cmdline, snapshotAt, gdb, explore, trace, verbose, mergeable, hugePages].some(
    (given) => given !== undefined,
  );
  const { disks = [], nets = [] } = options;
  return isOwn || (console !== undefined && console.kind !== 'stdio') || disks.length > 0 || nets.length > 0;
}

const CONFLICT_ROWS: readonly ConflictRow[] = [
  {
    option: 'COMMAND',
    found: (_, command) => command?.length === 0,
    problem: 'nothing follows --; name a program, or leave -- out for a shell',
  },
  {
    option: 'COMMAND',
    found: ({ kernel }, command) => command !== undefined && kernel !== undefined,
    problem: 'only the default guest can run one, since its init has our agent; leave out --kernel or -- COMMAND',
  },
  {
    option: 'COMMAND',
    found: ({ initrd }, command) => command !== undefined && initrd !== undefined,
    problem: "only the default guest's own initrd has the agent that runs one; leave out --initrd or -- COMMAND",
  },
  {
    option: '--console stdio',
    found: (options, command) => command !== undefined && options.console?.kind === 'stdio',
    problem: 'stdio belongs to COMMAND; use --console file=PATH, or --verbose for the boot messages on stderr',
  },
  {
    option: '--warm',
    found: (options) => options.warm === true && needsBoot(options),
    problem:
      'is for the default guest without --initrd, --cmdline, --disk, --net, --console file or null, --gdb, --explore, ' +
      '--trace, --snapshot-at, --verbose, --mergeable or --huge-pages; leave it or them out',
  },
  {
    option: '--entry',
    found: (options) => options.entry !== undefined && options.kernel === undefined,
    problem: 'says how a kernel of yours is entered; add --kernel FILE',
  },
  {
    option: '--load',
    found: (options) => options.load !== undefined && !isFlat(options),
    problem: `goes with a flat binary only; add --entry ${FLAT_ENTRIES.join(', --entry ')}`.replace(
      /, (?=[^,]*$)/,
      ' or ',
    ),
  },
  {
    option: '--wait',
    found: ({ wait, gdb }) => wait === true && gdb === undefined,
    problem: 'waits for gdb; add --gdb PORT or --gdb SOCKET',
  },
  {
    option: '--explore',
    found: ({ explore, gdb }) => explore !== undefined && gdb !== undefined,
    problem: 'and --gdb both stop and step the guest; leave one of them out',
  },
  {
    option: '--guest',
    found: (options) => options.guest !== undefined && options.kernel !== undefined,
    problem: 'chooses between the default guests; leave out --kernel or --guest',
  },
  {
    option: '--kernel-source',
    found: (options) => options.kernelSource !== undefined && options.kernel !== undefined,
    problem: 'is for building the default guest; leave out --kernel or --kernel-source',
  },
];

/** Puts the parsed options together. @throws UsageError when two of them cannot go together */
export function completeRequest(options: Partial<Options>, command: readonly string[] | undefined): RunRequest {
  const conflict = CONFLICT_ROWS.find(({ found }) => found(options, command));
  if (conflict !== undefined) throw new UsageError(conflict.option, conflict.problem);
  checkWish(options);
  return { memoryMiB: 128, cpus: 1, ...options, ...(command === undefined ? {} : { command }) };
}
