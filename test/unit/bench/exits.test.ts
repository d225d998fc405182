// The pure parts of the exit benchmark: the verdict between two runs, the goals, the picture, and the tables of rows.
import { describe, expect, it } from 'vitest';
import { CASES, QUICK_CASES } from '../../../bench/exits/cases.js';
import { compareFigures, type Figure } from '../../../bench/exits/compare.js';
import { goalsOf } from '../../../bench/exits/goals.js';
import type { Cell } from '../../../bench/exits/measure.js';
import { formatChanges, formatResult } from '../../../bench/exits/report.js';
import { figuresOf, type ExitsResult } from '../../../bench/exits/result.js';
import { drawPicture } from '../../../bench/exits/svg.js';
import { TIERS } from '../../../bench/exits/tiers.js';

const between = (low: number, high: number) => ({ median: (low + high) / 2, low, high, samples: 25 });

const figure = (low: number, high: number, isOwnCost = true): Figure => ({
  name: 'port-write-long, statistics',
  isOwnCost,
  ns: between(low, high),
});

describe('"prints what changed beyond the noise and fails when our own cost per exit grew by more than 25 ns beyond the interval"', () => {
  it.each([
    ['intervals that meet are noise', figure(100, 120), figure(115, 140), undefined],
    ['a little slower is said', figure(100, 120), figure(125, 140), 'slower'],
    ['25 ns beyond is allowed', figure(100, 120), figure(145, 160), 'slower'],
    ['more is a failure', figure(100, 120), figure(145.1, 160), 'too slow'],
    ["another's cost is no failure of ours", figure(100, 120, false), figure(200, 210, false), 'slower'],
    ['faster is said', figure(100, 120), figure(80, 99), 'faster'],
  ] as const)('%s', (_, before, after, verdict) => {
    expect(compareFigures([before], [after])[0]?.verdict).toBe(verdict);
  });

  it('a figure that only one run has says nothing', () => {
    expect(compareFigures([], [figure(100, 120)])).toEqual([]);
    expect(compareFigures([figure(100, 120)], [])).toEqual([]);
  });

  it('in words', () => {
    const changes = compareFigures([figure(100, 120)], [figure(150, 160)]);
    expect(formatChanges(changes, 'old.json')).toMatch(/110 \(100–120\) +155 \(150–160\) +too slow/);
    expect(formatChanges([], 'old.json')).toBe('nothing changed beyond the noise since old.json');
  });
});

function result(cells: readonly Cell[]): ExitsResult {
  const machine = { processor: 'P', processors: 2, kernel: '6.1', node: 'v20', date: '2026-01-01', load: 0.1 };
  const costs = [4, 40, 400].map((n) => ({ id: `bus-${n}`, title: 'bus', ns: 5, p99: 6 }));
  return {
    benchmark: 'exits',
    machine,
    qemu: null,
    noKvm: null,
    cells,
    warm: [],
    growth: 'not in a quick run',
    isolated: { costs, heap: { 'port-write': { exits: 1e7, bytes: 20_000, collections: 0 } } },
  };
}

const cell = (id: string, tier: string, ns: number): Cell => ({
  case: id,
  tier,
  ns: between(ns - 1, ns + 1),
  ratio: between(8000 / ns, 8000 / ns),
  beyondC: between(ns - 8001, ns - 7999),
  singleBeyondC: between(ns - 8001, ns - 7999),
  p50: ns,
  p99: ns * 2,
  disturbed: 0,
});

