// Options whose value is a list: `--disk path=FILE,ro`. Words are parted by commas, and `,,` is a comma in a word.
// The syntax is QEMU's (qemu-options: "keyval" and "QemuOpts" lists).
import { UsageError } from './usage-error.js';

/** `key=value`, or `key` alone. */
export interface Word {
  readonly key: string;
  /** Undefined without an equals sign. */
  readonly value: string | undefined;
}

/** One word that an option's list may hold. */
export interface WordRow<T> {
  readonly key: string;
  /** As the help shows it: `ro`, `overlay=FILE`. One without an equals sign takes no value. */
  readonly form: string;
  /** May stand in the list more than once. */
  readonly repeats?: true;
  /** @param value never empty, but for a word that takes none */
  parse(value: string, before: Partial<T>): Partial<T>;
}

export function splitWords(text: string): Word[] {
  // A command line has no NUL byte: it stands for the doubled comma meanwhile.
  const words = text.replaceAll(',,', '\0').split(',');
  return words.map((word) => {
    const plain = word.replaceAll('\0', ',');
    const equals = plain.indexOf('=');
    return equals < 0
      ? { key: plain, value: undefined }
      : { key: plain.slice(0, equals), value: plain.slice(equals + 1) };
  });
}

/** Puts the words together by their rows. @throws UsageError that names the option and the word */
export function parseWords<T>(option: string, rows: readonly WordRow<T>[], words: readonly Word[]): Partial<T> {
  const seen = new Set<string>();
  let result: Partial<T> = {};
  for (const { key, value } of words) {
    const row = rows.find((candidate) => candidate.key === key);
    if (row === undefined) {
      const forms = rows.map(({ form }) => form).join(', ');
      throw new UsageError(
        option,
        `takes ${forms}, not ${JSON.stringify(value === undefined ? key : `${key}=${value}`)}`,
      );
    }
    if (seen.has(key) && row.repeats !== true) throw new UsageError(option, `has ${key} twice; leave one out`);
    seen.add(key);
    const takesValue = row.form.includes('=');
    if (takesValue ? value === undefined || value === '' : value !== undefined)
      throw new UsageError(
        option,
        `takes ${row.form}, not ${JSON.stringify(value === undefined ? key : `${key}=${value}`)}`,
      );
    result = { ...result, ...row.parse(value ?? '', result) };
  }
  return result;
}
