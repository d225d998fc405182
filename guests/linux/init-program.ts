// Compiles the guest's /init, a static program, from the C sources beside this package.
// gcc(1); musl where there is musl-gcc, because its programs are a tenth of glibc's.

import { readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { run } from './command.js';
import { inPath } from './packages.js';

const FLAGS = [
  '-static',
  '-Os',
  '-std=gnu17',
  '-Wall',
  '-fno-stack-protector',
  '-ffunction-sections',
  '-fdata-sections',
  // One loaded segment less, no page lost between code and constants: fewer faults in the guest.
  '-Wl,--gc-sections,-z,norelro,-z,noseparate-code,--build-id=none',
  '-s',
];

/** The C sources and headers, by name, in a fixed order. */
export function initSources(directory: string): { name: string; text: string }[] {
  return readdirSync(directory)
    .filter((name) => /\.[ch]$/.test(name))
    .toSorted()
    .map((name) => ({ name, text: readFileSync(join(directory, name), 'utf8') }));
}

export async function compileInit(directory: string, output: string, signal: AbortSignal | undefined): Promise<void> {
  const compiler = inPath('musl-gcc') === undefined ? 'gcc' : 'musl-gcc';
  const sources = initSources(directory)
    .filter(({ name }) => name.endsWith('.c'))
    .map(({ name }) => join(directory, name));
  await run(compiler, [...FLAGS, '-o', output, ...sources], { purpose: "compile the guest's /init", signal });
}
