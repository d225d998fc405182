// Adds words of our own to a kernel command line that somebody else wrote.
// Linux Documentation/admin-guide/kernel-parameters.rst: `--` ends the kernel's words, what follows is init's.

/** Of this option Linux takes the last word only, so that a list in an earlier one would be lost. */
const LIST = 'clearcpuid=';

/** @param words may be empty texts; each may hold several words, separated by one space */
export function withWords(cmdline: string, words: readonly string[]): string {
  const at = ` ${cmdline} `.indexOf(' -- ');
  const [kernel, init] = at < 0 ? [cmdline, ''] : [cmdline.slice(0, at).trimEnd(), cmdline.slice(at)];
  const theirs = listed(kernel);
  const ours = words
    .flatMap((text) => text.split(' '))
    .map((word) => (word.startsWith(LIST) ? LIST + [...theirs, ...listed(word)].join(',') : word));
  return [kernel, ...ours, init].filter((word) => word !== '').join(' ');
}

function listed(text: string): string[] {
  return text
    .split(' ')
    .filter((word) => word.startsWith(LIST))
    .map((word) => word.slice(LIST.length));
}
