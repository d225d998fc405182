// The cache of what the guest is made of: directories named by a hash of their inputs, complete or not there at all.
// rename(2), fsync(2), flock(2): an artifact appears by one rename after everything in it is on the disk.

import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, open, readFile, readdir, rename, rm, writeFile } from 'node:fs/promises';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

/** `$XDG_CACHE_HOME/microvisor`, or `~/.cache/microvisor`. */
export function defaultCacheDirectory(): string {
  const configured = process.env['XDG_CACHE_HOME'];
  // The XDG specification: a relative path is to be ignored.
  const base = configured?.startsWith('/') === true ? configured : join(homedir(), '.cache');
  return join(base, 'microvisor');
}

/** 16 hex digits that stand for these inputs, in this order. */
export function hashOf(inputs: readonly (string | Uint8Array)[]): string {
  const hash = createHash('sha256');
  for (const input of inputs) {
    // The length keeps ["ab", "c"] and ["a", "bc"] apart.
    hash.update(`${input.length}:`).update(input);
  }
  return hash.digest('hex').slice(0, 16);
}

const TEMPORARY = 'guest-tmp-';
const LOCK_FILE = 'guest-lock';
const LOCK_EX = 2;
const LOCK_NB = 4;
const LOCK_POLL_MS = 200;

async function syncPath(path: string): Promise<void> {
  const handle = await open(path, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

async function syncTree(directory: string): Promise<void> {
  for (const entry of await readdir(directory, { withFileTypes: true })) {
    const path = join(directory, entry.name);
    if (entry.isDirectory()) await syncTree(path);
    else if (entry.isFile()) await syncPath(path);
  }
  await syncPath(directory);
}

/** Writes a small file so that a reader sees the old content or the new, never a part. */
export async function replaceFile(path: string, text: string): Promise<void> {
  const temporary = `${path}.${process.pid}`;
  await writeFile(temporary, text, { flush: true });
  await rename(temporary, path);
}

/**
 * Runs `work` while no other process works in this cache. The kernel drops the lock when its holder dies, however it
 * dies. `onWait` is told once, with the holder's process id when it is known.
 */
export async function withCacheLock<T>(
  directory: string,
  options: { readonly onWait?: (holder: string) => void; readonly signal?: AbortSignal | undefined },
  work: () => Promise<T>,
): Promise<T> {
  await mkdir(directory, { recursive: true });
  // Loaded here only: a guest that is already in the cache does not pay for it.
  const { default: koffi } = await import('koffi');
  const flock = koffi.load(null).func('int flock(int fd, int operation)');
  const handle = await open(join(directory, LOCK_FILE), 'a+');
  try {
    let told = false;
    while (Number(flock(handle.fd, LOCK_EX | LOCK_NB)) !== 0) {
      if (!told) options.onWait?.((await readFile(join(directory, LOCK_FILE), 'utf8')).trim());
      told = true;
      await sleep(LOCK_POLL_MS, undefined, options.signal === undefined ? {} : { signal: options.signal });
    }
    await handle.truncate(0);
    await handle.write(`${process.pid}\n`);
    await removeLeftovers(directory);
    return await work();
  } finally {
    await handle.close();
  }
}

/** Under the lock every temporary directory is one whose maker has died. */
async function removeLeftovers(directory: string): Promise<void> {
  for (const name of await readdir(directory)) {
    // A dead maker's compilers may still be ending in there: hence the retries.
    if (name.startsWith(TEMPORARY)) {
      await rm(join(directory, name), { recursive: true, force: true, maxRetries: 10, retryDelay: 100 });
    }
  }
}

/** Where an artifact is built: what lies in `output` becomes the artifact, `scratch` goes away. */
export interface BuildPlace {
  readonly output: string;
  readonly scratch: string;
}

/**
 * The directory `name` in the cache, built first when it is not there. To be called under `withCacheLock`.
 * @returns its path
 */
export async function artifact(
  directory: string,
  name: string,
  build: (place: BuildPlace) => Promise<void>,
): Promise<string> {
  const path = join(directory, name);
  if (existsSync(path)) return path;
  const temporary = await mkdtemp(join(directory, TEMPORARY));
  try {
    const place = { output: join(temporary, 'output'), scratch: join(temporary, 'scratch') };
    await mkdir(place.output);
    await mkdir(place.scratch);
    await build(place);
    await syncTree(place.output);
    await rename(place.output, path);
    await syncPath(directory);
    return path;
  } finally {
    await rm(temporary, { recursive: true, force: true, maxRetries: 10, retryDelay: 100 });
  }
}
