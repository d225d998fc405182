// Reads the console's lines as they go by: sees a kernel panic, and the first line that holds each text asked for.
// Linux kernel/panic.c: the panic's line begins, after its time stamp, with this text at the level KERN_EMERG.

const PANIC = /^(?:<\d>)?(?:\[ *\d+\.\d+\](?:\[[^\]]*\])? )?(Kernel panic - not syncing[^\r\n]*)/;
/** Lines that are remembered. */
const RECENT = 24;
/** What a line has beyond this is not looked at: a guest may print without a newline for ever. */
const LONGEST_LINE = 512;
const NEWLINE = 0x0a;

export class ConsoleLines {
  /** The panic's line without its time stamp, once it was seen. */
  panic: string | undefined;
  /** The last whole lines, the oldest first. */
  readonly #recent: string[] = [];
  /** Bytes that went by. */
  seen = 0;
  #line = '';
  readonly #waiting: Map<string, string>;

  /**
   * @param texts name → text to look for
   * @param onSeen called once a name, when a line holds its text (at once, not at the line's end)
   */
  constructor(
    texts: Readonly<Record<string, string>>,
    private readonly onSeen: (name: string) => void,
  ) {
    this.#waiting = new Map(Object.entries(texts));
  }

  /** The line that no newline has ended yet, such as a prompt; a byte a character. */
  get unfinished(): string {
    return this.#line;
  }

  /** The last lines, the unfinished one included. */
  get recent(): readonly string[] {
    return this.#line === '' ? [...this.#recent] : [...this.#recent, this.#line];
  }

  /** Nothing has been printed yet. */
  get isSilent(): boolean {
    return this.seen === 0;
  }

  push(bytes: Uint8Array): void {
    this.seen += bytes.length;
    for (const byte of bytes) {
      if (byte === NEWLINE) this.#endLine();
      else if (this.#line.length < LONGEST_LINE) this.#line += String.fromCharCode(byte);
    }
    this.#look();
  }

  #endLine(): void {
    this.panic ??= PANIC.exec(this.#line)?.[1];
    this.#look();
    this.#recent.push(this.#line.trimEnd());
    if (this.#recent.length > RECENT) this.#recent.shift();
    this.#line = '';
  }

  #look(): void {
    for (const [name, text] of this.#waiting) {
      if (!this.#line.includes(text)) continue;
      this.#waiting.delete(name);
      this.onSeen(name);
    }
  }
}
