// `microvisor guest`: prepares the default guest without running it, and says where it lies.
// The work is that of guests/linux/prepare.ts.
import { Option } from 'commander';
import { checkWish, GUEST_HELP, parseGuest, type GuestWish } from './guest-option.js';
import { signalStatus, watchSignals } from './signals.js';
import type { DefineVerb } from './verb.js';

const AFTER_HELP = `
The guest is prepared once and kept in the user's cache directory ($XDG_CACHE_HOME or ~/.cache). "microvisor run"
does the same when it is needed.
`;

export const define: DefineVerb = (command, { end }) => {
  command
    .addOption(new Option('--guest <KIND>', GUEST_HELP).argParser(parseGuest))
    .option(
      '--kernel-source <DIR>',
      'Linux source tree or tarball to build the small kernel from, for machines without apt',
    )
    .option('--json', 'print paths and command line as JSON')
    .addHelpText('after', AFTER_HELP)
    .action(async ({ json, ...wish }: GuestWish & { readonly json?: true }) => {
      checkWish(wish);
      const abort = new AbortController();
      let ended: NodeJS.Signals | undefined;
      const unwatch = watchSignals(
        (signal) => {
          ended = signal;
          abort.abort();
        },
        () => undefined,
      );
      try {
        const { prepareGuestVisibly } = await import('./default-guest.js');
        const guest = await prepareGuestVisibly(wish, abort.signal);
        const { kernel, initrd, cmdline } = guest;
        const text =
          json === true
            ? JSON.stringify({ kernel, initrd, cmdline }, undefined, 2)
            : `kernel:  ${kernel}\ninitrd:  ${initrd}\ncmdline: ${cmdline}`;
        process.stdout.write(`${text}\n`);
        end({ status: 0 });
      } catch (error) {
        if (ended === undefined) throw error;
        end({ status: signalStatus(ended), signal: ended });
      } finally {
        unwatch();
      }
    });
};
