// Looks whether an initrd for Linux is whole, as far as its headers tell: the kernel would only panic, much later.
// Linux Documentation/driver-api/early-userspace/buffer-format.rst (newc cpio); magic numbers of lib/decompress.c.
import { BootError } from './errors.js';
import type { ImageFile } from './image-file.js';

/** @throws BootError for an initrd that is certainly cut off. One of a kind not known here is the kernel's affair. */
export function checkInitrd(file: ImageFile | undefined): void {
  if (file === undefined) return;
  if (file.size < SMALLEST) throw truncated(file, `it has only ${file.size} bytes, fewer than any initrd`);
  const start = file.readStart(MAGIC_LENGTH);
  if (NEWC_MAGICS.includes(ascii(start))) return walkCpio(file);
  const kind = COMPRESSED.find(({ magic }) => magic.every((byte, i) => start[i] === byte));
  if (kind === undefined) return;
  const { name, smallest, footer = [] } = kind;
  if (file.size < smallest) throw truncated(file, `${name} data has at least ${smallest} bytes, this has ${file.size}`);
  const end = file.read(file.size - footer.length, footer.length, 'footer');
  if (!footer.every((byte, i) => end[i] === byte)) throw truncated(file, `the ${name} data's last bytes are missing`);
}

const MAGIC_LENGTH = 6;
/** Bytes below which nothing can be an initrd; the smallest compressed archive has more. */
const SMALLEST = 32;
const NEWC_MAGICS: readonly string[] = ['070701', '070702'];
const NEWC_HEADER = 110;
/** Longest path that the kernel takes (PATH_MAX). */
const NAME_MAX = 4096;
const TRAILER = 'TRAILER!!!';

interface Compression {
  readonly name: string;
  readonly magic: readonly number[];
  /** Header and trailer together, in bytes. */
  readonly smallest: number;
  readonly footer?: readonly number[];
}

const COMPRESSED: readonly Compression[] = [
  { name: 'gzip', magic: [0x1f, 0x8b], smallest: 20 },
  { name: 'xz', magic: [0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00], smallest: 32, footer: [0x59, 0x5a] },
];

/** Steps from header to header to the archive's trailer; file contents are not read. */
function walkCpio(file: ImageFile): void {
  for (let at = 0; ;) {
    if (at + NEWC_HEADER > file.size) throw truncated(file, 'the cpio archive ends before its trailer');
    const header = ascii(file.read(at, NEWC_HEADER, 'cpio header'));
    if (!NEWC_MAGICS.includes(header.slice(0, MAGIC_LENGTH)))
      throw new BootError(
        file.name,
        'c_magic',
        `there is no cpio header at byte ${at}, where the last entry says; the initrd is damaged, make it anew`,
      );
    const fileSize = hexField(file, header, 54, 'c_filesize');
    const nameSize = hexField(file, header, 94, 'c_namesize');
    if (nameSize === 0 || nameSize > NAME_MAX)
      throw new BootError(
        file.name,
        'c_namesize',
        `the name at byte ${at} has ${nameSize} bytes; the initrd is damaged, make it anew`,
      );
    if (at + NEWC_HEADER + nameSize > file.size) throw truncated(file, 'the cpio archive ends within a name');
    const name = ascii(file.read(at + NEWC_HEADER, nameSize, 'cpio name')).replace(/\0$/, '');
    if (name === TRAILER) return;
    at = align4(align4(at + NEWC_HEADER + nameSize) + fileSize);
  }
}

function hexField(file: ImageFile, header: string, at: number, field: string): number {
  const text = header.slice(at, at + 8);
  if (!/^[0-9a-fA-F]{8}$/.test(text))
    throw new BootError(
      file.name,
      field,
      `${field} is "${text}", not eight hexadecimal digits; the initrd is damaged, make it anew`,
    );
  return Number.parseInt(text, 16);
}

function truncated(file: ImageFile, what: string): BootError {
  return new BootError(file.name, 'initrd', `the initrd is truncated: ${what}; make it anew`);
}

function ascii(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('latin1');
}

function align4(value: number): number {
  return Math.ceil(value / 4) * 4;
}
