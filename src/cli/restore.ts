// `microvisor restore`: a VM that goes on from a snapshot. Its options and help; the work is in restore-run.ts.
// Our own.
import { Option } from 'commander';
import { CLOCKS, type RestoreRequest } from './restore-request.js';
import { OPTION_ROWS, type RunRequest } from './run-options.js';
import { UsageError } from './usage-error.js';
import type { DefineVerb } from './verb.js';

const AFTER_HELP = `
Examples:
  microvisor run --snapshot-at 'login:' --snapshot ready   boots, and saves itself when it is there
  microvisor restore ready                                 goes on from there, in tens of milliseconds
  microvisor restore ready -- uname -a                     a command, when the guest waits for one
  microvisor restore ready --disk copy.img                 with another file behind its disk

Disks and networks are those of the snapshot unless options name others, all of a kind then, in the same order.
`;

/** The options of \`run\` that mean the same here. */
const SHARED_OPTIONS = [
  '--console',
  '--disk',
  '--net',
  '--mergeable',
  '--huge-pages',
  '--explore',
  '--timeout',
  '--report',
  '--verbose',
  '--snapshot',
  '--snapshot-at',
];

export const define: DefineVerb = (command, { rest, end }) => {
  let options: Partial<Omit<RunRequest, 'command'>> = {};
  command.argument('<DIR>', 'the folder of the snapshot').usage('DIR [options] [-- COMMAND...]');
  command.addHelpText('after', AFTER_HELP);
  for (const row of OPTION_ROWS.filter(({ flags }) => SHARED_OPTIONS.includes(flags.split(' ')[0] ?? ''))) {
    const option = new Option(row.flags, row.help);
    command.addOption(option);
    command.on(`option:${option.name()}`, (value: string | null) => {
      options = { ...options, ...row.parse(value ?? '', options) };
    });
  }
  command
    .option('--verify', 'read all of its RAM first, and compare it with the hashes of the snapshot')
    .addOption(
      new Option(
        '--clock <HOW>',
        "the guest's clocks catch up with the time since, go on as if there was none, or do so and have the wall clock set",
      )
        .choices(CLOCKS)
        .default('catch-up'),
    );
  command.action(async (directory: string, { verify, clock }: { verify?: true; clock: RestoreRequest['clock'] }) => {
    if (rest?.length === 0) throw new UsageError('COMMAND', 'nothing follows --; name a program, or leave -- out');
    if (options.console?.virtio === true)
      throw new UsageError('--console', 'a guest has the console that it was saved with; say where it goes only');
    const request = { ...options, ...(rest === undefined ? {} : { command: rest }) };
    const { runRestored } = await import('./restore-run.js');
    end(await runRestored({ directory, verify: verify === true, clock, run: { memoryMiB: 0, cpus: 0, ...request } }));
  });
};
