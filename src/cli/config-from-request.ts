// From the words on the command line to the library's configuration. Pure.
// Our own; Linux Documentation/admin-guide/kernel-parameters.rst for the command line.
import type { VmConfig } from '../machine/config.js';
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
  /** `COLSxROWS` of the terminal that the guest's shell will have. */
  readonly terminalSize: string | undefined;
}

const USER_CMDLINE = 'console=ttyS0';

/** Without `quiet` the default guest shows its kernel's messages. */
function withoutQuiet(cmdline: string): string {
  return cmdline
    .split(' ')
    .filter((word) => word !== 'quiet')
    .join(' ');
}

function commandLine(request: RunRequest, { guest, terminalSize }: Surroundings): string {
  const ours = request.verbose === true && guest !== undefined ? withoutQuiet(guest.cmdline) : guest?.cmdline;
  const whole = request.cmdline ?? ours ?? USER_CMDLINE;
  const size = guest === undefined || request.cmdline !== undefined ? undefined : terminalSize;
  return [whole, size === undefined ? '' : `microvisor.size=${size}`, request.append ?? '']
    .filter((part) => part !== '')
    .join(' ');
}

/** Nobody loses what the guest prints, unless there is nobody. */
function consoleOverflow(request: RunRequest): 'drop' | 'wait' {
  if (request.console?.kind === 'null') return 'drop';
  return request.command === undefined || request.console !== undefined ? 'wait' : 'drop';
}

/** @throws Error when there is neither a kernel nor a default guest */
export function vmConfig(request: RunRequest, surroundings: Surroundings): VmConfig {
  const { guest } = surroundings;
  const kernel = request.kernel ?? guest?.kernel;
  if (kernel === undefined) throw new Error('no kernel was given and no default guest was prepared');
  const initrd = request.initrd ?? guest?.initrd;
  return {
    kernel,
    cmdline: commandLine(request, surroundings),
    memoryMiB: request.memoryMiB,
    cpus: request.cpus,
    consoleOverflow: consoleOverflow(request),
    // A user's own kernel gets a hint instead.
    appendQuirkOptions: guest !== undefined,
    ...(initrd === undefined ? {} : { initrd }),
    ...(request.entry === undefined ? {} : { entry: request.entry }),
    ...(request.load === undefined ? {} : { load: request.load }),
    ...(request.firmware === undefined ? {} : { firmware: request.firmware }),
    ...(request.mergeable === undefined ? {} : { mergeable: request.mergeable }),
    ...(request.hugePages === undefined ? {} : { hugePages: request.hugePages }),
    ...(request.command === undefined ? {} : { exec: { argv: request.command } }),
  };
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
  exec: 'COMMAND',
};
