// Debian's packages: which tools are missing and how to get them, which kernel is newest, unpacking without installing.
// apt-get(8), apt-cache(8), dpkg-deb(1).

import { existsSync } from 'node:fs';
import { mkdir, readdir } from 'node:fs/promises';
import { delimiter, join } from 'node:path';
import { run } from './command.js';

/** One thing that building needs: a program in PATH or a file, and the Debian package that brings it. */
export interface Need {
  readonly program?: string;
  readonly file?: string;
  readonly package: string;
}

/** For the initramfs: our own /init is the only thing compiled. */
export const INITRAMFS_NEEDS: readonly Need[] = [
  { program: 'musl-gcc', package: 'musl-tools' },
  { program: 'gcc', package: 'gcc' },
];

/** For the small kernel: what Documentation/process/changes.rst names and this configuration uses. */
export const KERNEL_NEEDS: readonly Need[] = [
  { program: 'gcc', package: 'gcc' },
  { file: '/usr/include/stdio.h', package: 'libc6-dev' },
  { program: 'make', package: 'make' },
  { program: 'ld', package: 'binutils' },
  { program: 'flex', package: 'flex' },
  { program: 'bison', package: 'bison' },
  { program: 'bc', package: 'bc' },
  { program: 'xz', package: 'xz-utils' },
  { program: 'perl', package: 'perl' },
  // objtool reads ELF files with it; no x86-64 kernel is built without objtool.
  { file: '/usr/include/gelf.h', package: 'libelf-dev' },
];

export interface PackageOptions {
  readonly signal?: AbortSignal | undefined;
  readonly onDetail?: ((detail: string) => void) | undefined;
}

export function inPath(program: string): string | undefined {
  for (const directory of (process.env['PATH'] ?? '').split(delimiter)) {
    const path = join(directory, program);
    if (directory !== '' && existsSync(path)) return path;
  }
  return undefined;
}

export function missingPackages(needs: readonly Need[]): string[] {
  const missing = needs.filter(
    (need) =>
      (need.program !== undefined && inPath(need.program) === undefined) ||
      (need.file !== undefined && !existsSync(need.file)),
  );
  return [...new Set(missing.map((need) => need.package))];
}

export function haveApt(): boolean {
  return inPath('apt-get') !== undefined && inPath('dpkg-deb') !== undefined;
}

function isRoot(): boolean {
  return process.geteuid?.() === 0;
}

/** Someone else may be installing at the moment: another build, or this machine's own upgrade (apt-get(8), in seconds). */
const WAIT_FOR_LOCK = ['-o', 'DPkg::Lock::Timeout=300'] as const;

/** Refreshes apt's lists where that is allowed; what is known already has to do otherwise. */
export async function updateLists(options: PackageOptions): Promise<void> {
  if (!haveApt() || !isRoot()) return;
  options.onDetail?.('apt-get update');
  try {
    await run('apt-get', ['-qq', 'update'], { purpose: 'update the package lists', signal: options.signal });
  } catch (error) {
    options.signal?.throwIfAborted();
    options.onDetail?.(`apt-get update failed, going on with the lists there are: ${String(error)}`);
  }
}

/**
 * Installs what is missing when root; otherwise throws one sentence with the command that does it.
 * @param options.purpose what cannot be done without, for that sentence
 */
export async function ensureInstalled(
  needs: readonly Need[],
  { purpose = 'build the default guest', ...options }: PackageOptions & { readonly purpose?: string },
): Promise<void> {
  const missing = missingPackages(needs);
  if (missing.length === 0) return;
  const command = `apt-get install --no-install-recommends ${missing.join(' ')}`;
  if (!haveApt() || !isRoot()) {
    const how = haveApt() ? `run as root: ${command}` : 'install them with the package manager of this machine';
    throw new Error(`cannot ${purpose}: ${missing.join(', ')} not installed; ${how}`);
  }
  options.onDetail?.(`installing ${missing.join(', ')}`);
  await run('apt-get', ['-qq', '-y', ...WAIT_FOR_LOCK, 'install', '--no-install-recommends', ...missing], {
    purpose: `install ${missing.join(', ')}`,
    env: { DEBIAN_FRONTEND: 'noninteractive' },
    signal: options.signal,
  });
  const still = missingPackages(needs);
  if (still.length > 0) throw new Error(`cannot ${purpose}: "${command}" did not bring ${still.join(', ')}`);
}

/** The version that apt would install, or undefined when it knows no such package. */
export async function candidateVersion(name: string, options: PackageOptions): Promise<string | undefined> {
  const policy = await run('apt-cache', ['policy', name], { purpose: `look up ${name}`, signal: options.signal });
  const version = /^\s*Candidate:\s*(\S+)/m.exec(policy)?.[1];
  return version === '(none)' ? undefined : version;
}

/** Of "linux-source-6.1", "linux-source-6.12" and so on the one with the highest version. */
export function newestKernelSource(names: readonly string[]): string | undefined {
  const versions = names.flatMap((name) => {
    const match = /^linux-source-(\d+)\.(\d+)$/.exec(name);
    return match === null ? [] : [{ name, order: Number(match[1]) * 100_000 + Number(match[2]) }];
  });
  return versions.toSorted((a, b) => b.order - a.order)[0]?.name;
}

export async function offeredKernelSource(options: PackageOptions): Promise<{ name: string; version: string }> {
  const names = await run('apt-cache', ['pkgnames', 'linux-source-'], {
    purpose: 'look for a kernel source package',
    signal: options.signal,
  });
  const name = newestKernelSource(names.split('\n'));
  const version = name === undefined ? undefined : await candidateVersion(name, options);
  if (name === undefined || version === undefined) {
    throw new Error(
      'apt offers no linux-source package: run "apt-get update" as root, or name a kernel source with --kernel-source',
    );
  }
  return { name, version };
}

/** Downloads a package and unpacks it into `directory`/NAME; nothing is installed and nobody need be root. */
export async function unpackPackage(
  name: string,
  version: string,
  directory: string,
  options: PackageOptions,
): Promise<string> {
  const download = join(directory, `${name}.download`);
  const root = join(directory, name);
  await mkdir(download, { recursive: true });
  // Root's apt would want to drop its rights and then cannot write here.
  const sandbox = isRoot() ? ['-o', 'APT::Sandbox::User=root'] : [];
  await run('apt-get', ['-qq', ...sandbox, 'download', `${name}=${version}`], {
    purpose: `download ${name} ${version}`,
    cwd: download,
    signal: options.signal,
  });
  const file = (await readdir(download)).find((entry) => entry.endsWith('.deb'));
  if (file === undefined) throw new Error(`cannot download ${name} ${version}: apt-get left no .deb in ${download}`);
  await run('dpkg-deb', ['-x', join(download, file), root], { purpose: `unpack ${file}`, signal: options.signal });
  return root;
}
