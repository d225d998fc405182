// Our keys among a person's: Ctrl-A x and its neighbours, wherever the chunks are cut.
import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { EscapeKeys, KEY_ROWS, keyHelp, type Typed } from '../../../src/cli/escape-keys.js';

/** What was typed, as one text: `<end>` for an action, bytes as they are. */
function show(typed: readonly Typed[]): string {
  return typed
    .map((item) => ('action' in item ? `<${item.action}>` : Buffer.from(item.bytes).toString('latin1')))
    .join('');
}

function feed(...chunks: readonly string[]): string {
  const keys = new EscapeKeys();
  return show(chunks.flatMap((chunk) => keys.feed(Buffer.from(chunk, 'latin1'))));
}

describe('"Ctrl-A keys as a table: x end, h help, a (or Ctrl-A) literal"', () => {
  test.each([
    ['plain text', 'ls -l\r', 'ls -l\r'],
    ['end', '\x01x', '<end>'],
    ['help', '\x01h', '<help>'],
    ['a literal Ctrl-A', '\x01a', '\x01'],
    ['and by a second Ctrl-A', '\x01\x01', '\x01'],
    ['the second Ctrl-A is no prefix of its own', '\x01\x01x', '\x01x'],
    ['any other key is swallowed with its prefix', 'a\x01qb', 'ab'],
    ['a capital X is another key', '\x01X', ''],
    ['in the midst of text', 'ab\x01hcd', 'ab<help>cd'],
    ['several', '\x01h\x01h\x01x', '<help><help><end>'],
    ['bytes of UTF-8 pass', 'ä€', 'ä€'],
    ['Ctrl-C is the guest’s', '\x03', '\x03'],
    ['a prefix alone says nothing yet', 'a\x01', 'a'],
  ])('%s', (_, text, expected) => {
    const latin = Buffer.from(text, 'utf8').toString('latin1');
    expect(feed(latin)).toBe(Buffer.from(expected, 'utf8').toString('latin1'));
  });

  test('"works across chunk boundaries"', () => {
    expect(feed('ab\x01', 'x', 'cd')).toBe('ab<end>cd');
    expect(feed('\x01', '', '\x01', 'x')).toBe('\x01x');
    fc.assert(
      fc.property(
        fc.array(fc.constantFrom('\x01', 'x', 'h', 'a', 'b', '\r')),
        fc.array(fc.nat(20)),
        (letters, cuts) => {
          const text = letters.join('');
          const places = [0, ...cuts.filter((cut) => cut < text.length).toSorted((a, b) => a - b), text.length];
          const chunks = places.slice(1).map((end, i) => text.slice(places[i] ?? 0, end));
          expect(feed(...chunks)).toBe(feed(text));
        },
      ),
    );
  });

  test('the help names every key, with line ends for a raw terminal', () => {
    for (const { label, help } of KEY_ROWS) expect(keyHelp()).toContain(`${label.padEnd(14)} ${help}\r\n`);
    expect(keyHelp().replaceAll('\r\n', '')).not.toContain('\n');
  });
});
