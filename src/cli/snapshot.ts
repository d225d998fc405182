// `microvisor snapshot verify`: whether a snapshot is what was written.
// Snapshots are made by `run` (Ctrl-A s, --snapshot-at), and used by `restore`.
import type { DefineVerb } from './verb.js';

const AFTER_HELP = `
A snapshot is made by a running VM: by Ctrl-A s on its terminal, or by run --snapshot-at LINE.
  microvisor run --snapshot-at 'login:' --snapshot ready
  microvisor snapshot verify ready
  microvisor restore ready
`;

export const define: DefineVerb = (command, { end }) => {
  command.usage('verify DIR').addHelpText('after', AFTER_HELP);
  command
    .command('verify')
    .description('read a snapshot whole, and compare it with its checksum and hashes')
    .argument('<DIR>', 'the folder of the snapshot')
    .helpOption('--help', 'print this help')
    .addHelpText('after', AFTER_HELP)
    .action(async (directory: string) => {
      const { verifySnapshot } = await import('../machine/restore-vm.js');
      await verifySnapshot(directory);
      process.stdout.write(`${directory}: a whole snapshot\n`);
      end({ status: 0 });
    });
};
