// Writes an initramfs as an uncompressed cpio archive, device nodes included, without needing to be root.
// Linux Documentation/driver-api/early-userspace/buffer-format.rst ("newc").

export type CpioEntry =
  | { readonly kind: 'directory'; readonly path: string; readonly mode: number }
  | { readonly kind: 'file'; readonly path: string; readonly mode: number; readonly data: Uint8Array }
  | { readonly kind: 'symlink'; readonly path: string; readonly target: string }
  | {
      readonly kind: 'device';
      readonly path: string;
      readonly mode: number;
      readonly type: 'char' | 'block';
      readonly major: number;
      readonly minor: number;
    };

const S_IFREG = 0o100000;
const S_IFDIR = 0o040000;
const S_IFLNK = 0o120000;
const S_IFCHR = 0o020000;
const S_IFBLK = 0o060000;
const MAGIC = '070701';
const TRAILER = 'TRAILER!!!';
/** Headers and data start on multiples of this. */
const ALIGNMENT = 4;

function padding(length: number): Uint8Array {
  return new Uint8Array((ALIGNMENT - (length % ALIGNMENT)) % ALIGNMENT);
}

interface Fields {
  readonly ino: number;
  readonly mode: number;
  readonly nlink: number;
  readonly data: Uint8Array;
  readonly rdevMajor: number;
  readonly rdevMinor: number;
  readonly name: string;
}

function member(f: Fields): Uint8Array[] {
  const name = Buffer.from(`${f.name}\0`);
  // Order of the format: ino mode uid gid nlink mtime filesize major minor rmajor rminor namesize check. Time 0 makes
  // equal inputs give equal archives.
  const numbers = [f.ino, f.mode, 0, 0, f.nlink, 0, f.data.length, 0, 0, f.rdevMajor, f.rdevMinor, name.length, 0];
  const header = Buffer.from(MAGIC + numbers.map((n) => n.toString(16).padStart(8, '0')).join(''));
  return [header, name, padding(header.length + name.length), f.data, padding(f.data.length)];
}

function typeBits(entry: CpioEntry): number {
  if (entry.kind === 'device') return entry.type === 'char' ? S_IFCHR : S_IFBLK;
  return { directory: S_IFDIR, file: S_IFREG, symlink: S_IFLNK }[entry.kind];
}

function contents(entry: CpioEntry): Uint8Array {
  if (entry.kind === 'file') return entry.data;
  return entry.kind === 'symlink' ? Buffer.from(entry.target) : new Uint8Array();
}

function fields(entry: CpioEntry, ino: number): Fields {
  const device = entry.kind === 'device' ? entry : { major: 0, minor: 0 };
  return {
    ino,
    mode: typeBits(entry) | (entry.kind === 'symlink' ? 0o777 : entry.mode),
    nlink: entry.kind === 'directory' ? 2 : 1,
    data: contents(entry),
    rdevMajor: device.major,
    rdevMinor: device.minor,
    name: entry.path,
  };
}

/**
 * The archive's bytes. Paths are relative, without a leading slash; a directory comes before what lies in it, because
 * the kernel makes none by itself. Throws on a path that breaks this.
 */
export function writeCpio(entries: readonly CpioEntry[]): Buffer {
  const directories = new Set(['']);
  const seen = new Set<string>();
  const parts: Uint8Array[] = [];
  for (const [index, entry] of entries.entries()) {
    const parent = entry.path.slice(0, Math.max(entry.path.lastIndexOf('/'), 0));
    if (entry.path === '' || entry.path.startsWith('/') || entry.path.includes('\0')) {
      throw new Error(`cpio: "${entry.path}" is not a relative path`);
    }
    if (seen.has(entry.path)) throw new Error(`cpio: ${entry.path} is there twice`);
    if (!directories.has(parent)) throw new Error(`cpio: ${entry.path} comes before its directory`);
    seen.add(entry.path);
    if (entry.kind === 'directory') directories.add(entry.path);
    parts.push(...member(fields(entry, index + 1)));
  }
  parts.push(
    ...member({ ino: 0, mode: 0, nlink: 1, data: new Uint8Array(), rdevMajor: 0, rdevMinor: 0, name: TRAILER }),
  );
  return Buffer.concat(parts);
}
