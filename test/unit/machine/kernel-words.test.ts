// Words that are added to a kernel command line: where they go, and what becomes of lists.
import { expect, test } from 'vitest';
import { withWords } from '../../../src/machine/kernel-words.js';

test.each([
  ['at the end', 'console=ttyS0', ['a=1', 'b'], 'console=ttyS0 a=1 b'],
  ['nothing to add', 'console=ttyS0', ['', ''], 'console=ttyS0'],
  ['nothing there', '', ['a', '', 'b'], 'a b'],
  ['"`--` ends the kernel\'s words, what follows is init\'s"', 'quiet -- single', ['a'], 'quiet a -- single'],
  ["only init's", '-- single', ['a'], 'a -- single'],
  ['a word with two dashes is none', 'x=-- y', ['a'], 'x=-- y a'],
])('%s', (_, cmdline, words, line) => expect(withWords(cmdline, words)).toBe(line));

test.each([
  [
    'theirs is kept in ours',
    'quiet clearcpuid=avx,avx2',
    'quiet clearcpuid=avx,avx2 rodata=off clearcpuid=avx,avx2,smap,xsave',
  ],
  [
    'each of theirs',
    'clearcpuid=avx clearcpuid=7',
    'clearcpuid=avx clearcpuid=7 rodata=off clearcpuid=avx,7,smap,xsave',
  ],
  ['none of theirs', 'quiet', 'quiet rodata=off clearcpuid=smap,xsave'],
  [
    "what is init's is not the kernel's",
    'quiet -- clearcpuid=avx',
    'quiet rodata=off clearcpuid=smap,xsave -- clearcpuid=avx',
  ],
])('"Of this option Linux takes the last word only": %s', (_, cmdline, line) => {
  expect(withWords(cmdline, ['rodata=off clearcpuid=smap,xsave'])).toBe(line);
});

test('a list of theirs alone is left as it is', () => {
  expect(withWords('clearcpuid=avx', ['virtio_mmio.device=1'])).toBe('clearcpuid=avx virtio_mmio.device=1');
});
