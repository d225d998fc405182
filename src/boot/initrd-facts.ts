// What an initrd has in it, as far as a report about a failed boot wants to know: its form, and whether there is an init.
// Linux Documentation/driver-api/early-userspace/buffer-format.rst (newc cpio); rdinit= in kernel-parameters.txt.
import { gunzipSync } from 'node:zlib';
import { ImageFile, type FileSource } from './image-file.js';

export interface InitrdFacts {
  readonly form: 'cpio' | 'gzip' | 'xz' | 'zstd' | 'other';
  /** Whether it has /init; undefined where it was not unpacked. */
  readonly hasInit: boolean | undefined;
}

const MAGICS = [
  { form: 'cpio', magic: [0x30, 0x37, 0x30, 0x37, 0x30] },
  { form: 'gzip', magic: [0x1f, 0x8b] },
  { form: 'xz', magic: [0xfd, 0x37, 0x7a, 0x58, 0x5a] },
  { form: 'zstd', magic: [0x28, 0xb5, 0x2f, 0xfd] },
] as const;

/** Bytes of an archive that are looked at, packed and unpacked. */
const BYTES_MAX = 256 << 20;
const HEADER = 110;
const FILES_MAX = 100_000;
const TRAILER = 'TRAILER!!!';

/** Never throws: a report must not fail over what it reports on. Undefined when the file cannot be read. */
export function initrdFacts(source: FileSource): InitrdFacts | undefined {
  try {
    using file = ImageFile.open(source, 'initrd');
    const start = file.readStart(8);
    const form = MAGICS.find(({ magic }) => magic.every((byte, i) => start[i] === byte))?.form ?? 'other';
    if ((form !== 'cpio' && form !== 'gzip') || file.size > BYTES_MAX) return { form, hasInit: undefined };
    const bytes = Buffer.from(file.read(0, file.size, 'initrd'));
    const archive = form === 'gzip' ? gunzipSync(bytes, { maxOutputLength: BYTES_MAX }) : bytes;
    return { form, hasInit: holdsInit(archive) };
  } catch {
    return undefined;
  }
}

/** Steps from header to header; archives may follow one another, with zeros between them. */
function holdsInit(archive: Buffer): boolean | undefined {
  let at = 0;
  for (let files = 0; files < FILES_MAX && at < archive.length; files++) {
    while (archive[at] === 0) at++;
    if (at === archive.length) return false;
    if (at + HEADER > archive.length) return undefined;
    const header = archive.toString('latin1', at, at + HEADER);
    const fileSize = Number.parseInt(header.slice(54, 62), 16);
    const nameSize = Number.parseInt(header.slice(94, 102), 16);
    // What follows an archive may be a compressed one, which is not unpacked here.
    if (!header.startsWith('07070') || !(fileSize >= 0) || !(nameSize > 0)) return undefined;
    const name = archive.toString('latin1', at + HEADER, at + HEADER + nameSize - 1);
    if (/^\.?\/?init$/.test(name)) return true;
    at = align4(align4(at + HEADER + nameSize) + (name === TRAILER ? 0 : fileSize));
  }
  return false;
}

function align4(value: number): number {
  return Math.ceil(value / 4) * 4;
}
