// docs/ against the code: "the memory map drawn from layout", links that lead somewhere, and a sample in every fence.
// The samples themselves run in test/kvm/docs.test.ts.
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { samplesOf } from '../support/docs.js';
import { drawGsis, drawMemoryMap, drawPorts } from '../support/memory-map.js';

const ROOT = fileURLToPath(new URL('../../..', import.meta.url));
const MAP = join(ROOT, 'docs/memory-map.md');
const PAGES = readdirSync(join(ROOT, 'docs')).filter((name) => name.endsWith('.md'));

describe('docs/memory-map.md', () => {
  const source = readFileSync(join(ROOT, 'src/memory/layout.ts'), 'utf8');
  const drawings = [drawMemoryMap(source), drawPorts(), drawGsis()];

  it('"drawn from src/memory/layout.ts" (MICROVISOR_UPDATE_DOCS=1 draws it anew)', () => {
    const text = readFileSync(MAP, 'utf8');
    let index = 0;
    const wanted = text.replaceAll(/^```text\n[^]*?^```$/gm, () => `\`\`\`text\n${drawings[index++] ?? ''}\`\`\``);
    expect(index).toBe(drawings.length);
    if (process.env['MICROVISOR_UPDATE_DOCS'] === '1') writeFileSync(MAP, wanted);
    else expect(text).toBe(wanted);
  });

  it('shows an address under its name, with its comment', () => {
    expect(drawings[0]).toMatch(/^0x0_0000_7000 │ ZERO_PAGE +Linux `boot_params`, one page$/m);
    expect(drawings[0]).toMatch(/^0x0_c000_0000 ├─ devices ─+\n0x0_c000_0000 │ LOW_RAM_END/m);
    expect(drawings[1]).toMatch(/^0x3f8 {2}COM1$/m);
    expect(drawings[2]).toMatch(/^ 4 {2}COM1$/m);
  });
});

describe('docs/', () => {
  it.each(['../README.md', ...PAGES])('%s: its links lead to files that are there', (page) => {
    const file = join(ROOT, 'docs', page);
    const text = readFileSync(file, 'utf8');
    const links = [...text.matchAll(/\]\((?!https?:)([^)#]+)/g)].map(([, link]) => link ?? '');
    const missing = links.filter((link) => !existsSync(join(dirname(file), link)));
    expect(missing).toEqual([]);
    const named = [...text.matchAll(/`((?:src|guests|test|examples|bench)\/[\w./-]+)`/g)].map(([, path]) => path ?? '');
    expect(named.filter((path) => !existsSync(join(ROOT, path)))).toEqual([]);
  });

  it('has an index with every page', () => {
    const index = readFileSync(join(ROOT, 'docs/README.md'), 'utf8');
    for (const page of PAGES.filter((name) => name !== 'README.md')) expect(index).toContain(`](${page})`);
  });

  it('finds the samples of a page: programs with their output, and modules by their names', () => {
    const page = '```ts file=a.ts\none\n```\n\nText.\n\n```ts\ntwo\n```\n\n```text\nout\n```\n\n```sh\nno\n```\n';
    expect(samplesOf('p', page)).toEqual([
      { file: 'a.ts', text: 'one\n', isProgram: false, output: undefined },
      { file: 'p-2.ts', text: 'two\n', isProgram: true, output: 'out\n' },
    ]);
    expect(dirname(MAP)).toBe(join(ROOT, 'docs'));
  });
});
