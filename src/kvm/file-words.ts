// What is wrong with a file of the host that cannot be opened, read or written, and what a person can do about it.
// errno(3).

export type FileUse = 'read' | 'write';

type Row = Partial<Readonly<Record<FileUse, string>>>;

const both = (words: string): Row => ({ read: words, write: words });
const FORBIDDEN: Row = {
  read: 'it may not be read; check its permissions and those of its folders',
  write: 'it may not be written; check its permissions and those of its folder',
};

const WORDS: Readonly<Record<string, Row>> = {
  ENOENT: { read: 'there is no such file; check the path', write: 'there is no such folder; make it first' },
  EACCES: FORBIDDEN,
  EPERM: FORBIDDEN,
  ENOTDIR: both('a part of its path is not a folder; check the path'),
  EISDIR: both('it is a directory; name a file in it'),
  ELOOP: both('its symbolic links go round in a circle; check the path'),
  ENAMETOOLONG: both('its name is too long; choose a shorter one'),
  EBUSY: both('the host uses it (it is mounted, or part of a volume); free it there first'),
  EROFS: { write: 'its file system is read-only; choose another place' },
  ENOSPC: { write: 'its file system is full; make room' },
  EDQUOT: { write: 'your quota there is used up; make room' },
  ENXIO: { write: 'nobody reads at its other end; start the reader first' },
  ETXTBSY: { write: 'it is a program that runs, or swap space; choose another file' },
  ERR_INVALID_ARG_VALUE: both('its name has a NUL byte in it; check the path'),
};

/** `ENOENT`, of an error that has a code. */
export function errorCode(error: unknown): string | undefined {
  return error instanceof Error && 'code' in error ? String(error.code) : undefined;
}

/** A clause that follows the file's name: what was found, and what to do. */
export function fileWords(use: FileUse, error: unknown): string {
  const code = errorCode(error) ?? String(error);
  return WORDS[code]?.[use] ?? `the host answered ${code}; choose another file`;
}
