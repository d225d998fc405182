// The `microvisor` command: finds the verb, runs it, and turns every error into one sentence and a status.
// Our own; verbs are loaded when they are used, so that a VM starts as soon as it can.
import { readFileSync, writeSync } from 'node:fs';
import { Command, CommanderError } from 'commander';
import { describeError, say } from './sentence.js';
import { dieOf } from './signals.js';
import { UsageError } from './usage-error.js';
import type { Invocation, VerbRow } from './verb.js';

const VERBS: readonly VerbRow[] = [
  { name: 'run', summary: 'boot a guest, or run a command in the default guest', load: () => import('./run.js') },
  { name: 'restore', summary: 'go on from a snapshot', load: () => import('./restore.js') },
  { name: 'snapshot', summary: 'verify a snapshot, and how one is made', load: () => import('./snapshot.js') },
  { name: 'check', summary: 'say what this host offers, and what is missing', load: () => import('./check.js') },
  { name: 'disk', summary: 'make disk images for --disk', load: () => import('./disk.js') },
  { name: 'guest', summary: 'prepare the default guest without running it', load: () => import('./guest.js') },
  { name: 'trace', summary: 'say what a recorded trace shows', load: () => import('./trace.js') },
  { name: 'lesson', summary: 'learn how a hypervisor works, step by step', load: () => import('./lesson.js') },
];

/** The verbs that take words after `--`. */
const TAKE_COMMAND: readonly string[] = ['run', 'restore'];

const AFTER_HELP = `
Examples:
  microvisor run                  a shell in the default guest
  microvisor run -- uname -a      a command in it
  microvisor check                what this host offers
  microvisor lesson               learn how it works
  microvisor run --help           all options of a verb
`;

/** Bad usage or configuration, before any VM starts. */
const USAGE_STATUS = 2;
/** The process is held up by nothing that we know of; should something be left, this is how long it may take. */
const LEFTOVER_MS = 1000;

function packageVersion(): string {
  // Compiled files lie in dist/src/cli and dist/bundle/cli, three levels under the package.
  const text = readFileSync(new URL('../../../package.json', import.meta.url), 'utf8');
  const { version }: { version?: unknown } = JSON.parse(text) as object;
  return String(version);
}

/** Commander's words as one sentence of ours; undefined for what is no error (help and version were asked for). */
function usageSentence(error: CommanderError, verb: string | undefined): string | undefined {
  if (error.exitCode === 0) return undefined;
  if (error.code === 'commander.help' && verb !== undefined)
    return `${verb} needs one of its commands; see microvisor ${verb} --help`;
  if (error.code === 'commander.help')
    return `name a verb: ${VERBS.map(({ name }) => name).join(', ')}; see microvisor --help`;
  const text = error.message
    .replace(/^error: /, '')
    .replace(/\n\(Did you mean (.*)\?\)$/s, ' (did you mean $1?)')
    .replace(/\.$/, '');
  return `${text.replaceAll('\n', ' ')}; see microvisor ${verb === undefined ? '' : `${verb} `}--help`;
}

const end: Invocation['end'] = ({ status, signal }) => {
  if (signal !== undefined) dieOf(signal);
  process.exitCode = status;
};

async function main(argv: readonly string[]): Promise<void> {
  const separator = argv.indexOf('--');
  const words = separator < 0 ? argv : argv.slice(0, separator);
  const invocation: Invocation = { rest: separator < 0 ? undefined : argv.slice(separator + 1), end };
  const verb = VERBS.find(({ name }) => words.find((word) => !word.startsWith('-') && word !== 'help') === name);
  const program = new Command('microvisor')
    .description('A micro-VMM on /dev/kvm, without QEMU.')
    .version(packageVersion(), '--version', 'print the version')
    .helpOption('--help', 'print this help')
    .addHelpText('after', AFTER_HELP)
    // Inherited by the verbs: an error is thrown, and said below; help is written before the process can end.
    .exitOverride()
    .configureOutput({ writeErr: () => undefined, writeOut: (text) => void writeSync(1, text) });
  for (const row of VERBS) {
    const command = program.command(row.name).description(row.summary).helpOption('--help', 'print this help');
    if (row === verb) (await row.load()).define(command, invocation);
  }
  try {
    if (separator >= 0 && !TAKE_COMMAND.includes(verb?.name ?? ''))
      throw new UsageError('--', 'only run and restore take a COMMAND; leave it out');
    await program.parseAsync(words, { from: 'user' });
  } catch (error) {
    const sentence = error instanceof CommanderError ? usageSentence(error, verb?.name) : describeError(error);
    if (sentence !== undefined) say(sentence);
    process.exitCode = sentence === undefined ? 0 : USAGE_STATUS;
  }
}

void main(process.argv.slice(2)).then(() => setTimeout(() => process.exit(), LEFTOVER_MS).unref());
