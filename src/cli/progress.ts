// Progress of a long preparation on stderr: a bar that redraws itself on a terminal, else one line per step.
// ECMA-48: carriage return, EL (erase in line).

export interface Progress {
  /** A few words: what is being done. */
  readonly stage: string;
  /** Of the whole, 0 to 1. */
  readonly fraction: number;
  readonly detail?: string;
}

/** What the bar is drawn on: `process.stderr` in real life. */
export interface ProgressOutput {
  readonly isTTY?: boolean | undefined;
  readonly columns?: number | undefined;
  write(text: string): unknown;
}

const BAR_WIDTH = 24;
const ERASE_LINE = '\r\x1b[K';

/** `preparing the default guest  [######....]  40 %  kernel: compiling`, cut to `columns`. */
export function progressLine(title: string, { stage, fraction, detail }: Progress, columns: number): string {
  const full = Math.round(Math.min(Math.max(fraction, 0), 1) * BAR_WIDTH);
  const bar = `[${'#'.repeat(full)}${'.'.repeat(BAR_WIDTH - full)}]`;
  const percent = `${Math.floor(fraction * 100)} %`.padStart(5);
  const what = detail === undefined || detail === '' ? stage : `${stage}: ${detail}`;
  // One column is left free: some terminals wrap as soon as the last one is filled.
  return `${title} ${bar}${percent}  ${what}`.slice(0, Math.max(columns - 1, 20));
}

export class ProgressDisplay {
  readonly #output: ProgressOutput;
  readonly #title: string;
  #shown = '';

  constructor(output: ProgressOutput, title: string) {
    this.#output = output;
    this.#title = title;
  }

  update(progress: Progress): void {
    const line = this.#output.isTTY === true ? this.#bar(progress) : this.#step(progress);
    if (line === this.#shown) return;
    this.#output.write(this.#output.isTTY === true ? `${ERASE_LINE}${line}` : `${line}\n`);
    this.#shown = line;
  }

  /** Takes the bar away, so that what is printed next starts on a clean line. */
  close(): void {
    if (this.#output.isTTY === true && this.#shown !== '') this.#output.write(ERASE_LINE);
    this.#shown = '';
  }

  #bar(progress: Progress): string {
    return progressLine(this.#title, progress, this.#output.columns ?? 80);
  }

  // In a log a step is worth a line, its details are not.
  #step({ stage }: Progress): string {
    return `${this.#title}: ${stage}`;
  }
}
