// Why a snapshot cannot be written, read or restored: one sentence that names the file and what is wrong with it.
// Our own.

export class SnapshotError extends Error {
  override readonly name = 'SnapshotError';
  /** @param path the snapshot's directory, or the file in it */
  constructor(
    readonly path: string,
    problem: string,
    options?: ErrorOptions,
  ) {
    super(`${path}: ${problem}`, options);
  }
}
