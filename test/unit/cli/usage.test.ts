// The command line as a person types it, without a VM: help, version, and one sentence for everything else.
import { spawnSync } from 'node:child_process';
import { describe, expect, test } from 'vitest';
import { MAIN } from '../../support/cli.js';

function microvisor(...words: readonly string[]): { status: number | null; stdout: string; stderr: string } {
  return spawnSync(process.execPath, [MAIN, ...words], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
}

describe('"one clear sentence, status 2"', () => {
  test.each([
    ['an unknown option', ['run', '--bogus'], /'--bogus'.*run --help/],
    ['a misspelt option', ['run', '--memm', '4'], /'--memm' \(did you mean --mem\?\)/],
    ['an unknown verb', ['boot'], /'boot'/],
    ['no verb', [], /name a verb: run, restore, snapshot, check, disk, guest, trace, lesson/],
    ['an option without its value', ['run', '--mem'], /--mem/],
    ['a COMMAND without --', ['run', 'uname'], /microvisor run -- uname/],
    ['-- without COMMAND', ['run', '--'], /nothing follows --/],
    ['--warm with a disk', ['run', '--warm', '--disk', 'x'], /--warm: is for the default guest without .*--disk/],
    ['a COMMAND for another verb', ['check', '--', 'ls'], /only run and restore take a COMMAND/],
    ['words too many', ['check', 'this'], /check --help/],
    ['a number that is none', ['run', '--mem', 'NaN'], /--mem: takes a whole number of MiB/],
    ['a negative number', ['run', '--cpus', '-1'], /--cpus: .*"-1"/],
    ['a verb without its command', ['disk'], /disk --help/],
    ['a command that the verb has not', ['disk', 'destroy'], /'destroy'.*disk --help/],
    ['a disk without a size', ['disk', 'create', 'x'], /--size: is missing/],
    ['a disk without a file', ['disk', 'create', '--size', '1M'], /'FILE'/],
    ['a disk of half a sector', ['disk', 'create', 'x', '--size', '1048832'], /--size: .*a multiple of 512/],
    ['a guest that there is not', ['guest', '--guest', 'big'], /--guest: takes stock or small/],
    ['a lesson that there is not', ['lesson', '99'], /N: there is no lesson "99"; microvisor lesson lists them/],
    ['a lesson by half of its name', ['lesson', 'halt'], /N: there is no lesson "halt"/],
    ['work without a lesson', ['lesson', '--work', 'x'], /N: is missing: name the lesson to grade/],
    ['a folder that is none', ['lesson', '1', '--work', MAIN], /--work: .*main\.js is no folder; name one/],
    [
      'a folder that cannot be made',
      ['lesson', '1', '--work', '/proc/x'],
      /cannot be copied to \/proc\/x\/01-halt\/ex.*another/,
    ],
    ['a folder without a name', ['lesson', '1', '--work', ''], /--work: takes the name of a folder/],
    ['nothing to watch', ['lesson', '--watch'], /N: is missing: name the lesson to grade/],
    ['options that conflict', ['run', '--load', '0x1000'], /--load: .*--entry/],
  ])('%s', (_, words, message) => {
    const { status, stdout, stderr } = microvisor(...words);
    expect({ status, stdout }).toEqual({ status: 2, stdout: '' });
    expect(stderr).toMatch(message);
    expect(stderr).toMatch(/^microvisor: [^\n]+\n$/);
  });
});

describe('what was asked for goes to stdout, with status 0', () => {
  test.each([
    ['--help', ['--help'], /microvisor run -- uname -a/],
    ['help of a verb', ['run', '--help'], /--kernel <FILE>[^]*Status: 0 the guest powered off/],
    ['the same by the word', ['help', 'check'], /--json/],
    ['help of a command of a verb', ['disk', 'create', '--help'], /--from <DIR>/],
    ['the lessons', ['lesson'], / 13 {2}linux-boot +the Linux boot protocol[^]*npx microvisor lesson 1 begins\.\n$/],
    ['--version', ['--version'], /^\d+\.\d+\.\d+\n$/],
  ])('%s', (_, words, text) => {
    const { status, stdout, stderr } = microvisor(...words);
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
    expect(stdout).toMatch(text);
  });

  test('every option of the issue is in the help', () => {
    const { stdout } = microvisor('run', '--help');
    for (const option of '--kernel --initrd --cmdline --append --entry --load --mem --cpus --console --report --timeout --firmware --guest --disk --net --entropy --no-entropy --verbose'.split(
      ' ',
    ))
      expect(stdout).toContain(`  ${option} `);
  });
});
