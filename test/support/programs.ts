// The programs that tests use beside Node, and Debian's packages that bring them.
// A user has these, so a test does not play them: it runs with the real one, or is skipped with the reason.
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { inPath, type Need } from '../../guests/linux/packages.js';

const ROWS = {
  as: 'binutils',
  busybox: 'busybox-static',
  chromium: 'chromium',
  debugfs: 'e2fsprogs',
  e2fsck: 'e2fsprogs',
  gcc: 'gcc',
  gdb: 'gdb',
  iasl: 'acpica-tools',
  ip: 'iproute2',
  mke2fs: 'e2fsprogs',
  'musl-gcc': 'musl-tools',
  passt: 'passt',
  tcpdump: 'tcpdump',
} as const;

export type Program = keyof typeof ROWS;

/** Not in everybody's PATH, but where Debian puts half of the above. */
const SYSTEM_FOLDERS = ['/usr/sbin', '/sbin'];

export function programPath(program: Program): string | undefined {
  return inPath(program) ?? SYSTEM_FOLDERS.map((folder) => join(folder, program)).find((path) => existsSync(path));
}

/** What is missing here, in the words of the installer. */
export function programNeeds(): readonly Need[] {
  return (Object.keys(ROWS) as Program[])
    .filter((program) => programPath(program) === undefined)
    .map((program) => ({ program, package: ROWS[program] }));
}

/** For `describe.skipIf(reason !== undefined)`: why a test with these programs cannot run, or undefined. */
export function programsMissing(...programs: readonly Program[]): string | undefined {
  const missing = programs.filter((program) => programPath(program) === undefined);
  if (missing.length === 0) return undefined;
  const packages = [...new Set(missing.map((program) => ROWS[program]))];
  return `${missing.join(', ')} not installed: apt-get install ${packages.join(' ')}`;
}
