// `microvisor lesson` as a person uses it, a process each: list, explain, run, work in one's own folder, grade at each save.
// The lessons themselves are in lessons.test.ts.
import { execFileSync } from 'node:child_process';
import { copyFileSync, cpSync, mkdirSync, readdirSync, readFileSync, symlinkSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { GUESTS } from '../../guests/ladder/build.js';
import { LESSONS } from '../../guests/ladder/lessons.js';
import { microvisor, start, type Ended } from '../support/cli.js';
import { noKvm } from '../support/kvm.js';

const ROOT = join(GUESTS, '..');
const SOLUTION = join(GUESTS, '01-halt/solution/exercise.S');

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'microvisor-test-'));
});
afterEach(() => rm(folder, { recursive: true }));

const lesson = (words: readonly string[], env: Readonly<Record<string, string>> = {}): Promise<Ended> =>
  microvisor(['lesson', ...words], { env });

describe('microvisor lesson', { timeout: 180_000 }, () => {
  it('"lists" the lessons with their one-line summary', async () => {
    const { status, stdout } = await lesson([]);
    expect(status).toBe(0);
    for (const { summary } of LESSONS) expect(String(stdout)).toContain(` ${summary}\n`);
  });

  it.skipIf(noKvm)('"explains" and "runs": the README plainly, then the guest', async () => {
    const { status, stdout, stderr } = await lesson(['2']);
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
    expect(String(stdout)).toMatch(
      /^Lesson 2: port output\n[^]*The idea: a device is what the VMM does[^]*\nHello from real mode\.\n[^]*--work DIR/,
    );
  });

  it.skipIf(noKvm)('"the user\'s work lies in a folder of their own": copied once, graded each time', async () => {
    const path = join(folder, 'work/01-halt/exercise.S');
    const first = await lesson(['1', '--work', join(folder, 'work')]);
    expect(first.status).toBe(1);
    expect(String(first.stdout)).toContain(`is in ${path} now`);
    expect(String(first.stdout)).toContain('For N = 1 AX is 0 at the end, and 1 was expected.');
    copyFileSync(SOLUTION, path);
    const second = await lesson(['1', '--work', join(folder, 'work')]);
    expect(second).toMatchObject({ status: 0, stderr: '' });
    expect(String(second.stdout)).toMatch(
      /✓ AX is 5050 for N = 100\nLesson 01-halt is passed\.\nThe next: npx microvisor lesson 2\n$/,
    );
    // "never over a file of yours"
    expect(readFileSync(path)).toEqual(readFileSync(SOLUTION));
  });

  it.skipIf(noKvm)('"--watch reruns on save", in a folder of its own choice when it is told none', async () => {
    const { child, seen, ended } = start(['lesson', '1', '--watch'], { input: '', cwd: folder });
    try {
      await seen('is in my-lessons/01-halt/exercise.S now');
      await seen('Waiting for you to save it');
      copyFileSync(SOLUTION, join(folder, 'my-lessons/01-halt/exercise.S'));
      await seen('Lesson 01-halt is passed.');
      child.kill('SIGINT');
      expect((await ended).signal).toBe('SIGINT');
    } finally {
      child.kill('SIGKILL');
    }
  });

  it('names the tools when they are missing', async () => {
    const { status, stderr } = await lesson(['1', '--work', folder], { PATH: folder, XDG_CACHE_HOME: folder });
    expect(status).toBe(2);
    expect(stderr).toMatch(
      /^microvisor: .*exercise\.S is made with GNU binutils and gcc, and "as" cannot be started.*apt-get/,
    );
  });

  it.skipIf(noKvm)('runs without a cache that it can write, and from the cache without binutils', async () => {
    expect(await lesson(['1'], { XDG_CACHE_HOME: '/dev/null' })).toMatchObject({ status: 0 });
    expect(await lesson(['1'], { XDG_CACHE_HOME: folder })).toMatchObject({ status: 0 });
    expect(readdirSync(join(folder, 'microvisor/lessons'))).toEqual([expect.stringMatching(/^\w{16}\.bin$/)]);
    expect(await lesson(['1'], { XDG_CACHE_HOME: folder, PATH: folder })).toMatchObject({ status: 0 });
  });

  it.skipIf(noKvm)('works from what npm pack puts into the package', () => {
    const pack = ['pack', '--ignore-scripts', '--offline', '--silent', '--pack-destination', folder];
    const archive = execFileSync('npm', pack, { cwd: ROOT, encoding: 'utf8' }).trim().split('\n').at(-1) ?? '';
    execFileSync('tar', ['-xzf', join(folder, archive), '-C', folder]);
    // What an installation would have made: the dependencies and the addon.
    const root = join(folder, 'package');
    symlinkSync(join(ROOT, 'node_modules'), join(root, 'node_modules'));
    mkdirSync(join(root, 'native/build'));
    cpSync(join(ROOT, 'native/build/Release/microvisor.node'), join(root, 'native/build/Release/microvisor.node'));
    const main = join(root, 'dist/bundle/cli/main.js');
    const run = (words: readonly string[]): string =>
      execFileSync(process.execPath, [main, 'lesson', ...words], {
        encoding: 'utf8',
        stdio: ['ignore', 'pipe', 'pipe'],
      });
    expect(run(['10'])).toMatch(/\n10 bytes: [0-9a-f]{32}\n/);
    mkdirSync(join(folder, 'work/01-halt'), { recursive: true });
    copyFileSync(join(root, 'guests/01-halt/solution/exercise.S'), join(folder, 'work/01-halt/exercise.S'));
    expect(run(['1', '--work', join(folder, 'work')])).toContain('Lesson 01-halt is passed.');
  });
});
