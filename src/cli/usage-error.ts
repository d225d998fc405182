// The error of this floor: words on the command line that cannot work. It ends the command with status 2.
// Our own; sysexits are not used, as in QEMU and kvmtool.

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
