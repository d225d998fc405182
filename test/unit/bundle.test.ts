// The joined code that a user's process runs: the same library, and compiled before it starts.
// bundle/ makes it; what it is good for is measured by `npm run bench -- boot`.
import { execFileSync, spawnSync } from 'node:child_process';
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import * as source from '../../src/index.js';

const BUNDLE = fileURLToPath(new URL('../../bundle/', import.meta.url));

describe('dist/bundle', () => {
  it('exports what src/index.ts does', async () => {
    // By the package's own name, as a user imports it.
    expect(Object.keys(await import('microvisor')).toSorted()).toEqual(Object.keys(source).toSorted());
  });

  it('"V8 itself refuses a cache of another version or of other flags": it takes all of those that the build left', () => {
    const files = ['command', 'thread', 'library'].flatMap((folder) =>
      readdirSync(join(BUNDLE, folder))
        .filter((name) => name.endsWith('.js'))
        .map((name) => join(BUNDLE, folder, name)),
    );
    expect(files.length).toBeGreaterThan(10);
    // In a process without the flags of a test runner.
    const check = `
      const { readFileSync } = require('node:fs');
      for (const file of process.argv.slice(1)) {
        const cachedData = readFileSync(file + '.cache');
        const script = new (require('node:vm').Script)(readFileSync(file, 'utf8'), { cachedData });
        if (script.cachedDataRejected) console.log(file);
      }`;
    expect(execFileSync(process.execPath, ['-e', check, ...files]).toString()).toBe('');
  });
});

it('"npx microvisor" in a clone runs the file itself: it is a program', () => {
  const { status, stdout } = spawnSync(join(BUNDLE, 'cli/main.js'), ['--version'], { encoding: 'utf8' });
  expect([status, stdout]).toEqual([0, expect.stringMatching(/^\d+\.\d+\.\d+\n$/)]);
});

describe('launch', () => {
  let directory = '';
  beforeAll(() => {
    directory = mkdtempSync(join(tmpdir(), 'microvisor-launch-'));
    cpSync(join(BUNDLE, 'launch.js'), join(directory, 'launch.cjs'));
  });
  afterAll(() => rmSync(directory, { recursive: true }));

  function launched(main: string): unknown {
    const { launch } = createRequire(import.meta.url)(join(directory, 'launch.cjs')) as {
      launch: (main: string) => unknown;
    };
    return launch(join(directory, main));
  }

  it('runs a file, and each that it requires once', () => {
    const write = (name: string, code: string): void =>
      writeFileSync(join(directory, name), `(function (exports, require, module, __filename) { ${code} })`);
    write('part.js', 'exports.times = (globalThis.launches = (globalThis.launches ?? 0) + 1);');
    write(
      'main.js',
      "module.exports = [require('./part.js').times, require('./part.js').times, require('node:path').sep, __filename];",
    );
    expect(launched('main.js')).toEqual([1, 1, '/', join(directory, 'main.js')]);
  });

  it('"or only that of an earlier build": goes without a cache that is older than its file, or none of V8', () => {
    const file = join(directory, 'text.js');
    // V8 tells sources apart by their lengths: of an earlier build it would run the old code.
    const compile = `
      const { Script } = require('node:vm');
      require('node:fs').writeFileSync(process.argv[1] + '.cache', new Script('(function (exports) { exports.is = "old"; })').createCachedData());`;
    execFileSync(process.execPath, ['-e', compile, file]);
    writeFileSync(file, '(function (exports) { exports.is = "new"; })');
    utimesSync(`${file}.cache`, new Date(0), new Date(0));
    expect(launched('text.js')).toEqual({ is: 'new' });
    writeFileSync(`${file}.cache`, 'no cache');
    expect(launched('text.js')).toEqual({ is: 'new' });
  });

  it('"code that V8 took from its cache has none" of its own: import() finds packages and files from there, too', async () => {
    const file = join(directory, 'importing.js');
    const code = `(function (exports, require, module, __filename, __dirname, importModule) {
      exports.modules = [importModule('node:path'), importModule('./imported.mjs')]; })`;
    writeFileSync(file, code);
    writeFileSync(join(directory, 'imported.mjs'), 'export const is = "imported";');
    const compile = `
      const { Script } = require('node:vm');
      const { readFileSync, writeFileSync } = require('node:fs');
      const [file] = process.argv.slice(1);
      writeFileSync(file + '.cache', new Script(readFileSync(file, 'utf8')).createCachedData());`;
    execFileSync(process.execPath, ['-e', compile, file]);
    const print = `
      const { launch } = require(process.argv[1]);
      Promise.all(launch(process.argv[2]).modules).then(([path, { is }]) => console.log(path.sep, is));`;
    const printed = execFileSync(process.execPath, ['-e', print, join(directory, 'launch.cjs'), file]).toString();
    expect(printed).toBe('/ imported\n');
    // What is joined leaves nothing to the import() of its own.
    for (const folder of ['command', 'thread', 'library'])
      for (const name of readdirSync(join(BUNDLE, folder)).filter((name) => name.endsWith('.js')))
        expect(readFileSync(join(BUNDLE, folder, name), 'utf8'), name).not.toMatch(/\bimport\(/);
  });
});
