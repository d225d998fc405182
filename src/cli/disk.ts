// `microvisor disk create`: a disk image with an ext4 file system. Its options; the work is in disk-create.ts.
// Our own.
import { parseNumber, type NumberRow } from './numbers.js';
import { signalStatus, watchSignals } from './signals.js';
import { UsageError } from './usage-error.js';
import type { DefineVerb } from './verb.js';

const SECTOR = 512;

/** ext4 needs some room for itself; its limit with blocks of 4 KiB. */
export const SIZE_ROW = {
  option: '--size',
  unit: '',
  form: 'size',
  low: 2 ** 20,
  high: 16 * 2 ** 40,
  multipleOf: SECTOR,
  example: '--size 64M',
} as const satisfies NumberRow;

const AFTER_HELP = `
The image is raw and sparse and has exactly this size; its ext4 has a journal from 8M on. The default guest mounts it:

  microvisor disk create data.img --size 64M --from src
  microvisor run --disk data.img -- ls /mnt/vda
`;

interface CreateOptions {
  readonly size?: string;
  readonly from?: string;
  readonly force?: true;
}

export const define: DefineVerb = (command, { end }) => {
  command.usage('create FILE --size SIZE [options]').addHelpText('after', AFTER_HELP);
  command
    .command('create')
    .description('make an image with an ext4 file system; needs no privileges')
    .argument('<FILE>', 'the image; a file that is there already is refused')
    .option('--size <SIZE>', 'its size in bytes, or with K, M, G or T behind it')
    .option('--from <DIR>', 'what lies in this folder is copied into the file system')
    .option('--force', 'replace a file that is there already')
    .helpOption('--help', 'print this help')
    .addHelpText('after', AFTER_HELP)
    .action(async (path: string, { size, from, force }: CreateOptions) => {
      if (path === '') throw new UsageError('FILE', 'takes the name of a file, not an empty text');
      if (size === undefined) throw new UsageError('--size', `is missing; for example ${SIZE_ROW.example}`);
      const bytes = parseNumber(SIZE_ROW, size);
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
        const { createDisk } = await import('./disk-create.js');
        await createDisk({ path, bytes, from, force: force === true, signal: abort.signal });
        end({ status: 0 });
      } catch (error) {
        if (ended === undefined) throw error;
        end({ status: signalStatus(ended), signal: ended });
      } finally {
        unwatch();
      }
    });
};
