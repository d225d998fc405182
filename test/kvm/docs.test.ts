// "Every code sample in them is run by a test": the ts blocks of docs/ are compiled as a reader's program would be, and run.
// What a sample prints is what the page says that it prints. Those of README.md boot a kernel of the reader's: compiled only.
import { execFile, spawnSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { samplesOf } from '../support/docs.js';
import { noKvm } from '../support/kvm.js';

const ROOT = fileURLToPath(new URL('../../..', import.meta.url));
const pages = readdirSync(join(ROOT, 'docs')).filter((name) => name.endsWith('.md'));
const samples = pages.flatMap((page) =>
  samplesOf(page.replace('.md', ''), readFileSync(join(ROOT, 'docs', page), 'utf8')),
);

// As deep in dist/ as examples/ is in the repository: the library is found by its name, and a lesson's parts by '../guests'.
const folder = mkdtempSync(join(ROOT, 'dist/samples-'));
const compiled = `${folder}-js`;

/** What README.md's samples take for granted: a sample is a piece of a program there. */
const README_NAMES: Readonly<Record<string, string>> = {
  ClosureDeviceConfig: "import type { ClosureDeviceConfig } from 'microvisor';",
  createVm: "import { createVm } from 'microvisor';",
  restoreVm: "import { restoreVm } from 'microvisor';",
  VcpuPool: "import { VcpuPool } from 'microvisor';",
  kernel: 'declare const kernel: string;',
  bootLinux: "import { bootLinux } from 'microvisor/testing';",
  test: "import { test } from 'node:test';",
  assert: "import assert from 'node:assert/strict';",
  vm: "declare const vm: import('microvisor').Vm;",
};
const front = samplesOf('README', readFileSync(join(ROOT, 'README.md'), 'utf8')).map(({ file, text }) => {
  const isMissing = (name: string): boolean =>
    new RegExp(`\\b${name}\\b`).test(text) && !new RegExp(`(?:const|using|import \\{.*) ${name}\\b`).test(text);
  const given = Object.entries(README_NAMES).flatMap(([name, line]) => (isMissing(name) ? [line] : []));
  return { file, text: `${given.join('\n')}\n${text}\nexport {};\n` };
});

/** A piece of a program names what the next piece uses. */
const UNUSED = { noUnusedLocals: false, noUnusedParameters: false } as const;

beforeAll(() => {
  for (const { file, text } of [...samples, ...front]) writeFileSync(join(folder, file), text);
  const compilerOptions = {
    outDir: compiled,
    rootDir: '.',
    composite: false,
    incremental: false,
    sourceMap: false,
    ...UNUSED,
  };
  const config = { extends: join(ROOT, 'tsconfig.json'), compilerOptions, include: ['*.ts'] };
  writeFileSync(join(folder, 'tsconfig.json'), JSON.stringify(config));
  const tsc = join(ROOT, 'node_modules/typescript/bin/tsc');
  const { stdout } = spawnSync(process.execPath, [tsc, '-p', folder], { encoding: 'utf8' });
  expect(stdout).toBe('');
});
afterAll(() => [folder, compiled].forEach((path) => rmSync(path, { recursive: true, force: true })));

describe.skipIf(noKvm)('the samples of docs/', { timeout: 180_000 }, () => {
  it('are there, and all compile', () => {
    expect(samples.filter(({ isProgram }) => isProgram).length).toBeGreaterThan(4);
    expect(front.length).toBeGreaterThan(4);
  });

  it.each(samples.filter(({ isProgram }) => isProgram))('$file', async ({ file, output }) => {
    const { stdout } = await promisify(execFile)(process.execPath, [join(compiled, file.replace('.ts', '.js'))]);
    expect(stdout).not.toBe('');
    if (output !== undefined) expect(stdout).toBe(output);
  });
});
