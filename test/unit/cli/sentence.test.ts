// Text of a guest in messages of ours.
// Hostile case 27: "escapes, NUL, invalid or split UTF-8 → byte-exact; never raw in our own log".
import { describe, expect, test } from 'vitest';
import { describeError, printable } from '../../../src/cli/sentence.js';

/** Clears the screen, sets the title, rings, goes back: what a terminal would obey. */
const HOSTILE = 'Kernel panic - not syncing: \x1b[2J\x1b]0;title\x07\0\r\x9b31m\x7f';

describe('"never raw in our own log"', () => {
  test('control characters are spelled out, all else stays', () => {
    expect(printable(HOSTILE)).toBe('Kernel panic - not syncing: \\x1b[2J\\x1b]0;title\\x07\\x00\\x0d\\x9b31m\\x7f');
    expect(printable('a line\n\tof text: ä€😀')).toBe('a line\n\tof text: ä€😀');
  });

  test('in the message of an error, too', () => {
    expect(describeError(new Error(HOSTILE))).not.toContain('\x1b');
  });
});
