// Saves a running VM when a person or its console asks for it, and says how that went.
// The work is that of Vm.snapshot.
import type { Readable } from 'node:stream';
import type { Vm } from '../machine/vm.js';
import { describeError, sayRaw } from './sentence.js';

export const DEFAULT_FOLDER = 'microvisor-snapshot';
/** What a line has beyond this is not looked at: a guest may print without a newline for ever. */
const LONGEST_LINE = 4096;

export class Saver {
  readonly #vm: Vm;
  readonly #folder: string;
  #isSaving = false;

  constructor(vm: Vm, folder = DEFAULT_FOLDER) {
    this.#vm = vm;
    this.#folder = folder;
  }

  /** A failure is said, and the VM goes on. */
  async save(): Promise<void> {
    if (this.#isSaving) return;
    this.#isSaving = true;
    const start = performance.now();
    try {
      await this.#vm.snapshot(this.#folder);
      const milliseconds = Math.round(performance.now() - start);
      sayBesideGuest(
        `saved in ${this.#folder} (${milliseconds} ms); it goes on with: microvisor restore ${this.#folder}`,
      );
    } catch (error) {
      sayBesideGuest(`not saved: ${describeError(error)}`);
    } finally {
      this.#isSaving = false;
    }
  }
}

/** Calls back once, when a line of the output matches; at once, not at the line's end. */
export function watchForLine(output: Readable, pattern: RegExp, onMatch: () => void): void {
  let line = '';
  const look = (): boolean => {
    if (!pattern.test(line)) return false;
    output.off('data', read);
    onMatch();
    return true;
  };
  const read = (bytes: Uint8Array): void => {
    const pieces = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString('latin1').split(/\r?\n/);
    for (const [index, piece] of pieces.entries()) {
      if (index > 0) line = '';
      line = (line + piece).slice(0, LONGEST_LINE);
      if (look()) return;
    }
  };
  output.on('data', read);
}

/** A line of its own, also where the guest has the terminal, which is raw then. */
function sayBesideGuest(text: string): void {
  sayRaw(process.stdin.isTTY ? `\r\nmicrovisor: ${text}\r\n` : `microvisor: ${text}\n`);
}
