// Assembles a lesson's guest.S to a flat binary when the lesson starts, and keeps the result in the user's cache.
// GNU as (-mx86-used-note), GNU ld (--oformat binary); the XDG base directory specification for the cache.
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { defaultCacheDirectory, hashOf } from './linux/cache.js';

/** Part of the cache's key: whoever changes how a guest is made changes this, too. */
const RECIPE = 'as --64, ld binary, 1';

/** `guest.S` of a lesson's folder; the compiled lessons run in dist/, the sources stay where they are. */
export function sourcePath(lesson: string): string {
  return fileURLToPath(new URL(`../../guests/${lesson}/guest.S`, import.meta.url));
}

/**
 * The lesson's guest as the bytes that belong at `origin`, its first instruction first.
 * @param lesson name of the folder in guests/
 * @param origin GPA at which it will lie
 * @throws Error that names the tool to install, or quotes the assembler
 */
export function assemble(lesson: string, origin: number): Uint8Array {
  const source = sourcePath(lesson);
  const cache = join(defaultCacheDirectory(), 'lessons');
  const cached = join(cache, `${lesson}-${hashOf([RECIPE, String(origin), readFileSync(source)])}.bin`);
  try {
    return readFileSync(cached);
  } catch {
    // Not there yet.
  }
  const work = mkdtempSync(join(tmpdir(), 'microvisor-lesson-'));
  try {
    const object = join(work, 'guest.o');
    const binary = join(work, 'guest.bin');
    // The note about used ISA extensions would become part of a flat binary.
    run('as', ['--64', '-mx86-used-note=no', '-o', object, source], lesson);
    // A section of its own for each thing is of no use to a few instructions: all of it is .text.
    const layout = ['-m', 'elf_x86_64', '--oformat', 'binary', `-Ttext=0x${origin.toString(16)}`, '-e', 'start'];
    run('ld', [...layout, '-o', binary, object], lesson);
    const bytes = readFileSync(binary);
    keep(cache, cached, bytes);
    return bytes;
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

function run(tool: string, args: readonly string[], lesson: string): void {
  const { error, status, stderr } = spawnSync(tool, args, { encoding: 'utf8', env: { ...process.env, LC_ALL: 'C' } });
  if (error !== undefined)
    throw new Error(
      `lesson ${lesson} is assembled with GNU binutils, and "${tool}" cannot be started (${error.message}); ` +
        `install binutils: apt-get install binutils, or dnf install binutils`,
      { cause: error },
    );
  if (status !== 0) throw new Error(`${tool} refuses guests/${lesson}/guest.S:\n${stderr.trimEnd()}`);
}

/** A cache that cannot be written costs the next start some milliseconds, and nothing else. */
function keep(cache: string, path: string, bytes: Uint8Array): void {
  try {
    mkdirSync(cache, { recursive: true });
    const temporary = `${path}.${process.pid}`;
    writeFileSync(temporary, bytes);
    renameSync(temporary, path);
  } catch {
    // The bytes themselves are there.
  }
}
