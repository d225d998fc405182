// Files that a trace goes to: opened before anything is done, written piece by piece.
// open(2).
import { closeSync, openSync, writeSync } from 'node:fs';
import { refuseFile } from './usage-error.js';

/** Pieces are joined to about this many characters a write. */
const PIECE = 1 << 16;

/** @returns a descriptor for writing. @throws UsageError that names the file */
export function openOutput(option: string, path: string): number {
  try {
    return openSync(path, 'w');
  } catch (error) {
    throw refuseFile(option, path, error);
  }
}

export function writePieces(path: string, pieces: Iterable<string>): void {
  const fd = openOutput('--chrome', path);
  try {
    let text = '';
    const flush = (): void => {
      for (let bytes = Buffer.from(text); bytes.length > 0;) bytes = bytes.subarray(writeSync(fd, bytes));
      text = '';
    };
    for (const piece of pieces) {
      text += piece;
      if (text.length >= PIECE) flush();
    }
    flush();
  } finally {
    closeSync(fd);
  }
}
