// From the words on the command line to the library's configuration. Pure.
// Our own; Linux Documentation/admin-guide/kernel-parameters.rst for the command line.
import type { ShellRequest, VmConfig } from '../machine/config.js';
import type { RunRequest } from './run-options.js';

/** The default guest, where it was prepared. */
export interface DefaultGuest {
  readonly kernel: string;
  readonly initrd: string;
  readonly cmdline: string;
}

export interface Surroundings {
  /** Undefined when the user brought a kernel. */
  readonly guest: DefaultGuest | undefined;
  /** Of the terminal that the guest's shell will have. */
  readonly terminalSize: Exclude<ShellRequest['shell'], true> | undefined;
}

const SERIAL_CONSOLE = 'console=ttyS0';
const VIRTIO_CONSOLE = 'console=hvc0';
/** Exits that a vCPU can make between two looks at its ring, without one getting lost: 4 MiB of memory. */
const RECORDED_EXITS = 65_536;
const REMEMBERED_EXITS = 64;
const USER_CMDLINE = SERIAL_CONSOLE;

/** The command line that nobody typed. */
function ourCommandLine(request: RunRequest, guest: DefaultGuest | undefined): string {
  // Without `quiet` the default guest shows its kernel's messages.
  const isLeftOut = (word: string): boolean => word === 'quiet' && guest !== undefined && request.verbose === true;
  const isVirtio = request.console?.virtio === true;
  return (guest?.cmdline ?? USER_CMDLINE)
    .split(' ')
    .filter((word) => !isLeftOut(word))
    .map((word) => (word === SERIAL_CONSOLE && isVirtio ? VIRTIO_CONSOLE : word))
    .join(' ');
}

function commandLine(request: RunRequest, guest: DefaultGuest | undefined): string {
  const whole = request.cmdline ?? ourCommandLine(request, guest);
  return [whole, request.append ?? ''].filter((part) => part !== '').join(' ');
}

/** What the default guest's agent is to do; undefined for an initrd that has none. */
function taskOf({ command, initrd }: RunRequest, { guest, terminalSize }: Surroundings): VmConfig['exec'] {
  if (command !== undefined) return { argv: command };
  return guest === undefined || initrd !== undefined ? undefined : { shell: terminalSize ?? true };
}

/** Nobody loses what the guest prints, unless there is nobody. */
export function consoleOverflow(request: RunRequest): 'drop' | 'wait' {
  if (request.console?.kind === 'null') return 'drop';
  return request.command === undefined || request.console !== undefined ? 'wait' : 'drop';
}

/** @throws Error when there is neither a kernel nor a default guest */
export function vmConfig(request: RunRequest, surroundings: Surroundings): VmConfig {
  const { guest } = surroundings;
  const kernel = request.kernel ?? guest?.kernel;
  if (kernel === undefined) throw new Error('no kernel was given and no default guest was prepared');
  const initrd = request.initrd ?? guest?.initrd;
  const exec = taskOf(request, surroundings);
  return {
    kernel,
    cmdline: commandLine(request, guest),
    memoryMiB: request.memoryMiB,
    cpus: request.cpus,
    consoleOverflow: consoleOverflow(request),
    // A user's own kernel gets a hint instead.
    appendQuirkOptions: guest !== undefined,
    entropy: request.entropy ?? guest !== undefined,
    console: request.console?.virtio === true ? 'virtio' : 'serial',
    disks: request.disks ?? [],
    nets: request.nets ?? [],
    ...(initrd === undefined ? {} : { initrd }),
    ...(request.entry === undefined ? {} : { entry: request.entry }),
    ...(request.load === undefined ? {} : { load: request.load }),
    ...(request.firmware === undefined ? {} : { firmware: request.firmware }),
    ...(request.mergeable === undefined ? {} : { mergeable: request.mergeable }),
    ...(request.hugePages === undefined ? {} : { hugePages: request.hugePages }),
    ...traceOf(request),
    ...(request.symbols === undefined ? {} : { symbols: request.symbols }),
    ...(request.gdb === undefined ? {} : { gdb: { listen: request.gdb, wait: request.wait ?? false } }),
    ...(exec === undefined ? {} : { exec }),
  };
}

/** The explorer shows a timeline. A kernel of one's own is one that may fail: its last exits are kept for the boot doctor. */
function traceOf({ trace, explore, kernel }: RunRequest): Pick<VmConfig, 'trace'> {
  if (trace !== undefined) return { trace: RECORDED_EXITS };
  if (kernel === undefined) return explore === undefined ? {} : { trace: 'explorer' };
  return { trace: explore === undefined ? REMEMBERED_EXITS : true };
}

/** The option that gave a configuration field, for messages. */
export const OPTION_OF_FIELD: Readonly<Record<string, string>> = {
  kernel: '--kernel',
  initrd: '--initrd',
  cmdline: '--cmdline and --append',
  entry: '--entry',
  load: '--load',
  memoryMiB: '--mem',
  cpus: '--cpus',
  firmware: '--firmware',
  disks: '--disk',
  nets: '--net',
  console: '--console',
  entropy: '--entropy',
  exec: 'COMMAND',
  gdb: '--gdb',
  symbols: '--symbols',
};
