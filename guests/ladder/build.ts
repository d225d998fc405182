// Makes a flat binary of a guest's source when it is needed, and keeps the result in the user's cache.
// GNU as (-mx86-used-note), gcc (freestanding), GNU ld (flat.ld); the XDG base directory specification for the cache.
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { defaultCacheDirectory, hashOf } from '../linux/cache.js';

/** The sources; what is compiled runs in dist/guests/ladder. */
export const GUESTS = fileURLToPath(new URL('../../../guests/', import.meta.url));
/** What guests include, and how they are linked. */
const SHARED = join(GUESTS, 'ladder');

/** The bytes that belong at `origin`, the first instruction first. */
export type BuiltGuest = Uint8Array;

/** The source has errors: the message quotes the assembler or compiler. */
export class SourceError extends Error {
  override readonly name = 'SourceError';
}

// 32-bit C without a library. The guest has no stack protector's canary, and its KVM may lack the emulation of SSE.
const C_FLAGS = ['-m32', '-std=c11', '-O1', '-Wall', '-Wextra', '-ffreestanding', '-fno-pic', '-fno-stack-protector'];
const C_TARGET = ['-mgeneral-regs-only', '-fcf-protection=none', '-fno-asynchronous-unwind-tables'];

interface Language {
  readonly compile: (source: string, object: string) => readonly [tool: string, ...args: string[]];
  /** ld's name for the object's format. */
  readonly emulation: string;
}

const LANGUAGES: Readonly<Record<string, Language>> = {
  S: {
    compile: (source, object) => ['as', '--64', '-mx86-used-note=no', '-I', SHARED, '-o', object, source],
    emulation: 'elf_x86_64',
  },
  c: {
    compile: (source, object) => ['gcc', ...C_FLAGS, ...C_TARGET, '-I', SHARED, '-c', '-o', object, source],
    emulation: 'elf_i386',
  },
};

/** The worked guest of a lesson: `01-halt` with `guest.S`. @throws Error as `build` */
export function buildLesson(lesson: string, origin: number, file = 'guest.S'): BuiltGuest {
  return build(join(GUESTS, lesson, file), origin);
}

/**
 * @param source path of a .S or .c file
 * @param origin GPA at which the guest will lie
 * @throws SourceError; Error that names the tool to install, or says why the source cannot be read
 */
export function build(source: string, origin: number): BuiltGuest {
  const language = LANGUAGES[source.slice(source.lastIndexOf('.') + 1)];
  if (language === undefined) throw new Error(`${source}: a guest is written in .S or .c`);
  const text = readFileSync(source);
  const cache = join(defaultCacheDirectory(), 'lessons');
  const cached = join(cache, `${hashOf([recipe(language), String(origin), text])}.bin`);
  try {
    return readFileSync(cached);
  } catch {
    // Not there yet.
  }
  const work = mkdtempSync(join(tmpdir(), 'microvisor-lesson-'));
  try {
    const object = join(work, 'guest.o');
    const binary = join(work, 'guest.bin');
    run(language.compile(source, object), source);
    const at = `--defsym=LOAD_ADDRESS=0x${origin.toString(16)}`;
    const link = ['-m', language.emulation, '--oformat', 'binary', '-e', 'start', at, '-T', join(SHARED, 'flat.ld')];
    run(['ld', ...link, '-o', binary, object], source);
    const bytes = readFileSync(binary);
    keep(cache, cached, bytes);
    return bytes;
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

/** Everything but the source that a binary depends on: the commands, and the files that a source may include. */
function recipe({ compile, emulation }: Language): string {
  const shared = readdirSync(SHARED).filter((name) => /\.(?:S|h|ld)$/.test(name));
  const texts = shared.toSorted().map((name) => readFileSync(join(SHARED, name), 'utf8'));
  return [...compile('', ''), emulation, ...texts].join('\n').replaceAll(SHARED, '');
}

function run([tool, ...args]: readonly [string, ...string[]], source: string): void {
  const { error, status, stderr } = spawnSync(tool, args, { encoding: 'utf8', env: { ...process.env, LC_ALL: 'C' } });
  if (error !== undefined)
    throw new Error(
      `${source} is made with GNU binutils and gcc, and "${tool}" cannot be started (${error.message}); ` +
        `install them: apt-get install binutils gcc, or dnf install binutils gcc`,
      { cause: error },
    );
  if (status !== 0) throw new SourceError(`${tool} refuses ${source}:\n${stderr.trimEnd()}`);
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
