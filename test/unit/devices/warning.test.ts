// "One rate-limited line is logged": warnings that a guest can provoke as often as it likes. Every hostile case.
import { expect, test } from 'vitest';
import { limitWarnings } from '../../../src/devices/warning.js';

test('the first one at once, the rest of its second counted and told with the next', () => {
  let now = 0;
  const lines: string[] = [];
  const warn = limitWarnings(
    (line) => lines.push(line),
    () => now,
  );
  for (let i = 0; i < 1000; i++) {
    warn(`line ${i}`);
    now++;
  }
  expect(lines).toEqual(['line 0']);
  warn('later');
  expect(lines).toEqual(['line 0', 'later (999 other warnings were left out)']);
  now += 10_000;
  warn('quiet again');
  expect(lines.at(-1)).toBe('quiet again');
});
