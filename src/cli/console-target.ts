// Where the guest's console goes: the forms of --console, and the check of each before any VM starts.
// Our own; the names follow QEMU's character devices.
import { UsageError } from './usage-error.js';

export type ConsoleTarget = (
  | { readonly kind: 'stdio' /* The terminal or pipes of this process. */ }
  | { readonly kind: 'file'; readonly path: string }
  | { readonly kind: 'null' /* Nowhere, and no input. */ }
) & {
  /** The guest's console is the virtio one, and not its first serial port. */
  readonly virtio?: true;
};

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

export const CONSOLE_FORM_LIST = `${CONSOLE_FORMS.map(({ form }) => form).join('|')}, or virtio[,one of them]`;

const VIRTIO = 'virtio';

/** @throws UsageError */
export function parseConsoleTarget(text: string): ConsoleTarget {
  const isVirtio = text === VIRTIO || text.startsWith(`${VIRTIO},`);
  const plain = text === VIRTIO ? 'stdio' : isVirtio ? text.slice(VIRTIO.length + 1) : text;
  for (const { parse } of CONSOLE_FORMS) {
    const target = parse(plain);
    if (target !== undefined) return isVirtio ? { ...target, virtio: true } : target;
  }
  throw new UsageError('--console', `takes ${CONSOLE_FORM_LIST}, not ${JSON.stringify(text)}`);
}
