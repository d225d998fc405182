// `npm run bench -- NAME [options]`: the table of benchmarks and their one entry.
import { closeSync, openSync } from 'node:fs';
import { inspect, parseArgs } from 'node:util';
import { KvmError } from '../src/kvm/errors.js';
import { System } from '../src/kvm/system.js';
import { benchBoot } from './boot.js';
import { benchBlock } from './virtio-block.js';
import { benchNet } from './virtio-net.js';
import { benchGuestIo } from './guest-io.js';
import { benchExitAccount } from './exit-account.js';
import { benchExits } from './exits.js';
import { benchSnapshot } from './snapshot.js';

/** What a benchmark may take; each names those that it does. */
export interface BenchOptions {
  /** Interleaved rounds. */
  readonly rounds: number;
  /** Where the JSON goes; standard output gets the table. */
  readonly json: string | undefined;
  readonly svg: string | undefined;
  readonly compare: string | undefined;
  readonly quick: boolean;
  readonly only: readonly string[];
  readonly tier: readonly string[];
}

interface Benchmark {
  readonly summary: string;
  /** Options beside --rounds and --json. */
  readonly takes: readonly string[];
  /** Without one there is nothing to measure. */
  readonly needsKvm: boolean;
  /** Rounds when none are asked for. */
  readonly rounds: number;
  /** @returns the process's exit status, when it is not 0 */
  run(options: BenchOptions): Promise<number | void>;
}

const BENCHMARKS: Readonly<Record<string, Benchmark>> = {
  boot: {
    summary: 'from process start to the first line of user space, beside a plain C VMM; memory of a process and a VM',
    takes: [],
    needsKvm: true,
    rounds: 5,
    run: benchBoot,
  },
  'virtio-block': {
    summary: 'the queue alone, a request with a backend that answers at once, a real file; ways to transfer, in C',
    takes: [],
    needsKvm: false,
    rounds: 5,
    run: benchBlock,
  },
  'virtio-net': {
    summary: 'what the device side of virtio-net costs per frame, with a backend that answers at once',
    takes: [],
    needsKvm: false,
    rounds: 9,
    run: benchNet,
  },
  'guest-io': {
    summary: 'requests, TCP and exits from inside the default guest; doorbell and interrupt latencies',
    takes: [],
    needsKvm: true,
    rounds: 3,
    run: benchGuestIo,
  },
  snapshot: {
    summary: 'save, restore to the first output, fork, memory of a fork; for 64 MiB, 512 MiB and 2 GiB of RAM',
    takes: [],
    needsKvm: true,
    rounds: 5,
    run: benchSnapshot,
  },
  exits: {
    summary: 'what a VM exit costs, tier by tier, beside a plain C loop; the parts of our own cost; growth',
    takes: ['svg', 'compare', 'quick', 'only', 'tier'],
    needsKvm: false,
    rounds: 25,
    run: benchExits,
  },
  'exit-account': {
    summary: 'the instructions and cache lines of one exit, by who serves it: single steps of gdb, no times',
    takes: ['only', 'tier'],
    needsKvm: true,
    rounds: 1,
    run: benchExitAccount,
  },
};

const USAGE = [
  'npm run bench -- NAME [--rounds N] [--json FILE]',
  ...Object.entries(BENCHMARKS).map(([name, { summary }]) => `  ${name.padEnd(14)}${summary}`),
  'exits also takes',
  '  --quick         four cases and few rounds, under a minute',
  '  --only CASE     only this case, and --tier TIER only this tier; both may be repeated (exit-account, too)',
  '  --svg FILE      the picture, tier by tier',
  '  --compare FILE  what changed since the run that left this JSON; status 1 when our own cost grew too much',
].join('\n');

function parse(args: readonly string[]) {
  return parseArgs({
    args: [...args],
    allowPositionals: true,
    options: {
      help: { type: 'boolean', short: 'h' },
      rounds: { type: 'string' },
      json: { type: 'string' },
      svg: { type: 'string' },
      compare: { type: 'string' },
      quick: { type: 'boolean' },
      only: { type: 'string', multiple: true },
      tier: { type: 'string', multiple: true },
    },
  });
}

/** @returns the process's exit status */
async function main(args: readonly string[]): Promise<number> {
  let parsed: ReturnType<typeof parse>;
  try {
    parsed = parse(args);
  } catch (error) {
    process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n${USAGE}\n`);
    return 2;
  }
  const { values, positionals } = parsed;
  if (values.help === true) {
    process.stdout.write(`${USAGE}\n`);
    return 0;
  }
  const [name] = positionals;
  const benchmark = name === undefined ? undefined : BENCHMARKS[name];
  if (name === undefined || benchmark === undefined) {
    process.stderr.write(`${name === undefined ? '' : `there is no benchmark named ${name}\n`}${USAGE}\n`);
    return 2;
  }
  const foreign = Object.keys(values).find((option) => !['rounds', 'json', ...benchmark.takes].includes(option));
  if (foreign !== undefined) {
    process.stderr.write(`${name} takes no --${foreign}\n${USAGE}\n`);
    return 2;
  }
  const rounds = values.rounds === undefined ? benchmark.rounds : Number(values.rounds);
  if (!Number.isSafeInteger(rounds) || rounds < 1) {
    process.stderr.write(`--rounds: ${values.rounds} is no number of rounds; give a whole number from 1\n`);
    return 2;
  }
  const { json, svg, compare, quick = false, only = [], tier = [] } = values;
  // Now, and not after minutes of measuring.
  if (benchmark.needsKvm) System.open()[Symbol.dispose]();
  for (const file of [json, svg]) if (file !== undefined) closeSync(openSync(file, 'a'));
  return (await benchmark.run({ rounds, json, svg, compare, quick, only, tier })) ?? 0;
}

process.exitCode = await main(process.argv.slice(2)).catch((error: unknown) => {
  // A file that cannot be written, or a KVM that is not there, says enough by itself; a defect of the benchmark's own needs
  // its stack.
  const isOfTheSystem =
    error instanceof Error && ('syscall' in error || (error instanceof KvmError && error.remedy !== undefined));
  process.stderr.write(`${isOfTheSystem ? error.message : inspect(error)}\n`);
  return isOfTheSystem ? 2 : 1;
});
