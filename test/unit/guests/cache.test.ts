// The guest cache: an artifact is complete or not there, whoever dies in the middle and however many prepare at once.
// guests/linux/cache.ts.

import { fork, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { artifact, hashOf, withCacheLock } from '../../../guests/linux/cache.js';

let directory = '';
const children: ChildProcess[] = [];

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'cache-test-'));
});

afterEach(() => {
  for (const child of children.splice(0)) child.kill('SIGKILL');
  rmSync(directory, { recursive: true, force: true });
});

/** A process that takes the lock, builds half an artifact, says so and stays there. */
async function startHalfBuilder(): Promise<ChildProcess> {
  const script = join(directory, 'half.mjs');
  const cache = new URL('../../../guests/linux/cache.js', import.meta.url).href;
  writeFileSync(
    script,
    `import { writeFile } from 'node:fs/promises';
     import { join } from 'node:path';
     import { artifact, withCacheLock } from ${JSON.stringify(cache)};
     await withCacheLock(${JSON.stringify(join(directory, 'cache'))}, {}, () =>
       artifact(${JSON.stringify(join(directory, 'cache'))}, 'thing-1', async ({ output }) => {
         await writeFile(join(output, 'file'), 'half');
         process.send('half');
         await new Promise((resolve) => setTimeout(resolve, 600_000));
       }));`,
  );
  const child = fork(script, { stdio: 'ignore' });
  children.push(child);
  await once(child, 'message');
  return child;
}

async function buildWhole(cache: string, waits: string[] = []): Promise<string> {
  return withCacheLock(cache, { onWait: (holder) => waits.push(holder) }, () =>
    artifact(cache, 'thing-1', ({ output }) => writeFile(join(output, 'file'), 'whole')),
  );
}

describe('the guest cache', () => {
  it('"complete or not there at all": kill -9 leaves nothing under the name, and the next one cleans up', async () => {
    const cache = join(directory, 'cache');
    const child = await startHalfBuilder();
    expect(existsSync(join(cache, 'thing-1'))).toBe(false);
    expect(readdirSync(cache).filter((name) => name.startsWith('guest-tmp-'))).toHaveLength(1);
    child.kill('SIGKILL');
    await once(child, 'exit');
    expect(readFileSync(join(await buildWhole(cache), 'file'), 'utf8')).toBe('whole');
    expect(readdirSync(cache).toSorted()).toEqual(['guest-lock', 'thing-1']);
  });

  it('"Runs work while no other process works in this cache", and names whom it waits for', async () => {
    const cache = join(directory, 'cache');
    const child = await startHalfBuilder();
    const waits: string[] = [];
    const second = buildWhole(cache, waits);
    await expect.poll(() => waits).toEqual([String(child.pid)]);
    expect(existsSync(join(cache, 'thing-1'))).toBe(false);
    child.kill('SIGKILL');
    expect(readFileSync(join(await second, 'file'), 'utf8')).toBe('whole');
  });

  it('gives up waiting when aborted', async () => {
    await startHalfBuilder();
    const abort = new AbortController();
    const waiting = withCacheLock(join(directory, 'cache'), { signal: abort.signal, onWait: () => abort.abort() }, () =>
      Promise.resolve(),
    );
    await expect(waiting).rejects.toThrow(/abort/i);
  });

  it('builds an artifact once, and leaves none of a build that failed', async () => {
    mkdirSync(join(directory, 'cache'));
    const cache = join(directory, 'cache');
    await expect(artifact(cache, 'thing-1', () => Promise.reject(new Error('no')))).rejects.toThrow('no');
    expect(readdirSync(cache)).toEqual([]);
    let builds = 0;
    const build = (): Promise<void> => {
      builds += 1;
      return Promise.resolve();
    };
    await artifact(cache, 'thing-1', build);
    await artifact(cache, 'thing-1', build);
    expect(builds).toBe(1);
  });
});

describe('hashOf', () => {
  it('"keeps [ab, c] and [a, bc] apart"', () => {
    expect(hashOf(['ab', 'c'])).not.toBe(hashOf(['a', 'bc']));
    expect(hashOf(['ab', 'c'])).toBe(hashOf([Buffer.from('ab'), 'c']));
    expect(hashOf([])).toMatch(/^[0-9a-f]{16}$/);
  });
});
