// `npm run bench -- exits` as a program: a quick run of two cases gives the JSON that the next run is compared with.
// No speed is asserted. And the account of an exit, which is counted and not timed.
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { accountOf } from '../../bench/exits/account.js';
import { CASES } from '../../bench/exits/cases.js';
import { openWorkshop } from '../../bench/exits/processes.js';
import type { ExitsResult } from '../../bench/exits/result.js';
import { TIERS } from '../../bench/exits/tiers.js';
import { noKvm } from '../support/kvm.js';
import { programsMissing } from '../support/programs.js';

const MINUTES = 60_000;
const debuggerMissing = noKvm ? 'no KVM' : programsMissing('gdb', 'gcc', 'as');

describe.skipIf(noKvm)('npm run bench -- exits', () => {
  it(
    'a quick run of two cases: a figure or a reason in every cell, the parts, and a picture',
    () => {
      const directory = mkdtempSync(join(tmpdir(), 'microvisor-test-'));
      try {
        const program = fileURLToPath(new URL('../../bench/main.js', import.meta.url));
        const [json, svg] = [join(directory, 'exits.json'), join(directory, 'exits.svg')];
        const cases = ['--only', 'port-write-long', '--only', 'mmio-read-user'];
        const tiers = ['--tier', 'kernel', '--tier', 'statistics', '--tier', 'trace'];
        const output = execFileSync(
          process.execPath,
          [program, 'exits', '--quick', '--rounds', '2', ...cases, ...tiers, '--json', json, '--svg', svg],
          { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] },
        );
        const result = JSON.parse(readFileSync(json, 'utf8')) as ExitsResult;
        const cells = new Map(result.cells.map((cell) => [`${cell.case} ${cell.tier}`, cell]));
        expect([...cells.keys()].toSorted()).toEqual(
          ['mmio-read-user', 'port-write-long'].flatMap((id) =>
            ['kernel', 'statistics', 'trace'].map((tier) => `${id} ${tier}`),
          ),
        );
        for (const id of ['port-write-long statistics', 'mmio-read-user trace', 'port-write-long kernel']) {
          const cell = cells.get(id);
          expect(cell?.reason, id).toBeUndefined();
          if (cell === undefined || cell.reason !== undefined) continue;
          expect(cell.ns.median, id).toBeGreaterThan(0);
          expect(cell.ratio.low, id).toBeLessThanOrEqual(cell.ratio.high);
        }
        expect(cells.get('mmio-read-user kernel')?.reason).toMatch(/ioeventfd/);
        expect(result.warm.length).toBeGreaterThan(0);
        expect(result.isolated.costs.length).toBeGreaterThan(5);
        expect(output).toContain('port write, long mode [port-write-long]');
        expect(output).toContain('our own cost per exit in place');
        expect(readFileSync(svg, 'utf8')).toMatch(/^<svg /);
      } finally {
        rmSync(directory, { recursive: true });
      }
    },
    15 * MINUTES,
  );
});

describe.skipIf(debuggerMissing !== undefined)(`npm run bench -- exit-account (${debuggerMissing ?? 'gdb'})`, () => {
  it(
    '"an instruction-level account": every instruction of the C loop\u2019s exit is somebody\u2019s, and it touches memory',
    async () => {
      const [each] = CASES.filter(({ id }) => id === 'port-write-long');
      const [tier] = TIERS.filter(({ id }) => id === 'c');
      if (each === undefined || tier === undefined) throw new Error('no such case');
      using workshop = openWorkshop();
      const { instructions, instructionsOf, codeLines, dataLines } = await accountOf(each, tier, workshop);
      expect(Object.values(instructionsOf).reduce((sum, count) => sum + count)).toBe(instructions);
      expect(instructionsOf['the C loop']).toBeGreaterThan(20);
      expect(instructionsOf.libc).toBeGreaterThan(5);
      expect(instructionsOf['compiled JavaScript']).toBe(0);
      // An instruction is 15 bytes at most, and a line has 64.
      expect(codeLines).toBeGreaterThan(2);
      expect(codeLines).toBeLessThan(instructions);
      expect(dataLines).toBeGreaterThan(2);
    },
    2 * MINUTES,
  );
});
