// "Queues get a property test against a slow reference model: at least one million chains per `npm test`, ten million
// with `npm run fuzz`, no crash, no hang, no access outside guest RAM, no double completion."
// A failure prints fast-check's seed and the smallest options of `duel` that show it: put them into the last test.
import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { DuelOptions } from '../../../support/hostile-driver.js';
import { duel, type DuelResult } from '../../../support/queue-duel.js';

const CHAINS = Number(process.env['MICROVISOR_FUZZ_CHAINS'] ?? 1_000_000);
const SEED = Number(process.env['MICROVISOR_FUZZ_SEED'] ?? Date.now() % 2 ** 31);

const options: fc.Arbitrary<DuelOptions> = fc.record({
  seed: fc.nat(2 ** 31),
  sizeLog2: fc.nat(6),
  indirect: fc.boolean(),
  eventIdx: fc.boolean(),
  firstIndex: fc.oneof(fc.constant(0), fc.integer({ min: 65_000, max: 65_535 }), fc.nat(65_535)),
  hostility: fc.constantFrom(0, 0.001, 0.01, 0.1, 0.5),
  rounds: fc.integer({ min: 1, max: 400 }),
});

function add(sum: DuelResult, result: DuelResult): void {
  for (const key of Object.keys(sum) as (keyof DuelResult)[]) sum[key] += result[key];
}

describe('the queue and its reference', () => {
  test(`agree on ${CHAINS} chains`, { timeout: 3_600_000 }, () => {
    const sum: DuelResult = { chains: 0, dropped: 0, broken: 0, interrupts: 0 };
    for (let seed = SEED; sum.chains < CHAINS; seed++)
      fc.assert(
        fc.property(options, (it) => add(sum, duel(it))),
        { seed, numRuns: 50 },
      );
    // Each outcome was there often enough to mean something.
    for (const [name, count] of Object.entries(sum)) expect(count, name).toBeGreaterThan(CHAINS / 1000);
  });

  test('agree without a hostile driver: nothing is dropped, nothing breaks', () => {
    fc.assert(
      fc.property(options, (it) => {
        const { dropped, broken } = duel({ ...it, hostility: 0, rounds: 20 });
        expect([dropped, broken]).toEqual([0, 0]);
      }),
    );
  });
});
