// `microvisor run`: its options and help. What it does is in run-vm.ts, loaded when it does it.
// Our own; options follow kvmtool and QEMU where they have one.
import { Option } from 'commander';
import { completeRequest, OPTION_ROWS, type OptionRow, type RunRequest } from './run-options.js';
import { UsageError } from './usage-error.js';
import type { DefineVerb } from './verb.js';

const GROUP_TITLES: Readonly<Record<OptionRow['group'], string>> = {
  guest: 'What runs:',
  machine: 'The machine:',
  run: 'This run:',
};

const AFTER_HELP = `
Examples:
  microvisor run                                  a shell in the default guest
  microvisor run -- uname -a                      a command in it, with its status
  tar c src | microvisor run -- tar t             its stdin, stdout and stderr pass through
  microvisor run --cpus 4 --mem 1024
  microvisor run --disk data.img --net user       see also microvisor disk --help
  microvisor run --kernel vmlinux --initrd initrd.cpio --append 'quiet panic=-1'
  microvisor run --kernel boot.bin --entry real   a flat binary, at 0x7c00

On a terminal Ctrl-A x ends the VM and Ctrl-A h lists the keys.

Status: 0 the guest powered off or reset, or Ctrl-A x; COMMAND's own; after a write of V to port 0xf4,
((V << 1) | 1) & 0xff; 2 bad usage or configuration; 124 --timeout; 125 the VM failed; 128+n ended by signal n.
`;

export const define: DefineVerb = (command, { rest, end }) => {
  let options: Partial<Omit<RunRequest, 'command'>> = {};
  command.argument('[words...]').usage('[options] [-- COMMAND...]').addHelpText('after', AFTER_HELP);
  for (const row of OPTION_ROWS) {
    const option = new Option(row.flags, row.help).helpGroup(GROUP_TITLES[row.group]);
    command.addOption(option);
    command.on(`option:${option.name()}`, (value: string | null) => {
      options = { ...options, ...row.parse(value ?? '', options) };
    });
  }
  command.action(async (words: readonly string[]) => {
    if (words.length > 0) {
      const typed = words.join(' ');
      throw new UsageError(typed, `a command for the guest goes after --, as in microvisor run -- ${typed}`);
    }
    const request = completeRequest(options, rest);
    const { runVm } = await import('./run-vm.js');
    end(await runVm(request));
  });
};
