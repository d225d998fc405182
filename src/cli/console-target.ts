// Where the guest's console goes: the forms of --console, and the check of each before any VM starts.
// Our own; the names follow QEMU's character devices.
import { UsageError } from './usage-error.js';

export type ConsoleTarget =
  /** The terminal or pipes of this process. */
  | { readonly kind: 'stdio' }
  | { readonly kind: 'file'; readonly path: string }
  /** Nowhere, and no input. */
  | { readonly kind: 'null' };

interface ConsoleForm {
  readonly form: string;
  /** Undefined when `text` is of another form. */
  readonly parse: (text: string) => ConsoleTarget | undefined;
}

const CONSOLE_FORMS: readonly ConsoleForm[] = [
  { form: 'stdio', parse: (text) => (text === 'stdio' ? { kind: 'stdio' } : undefined) },
  {
    form: 'file=PATH',
    parse: (text) => (/^file=./s.test(text) ? { kind: 'file', path: text.slice('file='.length) } : undefined),
  },
  { form: 'null', parse: (text) => (text === 'null' ? { kind: 'null' } : undefined) },
];

export const CONSOLE_FORM_LIST = CONSOLE_FORMS.map(({ form }) => form).join('|');

/** @throws UsageError */
export function parseConsoleTarget(text: string): ConsoleTarget {
  for (const { parse } of CONSOLE_FORMS) {
    const target = parse(text);
    if (target !== undefined) return target;
  }
  throw new UsageError('--console', `takes ${CONSOLE_FORM_LIST}, not ${JSON.stringify(text)}`);
}
