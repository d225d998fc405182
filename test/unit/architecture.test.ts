// Holds src/ to the house: floors, no cycles, files of one sitting. Each rule is shown to fail on a breach first.
// The floors are drawn in README.md.
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { anyExports, cycles, fileBreaches, floorBreaches, strangers, type Sources } from '../support/architecture.js';

const ROOT = fileURLToPath(new URL('../../..', import.meta.url));

/** The TypeScript sources under `folder`. */
function read(folder: string): Sources {
  const names = readdirSync(join(ROOT, folder), { recursive: true, encoding: 'utf8' });
  const paths = names.filter((name) => name.endsWith('.ts')).map((name) => `${folder}/${name}`);
  return new Map(paths.toSorted().map((path) => [path, readFileSync(join(ROOT, path), 'utf8')]));
}

const fixture = (files: Readonly<Record<string, string>>): Sources => new Map(Object.entries(files));

describe('src/', () => {
  const sources = read('src');

  it('is there', () => {
    expect(sources.size).toBeGreaterThan(100);
    expect(sources.has('src/index.ts')).toBe(true);
  });

  it('"Imports go downwards only: a floor may use its own files and the floors under it"', () => {
    expect(floorBreaches(sources)).toEqual([]);
  });

  it('"floors, no cycles"', () => {
    expect(cycles(sources)).toEqual([]);
  });

  it('imports the dependencies of package.json, and no other package', () => {
    const manifest = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as { dependencies: object };
    expect(strangers(sources, Object.keys(manifest.dependencies))).toEqual([]);
  });

  it('"small enough to read in one sitting. Its first line says what it is", no default exports', () => {
    expect(fileBreaches(sources)).toEqual([]);
    expect(fileBreaches(read('guests'))).toEqual([]);
  });

  it('"No any" leaves it, not even an inferred one', () => {
    // Of a source that is gone the compiler leaves the declarations behind.
    const declarations = [...sources.keys()].map((path) => `dist/${path.replace(/\.ts$/, '.d.ts')}`);
    expect(anyExports(new Map(declarations.map((path) => [path, readFileSync(join(ROOT, path), 'utf8')])))).toEqual([]);
  });
});

describe('each rule sees its breach', () => {
  it.each([
    ['memory calls up', 'src/memory/a.ts', "import { System } from '../kvm/system.js';", /may not call up to floor 2/],
    ['kvm calls up, in several lines', 'src/kvm/a.ts', "import type {\n  A,\n} from '../vcpu/a.js';", /to floor 3/],
    ['devices import vcpu', 'src/devices/x/a.ts', "import { A } from '../../vcpu/a.js';", /stand side by side/],
    ['boot re-exports the machine', 'src/boot/a.ts', "export * from '../machine/a.js';", /to floor 4/],
    ['vcpu loads the machine', 'src/vcpu/a.ts', "await import('../machine/board.js')", /to floor 4/],
    ['a worker of a floor above', 'src/kvm/a.ts', "new URL('../vcpu/worker.js', import.meta.url)", /to floor 3/],
    ['machine calls the command line', 'src/machine/a.ts', "import '../cli/main.js';", /to floor 5/],
    ['machine needs a guest', 'src/machine/a.ts', "import { b } from '../../guests/linux/b.js';", /outside src/],
    ['the door is for outsiders', 'src/machine/a.ts', "import { System } from '../index.js';", /on no floor/],
    ['a folder that nobody planned', 'src/utils/a.ts', '', /src\/utils is on no floor/],
  ])('%s', (_, path, text, sentence) => {
    const breaches = floorBreaches(fixture({ [path]: text }));
    expect(breaches).toHaveLength(1);
    expect(breaches[0]).toContain(path);
    expect(breaches[0]).toMatch(sentence);
  });

  it('what is allowed is no breach', () => {
    const allowed = {
      'src/index.ts': "export { createVm } from './machine/create-vm.js';",
      'src/cli/a.ts': "import { b } from '../../guests/linux/b.js';\nimport { c } from '../web/c.js';",
      'src/machine/a.ts': "import { b } from '../vcpu/b.js';\nimport { c } from '../memory/c.js';",
      'src/vcpu/assist/a.ts': "import { b } from '../vcpu.js';\nimport { c } from '../../kvm/c.js';",
      // An import in a sentence is none.
      'src/memory/a.ts': "throw new Error(`import it from '../kvm/system.js'`);",
    };
    expect(floorBreaches(fixture(allowed))).toEqual([]);
  });

  it('a circle of three files, once, and none where two ways meet', () => {
    const circle = {
      'src/kvm/d.ts': "import { a } from './a.js';",
      'src/kvm/c.ts': "import type { a } from './a.js';",
      'src/kvm/a.ts': "import { b } from './b.js';",
      'src/kvm/b.ts': "import { c } from './c.js';",
    };
    expect(cycles(fixture(circle))).toEqual(['src/kvm/a.ts → src/kvm/b.ts → src/kvm/c.ts → src/kvm/a.ts']);
    expect(cycles(fixture({ ...circle, 'src/kvm/c.ts': '' }))).toEqual([]);
    expect(cycles(fixture({ 'src/kvm/a.ts': "import './a.js';" }))).toEqual(['src/kvm/a.ts → src/kvm/a.ts']);
  });

  it('a package that is not a dependency', () => {
    const sources = fixture({
      'src/cli/a.ts': "import fs from 'node:fs';\nimport { a } from '@b/c/d';\nimport 'koffi';",
    });
    expect(strangers(sources, ['koffi'])).toEqual(['src/cli/a.ts imports @b/c/d: package.json has no such dependency']);
  });

  it.each([
    ['no comment', 'a.ts', 'export {};\n', /first line/],
    ['an empty comment', 'a.ts', '//\n', /first line/],
    ['too long', 'a.ts', `// A file.\n${'\n'.repeat(400)}`, /at most 400 lines/],
    ['a default export', 'a.ts', '// A file.\nexport default 1;\n', /no default exports/],
    ['a default export by its other spelling', 'a.ts', '// A file.\nexport { a as default };\n', /no default exports/],
    ['a camel', 'vmFd.ts', '// A file.\n', /kebab-case/],
  ])('%s', (_, path, text, sentence) => {
    const breaches = fileBreaches(fixture({ [path]: text }));
    expect(breaches).toHaveLength(1);
    expect(breaches[0]).toMatch(sentence);
  });

  it('a file as it should be', () => {
    expect(
      fileBreaches(fixture({ 'vm-fd.ts': `// A file.\n${'\n'.repeat(399)}`, 'a.ts': '#!/usr/bin/env node\n// A.\n' })),
    ).toEqual([]);
  });

  it.each([
    'export declare function parse(text: string): any;',
    'export declare const rows: readonly any[];',
    'export type Row = Record<string, any>;',
  ])('%s', (text) => {
    expect(anyExports(fixture({ 'a.d.ts': text }))).toHaveLength(1);
  });

  it('the word any is not the type', () => {
    const text = '/** Of any size. */\nexport declare const any: \'any\' | "any"; // any\nexport type A = { any?: 1 };';
    expect(anyExports(fixture({ 'a.d.ts': text }))).toEqual([]);
  });
});