describe('goals', () => {
  const verdict = (cells: readonly Cell[], title: RegExp): string | undefined =>
    goalsOf(result(cells)).find((goal) => title.test(goal.title))?.verdict;

  it('what was not measured is neither reached nor missed', () => {
    const verdicts = goalsOf(result([])).map(({ verdict }) => verdict);
    expect(verdicts.filter((one) => one === 'reached')).toHaveLength(2);
    expect(verdicts).not.toContain('missed');
  });

  it('the worst of the four accesses decides', () => {
    const fast = QUICK_CASES.map((id) => cell(id, 'statistics', 8100));
    expect(verdict(fast, /0\.985/)).toBe('reached');
    expect(verdict(fast, /in place/)).toBe('reached');
    const slow = fast.with(2, cell('mmio-write-long', 'statistics', 8200));
    expect(verdict(slow, /0\.985/)).toBe('missed');
    expect(verdict(slow, /in place/)).toBe('missed');
  });

  it('ahead of QEMU in every case that both ran', () => {
    const ours = cell('port-write-long', 'statistics', 8100);
    expect(verdict([ours, cell('port-write-long', 'qemu', 8700)], /QEMU/)).toBe('reached');
    expect(verdict([ours, cell('port-write-long', 'qemu', 8050)], /QEMU/)).toBe('missed');
  });
});

it('a cell that could not be measured says why in the table', () => {
  const reason = 'QEMU is not installed: apt-get install qemu-system-x86';
  const text = formatResult(
    result([cell('port-write-long', 'c', 8000), { case: 'port-write-long', tier: 'qemu', reason }]),
  );
  expect(text).toContain(`– ${reason}`);
  expect(text).toMatch(/C loop +8000 \(7999–8001\) +1\.000/);
});

it('our own tiers are compared by what they take beyond C, the others by what they take', () => {
  const figures = figuresOf(
    result([cell('port-write-long', 'statistics', 8100), cell('port-write-long', 'qemu', 8700)]),
  );
  expect(figures.map(({ isOwnCost, ns }) => [isOwnCost, ns.median])).toEqual([
    [true, 100],
    [false, 8700],
  ]);
});

describe('the picture', () => {
  const picture = {
    title: 'Nanoseconds <per> exit',
    caption: 'machine & date',
    tiers: ['C loop', 'QEMU'],
    series: [
      {
        title: 'port write',
        values: new Map([
          ['C loop', 1000],
          ['QEMU', 10_000],
        ]),
      },
    ],
  };
  const svg = drawPicture(picture);

  it('has a row for each tier, a dot for each value, in both colour schemes, and is well-formed', () => {
    expect(svg.match(/<circle [^>]*><title>/g)).toHaveLength(2);
    expect(svg).toContain('prefers-color-scheme:dark');
    expect(svg).toContain('Nanoseconds &lt;per> exit');
    expect(svg).toContain('machine &amp; date');
    expect(svg.match(/<(text|title|circle|style)\b/g)?.length).toBe(
      (svg.match(/<\/(text|title|circle|style)>/g)?.length ?? 0) + (svg.match(/<circle [^>]*\/>/g)?.length ?? 0),
    );
  });

  it('the axis is logarithmic: ten times as long is as far at every place', () => {
    const x = (values: readonly number[]): number[] => {
      const tiers = values.map(String);
      const series = [{ title: '', values: new Map(values.map((ns) => [String(ns), ns])) }];
      const dots = drawPicture({ ...picture, tiers, series }).matchAll(/cx="([\d.]+)"[^>]*><title>/g);
      return [...dots].map(([, at]) => Number(at));
    };
    const [a = 0, b = 0, c = 0] = x([100, 1000, 10_000]);
    expect(b - a).toBeCloseTo(c - b, 0);
    expect(b).toBeGreaterThan(a);
  });

  it('nothing measured is an empty picture, no error', () => {
    expect(drawPicture({ ...picture, tiers: [], series: [] })).toContain('</svg>');
  });
});

describe('rows', () => {
  it('ids are unique, references exist', () => {
    const ids = CASES.map(({ id }) => id);
    expect(new Set(ids).size).toBe(ids.length);
    expect(new Set(TIERS.map(({ id }) => id)).size).toBe(TIERS.length);
    for (const { against } of CASES) if (against !== undefined) expect(ids).toContain(against);
    for (const id of QUICK_CASES) expect(ids).toContain(id);
  });

  it('every tier that does not serve a case says why in a sentence', () => {
    for (const tier of TIERS)
      for (const each of CASES) {
        const reason = tier.refuses(each);
        if (reason !== undefined) expect(reason.length).toBeGreaterThan(10);
      }
    expect(TIERS.find(({ id }) => id === 'c')?.refuses).toBeDefined();
  });
});
