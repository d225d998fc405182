// The benchmark's statistics: medians, the interval of order statistics, percentiles.
// Conover, Practical Nonparametric Statistics, table A3 (binomial) for the ranks.
import { describe, expect, it } from 'vitest';
import { estimate, percentile } from '../../../bench/estimate.js';

const upTo = (count: number): number[] => Array.from({ length: count }, (_, i) => i + 1);

describe('estimate', () => {
  it('the median of odd and even numbers of samples, whatever their order', () => {
    expect(estimate([3, 1, 2]).median).toBe(2);
    expect(estimate([4, 1, 3, 2]).median).toBe(2.5);
    expect(estimate([7])).toEqual({ median: 7, low: 7, high: 7, samples: 1 });
  });

  it.each([
    // For n samples the ranks of the 95 % interval, from both ends.
    [5, 1],
    [6, 1],
    [9, 2],
    [20, 6],
    [25, 8],
    [100, 40],
  ])('%d samples: the interval begins with rank %d', (count, rank) => {
    const { low, high } = estimate(upTo(count));
    expect([low, high]).toEqual([rank, count + 1 - rank]);
  });

  it('one wild sample moves nothing', () => {
    const calm = estimate(upTo(25));
    const wild = estimate(upTo(25).with(24, 1e9));
    expect(wild).toEqual(calm);
  });

  it('none is no number', () => {
    expect(estimate([]).median).toBeNaN();
  });
});

it('percentile', () => {
  const sorted = upTo(100);
  expect([percentile(sorted, 0), percentile(sorted, 0.5), percentile(sorted, 0.99), percentile(sorted, 1)]).toEqual([
    1, 51, 100, 100,
  ]);
  expect(percentile([], 0.5)).toBeNaN();
});
