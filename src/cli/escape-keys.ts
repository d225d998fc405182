// The keys that Microvisor takes for itself when its terminal belongs to a guest: Ctrl-A and a letter.
// Our own; the prefix and the letters are those of QEMU's -nographic and kvmtool.

const PREFIX = 0x01;

export type KeyAction = 'end' | 'save' | 'help' | 'prefix';

interface KeyRow {
  /** The byte after the prefix. */
  readonly key: number;
  /** How a person types it. */
  readonly label: string;
  readonly action: KeyAction;
  readonly help: string;
}

const letter = (text: string): number => text.charCodeAt(0);

export const KEY_ROWS: readonly KeyRow[] = [
  { key: letter('x'), label: 'Ctrl-A x', action: 'end', help: 'end the VM at once' },
  {
    key: letter('s'),
    label: 'Ctrl-A s',
    action: 'save',
    help: 'save the VM into the folder of --snapshot; it goes on',
  },
  { key: letter('h'), label: 'Ctrl-A h', action: 'help', help: 'show these keys' },
  { key: letter('a'), label: 'Ctrl-A a', action: 'prefix', help: 'send Ctrl-A to the guest' },
  { key: PREFIX, label: 'Ctrl-A Ctrl-A', action: 'prefix', help: 'the same' },
];

/** Lines end as a raw terminal wants it. */
export function keyHelp(): string {
  const lines = KEY_ROWS.map(({ label, help }) => `  ${label.padEnd(14)} ${help}`);
  return ['', ...lines, ''].join('\r\n');
}

/** What a chunk of typed bytes comes to: bytes for the guest and actions for us, in the order they were typed. */
export type Typed = { readonly bytes: Uint8Array } | { readonly action: Exclude<KeyAction, 'prefix'> };

/**
 * Splits what is typed into the guest's bytes and our keys. A prefix that ends a chunk waits for the next chunk. A key
 * that is no row of the table is swallowed together with its prefix.
 */
export class EscapeKeys {
  #afterPrefix = false;

  feed(chunk: Uint8Array): Typed[] {
    const typed: Typed[] = [];
    let start = 0;
    const bytesUpTo = (end: number): void => {
      if (end > start) typed.push({ bytes: chunk.subarray(start, end) });
    };
    for (const [i, byte] of chunk.entries()) {
      if (this.#afterPrefix) {
        this.#afterPrefix = false;
        start = i + 1;
        const row = KEY_ROWS.find(({ key }) => key === byte);
        if (row?.action === 'prefix') typed.push({ bytes: Uint8Array.of(PREFIX) });
        else if (row !== undefined) typed.push({ action: row.action });
      } else if (byte === PREFIX) {
        bytesUpTo(i);
        this.#afterPrefix = true;
        start = i + 1;
      }
    }
    if (!this.#afterPrefix) bytesUpTo(chunk.length);
    return typed;
  }
}
