// The progress of a benchmark: one line on a terminal that is written over, or a line each time it says something new.

export class ProgressLine {
  readonly #name: string;
  readonly #isTerminal = process.stderr.isTTY;
  readonly #from = process.hrtime.bigint();
  #last = '';

  constructor(name: string) {
    this.#name = name;
  }

  show(words: string): void {
    // In a log a line for each part would bury it: what stands before the last comma is enough.
    const shown = this.#isTerminal ? words : words.replace(/, [^,]*$/, '');
    if (shown === this.#last) return;
    this.#last = shown;
    const seconds = Number((process.hrtime.bigint() - this.#from) / 1_000_000_000n);
    const line = `${this.#name} ${seconds} s: ${shown}`;
    process.stderr.write(this.#isTerminal ? `\r\x1b[K${line.slice(0, process.stderr.columns - 1)}` : `${line}\n`);
  }

  end(): void {
    if (this.#isTerminal) process.stderr.write('\r\x1b[K');
  }
}
