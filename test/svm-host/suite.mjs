// npm run test:svm: the tests that depend on a host's KVM, on a host with hardware virtualization (see run beside this).
// MICROVISOR_HOST=svm in their environment tells them where they are. Arguments go to vitest: a file, `-t NAME`, …
// An emulated host has one processor, so there is one for each of this machine's, up to as many as share the work well.
// Closes with what failed, a line for each, and `N passed, N failed, N skipped`, the sum of all; status 1 when anything
// failed.
//
// QEMU's software emulation now and then stands still for good, whatever runs in it. So a host that says nothing for long,
// or ends before its files, is ended, and another one gets the files that are left, from that one on. A file in which it
// happens twice has failed, and so have those that are left when it goes on like that.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { deal, svmFiles } from './files.mjs';

const MEMORY_MIB = 6144;
const HOSTS_MOST = 2;
/** Hosts after each other. Where all of them stand still, waiting for each file twice would take hours. */
const REPLACEMENTS_MOST = 4;
/** Longer than any test is silent, the start of a host included. */
const SILENCE_MS = 1000 * Number(process.env.MICROVISOR_SVM_SILENCE ?? 300);
/** The longest time of one host, so that one that goes on for ever ends. */
const SECONDS = process.env.MICROVISOR_SVM_SECONDS ?? '3000';

const repository = fileURLToPath(new URL('../..', import.meta.url));
const run = fileURLToPath(new URL('run', import.meta.url));
const VITEST = ['node_modules/vitest/vitest.mjs', 'run', '--config', 'test/svm-host/vitest.config.js'];
const COUNTS =
  /^(?:(?<file>dist\/test\/\S+\.test\.js): )?(?<passed>\d+) passed, (?<failed>\d+) failed, (?<skipped>\d+) skipped$/;

/** A line for each failure: on the hosts the reporters print them, and twice. */
const failures = new Set();
const FAILURE = /^FAILED /;

/** What runs now, each a process group of its own: it ends with this one. */
const running = new Set();
let isEnding = false;
const end = (child) => {
  try {
    process.kill(-child.pid, 'SIGTERM');
  } catch {
    // It has ended by itself.
  }
};
for (const [signal, number] of [
  ['SIGHUP', 1],
  ['SIGINT', 2],
  ['SIGTERM', 15],
])
  process.once(signal, async () => {
    isEnding = true;
    await Promise.all([...running].map((child) => (end(child), once(child, 'close'))));
    process.exit(128 + number);
  });

function start(command, args, options = {}) {
  const child = spawn(command, args, { cwd: repository, detached: true, ...options });
  running.add(child);
  child.once('close', () => running.delete(child));
  return child;
}

async function step(command, args) {
  const [status] = await once(start(command, args, { stdio: 'inherit' }), 'close');
  if (status !== 0) process.exit(status ?? 1);
}

/**
 * Starts a host, and vitest in it.
 * @param {string} name for its lines
 * @param {string[]} args for vitest
 * @returns the count of each file that ended, the sum that vitest closed with, if it came so far, and the status
 */
async function onHost(name, args) {
  const child = start(
    run,
    [
      '-m',
      String(MEMORY_MIB),
      '-t',
      SECONDS,
      'env',
      'MICROVISOR_HOST=svm',
      'MICROVISOR_REQUIRE_KVM=1',
      'node',
      ...VITEST,
      ...args,
    ],
    { stdio: ['ignore', 'pipe', 'pipe'] },
  );
  const files = new Map();
  let sum;
  let isSilent = false;
  let silence;
  const heard = () => {
    clearTimeout(silence);
    silence = setTimeout(() => {
      isSilent = true;
      end(child);
    }, SILENCE_MS);
  };
  heard();
  for (const stream of [child.stdout, child.stderr])
    createInterface({ input: stream }).on('line', (line) => {
      heard();
      process.stdout.write(`${name}: ${line}\n`);
      if (FAILURE.test(line)) failures.add(line.trimEnd());
      const counts = COUNTS.exec(line.trim())?.groups;
      if (counts === undefined) return;
      if (counts.file === undefined) sum = counts;
      else files.set(counts.file, counts);
    });
  const [status] = await once(child, 'close');
  clearTimeout(silence);
  return { files, sum, status, isSilent };
}

const total = { passed: 0, failed: 0, skipped: 0 };
function count(counts) {
  for (const state of Object.keys(total)) total[state] += Number(counts[state]);
}

/** @param {string[]} files all of which end, or fail */
async function runFiles(name, files) {
  let stood;
  let replacements = 0;
  for (let left = files; left.length > 0;) {
    const { files: ended, sum, status, isSilent } = await onHost(name, left);
    for (const counts of ended.values()) count(counts);
    left = left.filter((file) => !ended.has(file));
    if (isEnding) return;
    if (sum !== undefined) {
      // Errors outside of tests are in the sum, and in no file's count.
      const inFiles = [...ended.values()].reduce((failed, counts) => failed + Number(counts.failed), 0);
      const others = Number(sum.failed) - inFiles;
      total.failed += others > 0 ? others : status !== 0 && inFiles === 0 ? 1 : 0;
      return;
    }
    const [file] = left;
    const what = isSilent ? `said nothing for ${SILENCE_MS / 1000} s` : `ended with status ${status}`;
    if (file !== stood) {
      process.stdout.write(`${name}: the host ${what} in ${file}: another one gets what is left\n`);
      stood = file;
    } else {
      process.stdout.write(`${name}: the host ${what} in ${file} again: that file has failed\n`);
      failures.add(`FAILED ${file}: the host ${what} in it, twice`);
      total.failed += 1;
      left = left.slice(1);
    }
    if (left.length > 0 && ++replacements > REPLACEMENTS_MOST) {
      process.stdout.write(
        `${name}: ${REPLACEMENTS_MOST} hosts were replaced: the ${left.length} files left have failed\n`,
      );
      for (const each of left)
        failures.add(`FAILED ${each}: it never ran, for ${REPLACEMENTS_MOST} hosts were replaced`);
      total.failed += left.length;
      return;
    }
  }
}

function availableMiB() {
  return Number(/^MemAvailable:\s+(\d+) kB/m.exec(readFileSync('/proc/meminfo', 'utf8'))?.[1] ?? 0) / 1024;
}

// The SVM host reads this machine's files but has no network: what is to be built or fetched is so before it starts.
await step(process.execPath, ['test/svm-host/prepare.mjs']);
await step(run, ['-P']);

const asked = process.argv.slice(2);
if (asked.length > 0) {
  // A second host would have nothing to do, and what was asked for by name is not tried again.
  const { sum, status } = await onHost('1', asked);
  count(sum ?? { passed: 0, failed: 1, skipped: 0 });
  if (status !== 0 && total.failed === 0) total.failed = 1;
} else {
  const most = Math.min(HOSTS_MOST, availableParallelism(), Math.floor(availableMiB() / MEMORY_MIB));
  const dealt = deal(svmFiles(), Math.max(1, most));
  await Promise.all(dealt.map((files, index) => runFiles(String(index + 1), files)));
}
for (const line of failures) process.stdout.write(`${line}\n`);
process.stdout.write(`${total.passed} passed, ${total.failed} failed, ${total.skipped} skipped\n`);
process.exitCode = total.failed === 0 ? 0 : 1;
