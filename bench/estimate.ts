// Robust estimates of a figure from few noisy samples: percentiles, and the median with its interval.
// The interval is that of order statistics (a binomial with p = 1/2): no assumption about the noise but that samples are
// independent. Conover, Practical Nonparametric Statistics, 3.2.

export interface Estimate {
  readonly median: number;
  /** Bounds of the interval that holds the true median with 95 %; the extremes when there are too few samples for it. */
  readonly low: number;
  readonly high: number;
  readonly samples: number;
}

/** @param sorted in ascending order, at least one @param p 0 to 1 */
export function percentile(sorted: ArrayLike<number>, p: number): number {
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * p))] ?? Number.NaN;
}

/** @param samples at least one; an estimate of none is all NaN */
export function estimate(samples: readonly number[]): Estimate {
  const sorted = samples.toSorted((a, b) => a - b);
  const { length } = sorted;
  const at = (index: number): number => sorted[index] ?? Number.NaN;
  const median = length % 2 === 1 ? at((length - 1) / 2) : (at(length / 2 - 1) + at(length / 2)) / 2;
  const cut = cutOf(length);
  return { median, low: at(cut), high: at(length - 1 - cut), samples: length };
}

/** How many samples at each end the interval leaves out: each tail has 2.5 % at most. */
function cutOf(count: number): number {
  let probability = 2 ** -count;
  let tail = probability;
  let cut = 0;
  while (tail <= 0.025 && cut < (count - 1) / 2) {
    probability *= (count - cut) / (cut + 1);
    tail += probability;
    if (tail > 0.025) break;
    cut += 1;
  }
  return cut;
}
