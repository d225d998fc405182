// `npm run bench -- NAME [options]`: the table of benchmarks and their one entry.
import { parseArgs } from 'node:util';
import { benchBoot } from './boot.js';
import { benchBlock } from './virtio-block.js';
import { benchNet } from './virtio-net.js';

/** What every benchmark takes. */
export interface BenchOptions {
  /** Interleaved rounds. */
  readonly rounds: number;
  /** Where the JSON goes; standard output gets the table. */
  readonly json: string | undefined;
}

interface Benchmark {
  readonly summary: string;
  /** Rounds when none are asked for. */
  readonly rounds: number;
  run(options: BenchOptions): Promise<void>;
}

const BENCHMARKS: Readonly<Record<string, Benchmark>> = {
  boot: {
    summary: 'from process start to the first line of user space, beside a plain C VMM; memory of a process and a VM',
    rounds: 5,
    run: benchBoot,
  },
  'virtio-block': {
    summary: 'what the device side of virtio-blk costs per request; the queue alone; real files',
    rounds: 9,
    run: benchBlock,
  },
  'virtio-net': {
    summary: 'what the device side of virtio-net costs per frame, with a backend that answers at once',
    rounds: 9,
    run: benchNet,
  },
};

const USAGE = [
  'npm run bench -- NAME [--rounds N] [--json FILE]',
  ...Object.entries(BENCHMARKS).map(([name, { summary }]) => `  ${name.padEnd(12)}${summary}`),
].join('\n');

/** @returns the process's exit status */
async function main(): Promise<number> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: { rounds: { type: 'string' }, json: { type: 'string' } },
  });
  const [name] = positionals;
  const benchmark = name === undefined ? undefined : BENCHMARKS[name];
  if (benchmark === undefined) {
    process.stderr.write(`${name === undefined ? '' : `there is no benchmark named ${name}\n`}${USAGE}\n`);
    return 2;
  }
  const rounds = values.rounds === undefined ? benchmark.rounds : Number(values.rounds);
  if (!Number.isSafeInteger(rounds) || rounds < 1) {
    process.stderr.write(`--rounds: ${values.rounds} is no number of rounds; give a whole number from 1\n`);
    return 2;
  }
  await benchmark.run({ rounds, json: values.json });
  return 0;
}

process.exitCode = await main();
