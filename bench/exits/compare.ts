// Two runs of the exit benchmark beside each other: what changed beyond the noise, and whether that is a failure.
// "fails when our own cost per exit grew by more than 25 ns beyond the interval"
import type { Estimate } from '../estimate.js';

/** One figure of a run, by a name that stays the same from run to run. */
export interface Figure {
  readonly name: string;
  /** True for our own cost per exit, which may not grow. */
  readonly isOwnCost: boolean;
  /** Nanoseconds. */
  readonly ns: Estimate;
}

export interface Change {
  readonly name: string;
  readonly before: Estimate;
  readonly after: Estimate;
  readonly verdict: 'faster' | 'slower' | 'too slow';
}

export const MOST_GROWTH_NS = 25;

/** Changes of figures that both runs have and whose intervals do not meet; in the order of the new run. */
export function compareFigures(before: readonly Figure[], after: readonly Figure[]): readonly Change[] {
  const old = new Map(before.map((figure) => [figure.name, figure]));
  return after.flatMap((figure): Change[] => {
    const then = old.get(figure.name);
    if (then === undefined) return [];
    const change = { name: figure.name, before: then.ns, after: figure.ns };
    if (figure.ns.high < then.ns.low) return [{ ...change, verdict: 'faster' }];
    const growth = figure.ns.low - then.ns.high;
    if (!(growth > 0)) return [];
    const isTooMuch = figure.isOwnCost && growth > MOST_GROWTH_NS;
    return [{ ...change, verdict: isTooMuch ? 'too slow' : 'slower' }];
  });
}
