// The one error of this folder: an image, an option or a size with which no guest can start.
// Raised before anything runs; the message is a whole sentence for the person who typed the command.

/** What was wrong with a file or an option of a boot request. */
export class BootError extends Error {
  override readonly name = 'BootError';

  /**
   * @param file the file as the user named it, or the option when no file is to blame
   * @param field the header field or option that was refused, spelled as its specification does
   * @param problem what was found, and what to do
   */
  constructor(
    readonly file: string,
    readonly field: string,
    problem: string,
    options?: ErrorOptions,
  ) {
    super(`${file}: ${problem}`, options);
  }
}

/** `0x…`, for addresses in messages; numbers beyond 2^53 are only roughly right there. */
export function hex(value: number | bigint): string {
  return `0x${value.toString(16)}`;
}

/** `0x1000–0x1fff`, the way a person reads a range: both ends belong to it. */
export function hexRange(base: number, size: number): string {
  return `${hex(base)}–${hex(base + Math.max(size, 1) - 1)}`;
}
