// The error of this floor: words on the command line that cannot work. It ends the command with status 2.
// Our own; sysexits are not used, as in QEMU and kvmtool.
import { fileWords, type FileUse } from '../kvm/file-words.js';

/** One sentence for the person who typed the command. */
export class UsageError extends Error {
  override readonly name = 'UsageError';

  /**
   * @param option what was refused, as it was typed: `--mem`, `COMMAND`
   * @param problem what was found, and what to do
   */
  constructor(
    readonly option: string,
    problem: string,
  ) {
    super(`${option}: ${problem}`);
  }
}

/** The error for a file that the host would not open. */
export function refuseFile(option: string, path: string, error: unknown, use: FileUse = 'write'): UsageError {
  return new UsageError(option, `${path}: ${fileWords(use, error)}`);
}
