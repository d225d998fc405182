// What to tell a person about an output file that cannot be opened.
// errno(3).
import { UsageError } from './usage-error.js';

const REMEDIES: Readonly<Record<string, string>> = {
  ENOENT: 'there is no such folder; make it first',
  EACCES: 'it may not be written; check its permissions and those of its folder',
  EPERM: 'it may not be written; check its permissions and those of its folder',
  EROFS: 'its file system is read-only; choose another place',
  ENOTDIR: 'a part of its path is not a folder; check the path',
  EISDIR: 'it is a directory; name a file in it',
  ELOOP: 'its symbolic links go round in a circle; check the path',
  ENAMETOOLONG: 'its name is too long; choose a shorter one',
  ENXIO: 'nobody reads at its other end; start the reader first',
  ENOSPC: 'its file system is full; make room',
  ETXTBSY: 'it is a program that is running; choose another file',
};

export function errorCode(error: unknown): string | undefined {
  return error instanceof Error && 'code' in error ? String(error.code) : undefined;
}

/** The error for an output file that the host would not open. */
export function refuseFile(option: string, path: string, error: unknown): UsageError {
  const code = errorCode(error) ?? String(error);
  return new UsageError(option, `${path}: ${REMEDIES[code] ?? `the host answered ${code}; choose another file`}`);
}
