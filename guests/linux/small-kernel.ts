// Builds the small guest kernel: vmlinux, an uncompressed ELF file, from Debian's or the user's source.
// Linux Documentation/kbuild/kbuild.rst, kconfig.rst.

import { copyFile, mkdir, readFile, readdir, stat, writeFile } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import { join, resolve } from 'node:path';
import type { BuildPlace } from './cache.js';
import { run } from './command.js';
import { checkKernelConfig, formatKernelConfig, parseKernelConfig } from './kernel-config.js';
import { unpackPackage } from './packages.js';

/** Where the source comes from. */
export type KernelSource =
  | { readonly kind: 'package'; readonly name: string; readonly version: string }
  | { readonly kind: 'directory'; readonly path: string }
  | { readonly kind: 'tarball'; readonly path: string };

export interface BuildOptions {
  readonly config: string;
  readonly signal?: AbortSignal | undefined;
  /** `fraction` of this build, from 0 to 1, never falling. */
  readonly onProgress: (fraction: number, detail: string) => void;
}

/** Lines that make prints for the whole build; 6.1 and 6.12 differ by a few per cent. */
const EXPECTED_LINES = 1400;
/** Share of the time that goes into unpacking before the first line is printed. */
const UNPACK_SHARE = 0.06;

/** Parts of the source tree that no x86 guest compiles; their Kconfig files have to stay. */
const LEFT_OUT = [
  '*/Documentation/*.rst',
  '*/drivers/gpu/*.[ch]',
  '*/drivers/net/ethernet/*.[ch]',
  '*/drivers/net/wireless/*.[ch]',
  '*/drivers/media/*.c',
  '*/drivers/infiniband/*.c',
  '*/drivers/staging/*.c',
  '*/sound/*.c',
  '*/fs/xfs/*.c',
  '*/fs/btrfs/*.c',
  '*/tools/perf/*',
  '*/tools/testing/*',
  '*.dts',
  '*.dtsi',
];

/** Equal inputs give an equal kernel. */
const REPRODUCIBLE = {
  KBUILD_BUILD_USER: 'microvisor',
  KBUILD_BUILD_HOST: 'microvisor',
  KBUILD_BUILD_TIMESTAMP: 'Thu Jan  1 00:00:00 UTC 1970',
};

/** Tells a directory from a tarball, and says so when the path is neither. */
export async function userKernelSource(path: string): Promise<KernelSource> {
  const absolute = resolve(path);
  const found = await stat(absolute).catch((error: unknown) => {
    throw new Error(`cannot use the kernel source ${path}: ${error instanceof Error ? error.message : String(error)}`);
  });
  if (found.isFile()) return { kind: 'tarball', path: absolute };
  if (!found.isDirectory()) throw new Error(`cannot use the kernel source ${path}: it is no directory and no tarball`);
  await readFile(join(absolute, 'Kconfig')).catch(() => {
    throw new Error(`cannot use the kernel source ${path}: it has no Kconfig, so it is not the top of a kernel tree`);
  });
  return { kind: 'directory', path: absolute };
}

/** What identifies the source without reading it all. */
export async function kernelSourceIdentity(source: KernelSource): Promise<string> {
  if (source.kind === 'package') return `package ${source.name} ${source.version}`;
  const witness = source.kind === 'directory' ? join(source.path, 'Makefile') : source.path;
  const { size, mtimeMs } = await stat(witness);
  return `${source.kind} ${source.path} ${size} ${mtimeMs}`;
}

async function unpack(source: KernelSource, place: BuildPlace, options: BuildOptions): Promise<string> {
  if (source.kind === 'directory') return source.path;
  let tarball = source.kind === 'tarball' ? source.path : '';
  if (source.kind === 'package') {
    options.onProgress(0, `downloading ${source.name} ${source.version}`);
    const root = await unpackPackage(source.name, source.version, place.scratch, options);
    const directory = join(root, 'usr/src');
    const file = (await readdir(directory)).find((name) => name.startsWith(`${source.name}.tar`));
    if (file === undefined) throw new Error(`cannot unpack ${source.name}: no ${source.name}.tar.* in its usr/src`);
    tarball = join(directory, file);
  }
  options.onProgress(UNPACK_SHARE / 4, 'unpacking the kernel source');
  const tree = join(place.scratch, 'source');
  await mkdir(tree);
  const excludes = LEFT_OUT.map((pattern) => `--exclude=${pattern}`);
  await run('tar', ['-xf', tarball, '-C', tree, '--strip-components=1', ...excludes], {
    purpose: `unpack ${tarball}`,
    signal: options.signal,
  });
  return tree;
}

async function kernelVersion(tree: string): Promise<string> {
  const makefile = await readFile(join(tree, 'Makefile'), 'utf8').catch(() => '');
  const field = (name: string): string | undefined => new RegExp(`^${name} *= *(\\d+)`, 'm').exec(makefile)?.[1];
  const version = field('VERSION');
  const patchlevel = field('PATCHLEVEL');
  if (version === undefined || patchlevel === undefined) {
    throw new Error(`cannot build the kernel: the Makefile of ${tree} names no kernel version`);
  }
  return `${version}.${patchlevel}`;
}

/** Leaves `vmlinux` and `config` in `place.output`. */
export async function buildSmallKernel(source: KernelSource, place: BuildPlace, options: BuildOptions): Promise<void> {
  const tree = await unpack(source, place, options);
  const version = await kernelVersion(tree);
  options.onProgress(UNPACK_SHARE, `configuring Linux ${version}`);
  const build = join(place.scratch, 'build');
  await mkdir(build);
  const fragment = join(place.scratch, 'fragment.config');
  const rows = parseKernelConfig(options.config, version);
  await writeFile(fragment, formatKernelConfig(rows));
  const make = (targets: readonly string[], onLine: ((line: string) => void) | undefined): Promise<string> =>
    run('make', ['-C', tree, `O=${build}`, `-j${availableParallelism()}`, ...targets], {
      purpose: `build Linux ${version}`,
      env: { ...REPRODUCIBLE, KCONFIG_ALLCONFIG: fragment },
      signal: options.signal,
      ...(onLine === undefined ? {} : { onLine }),
    });
  await make(['allnoconfig'], undefined);
  const problems = checkKernelConfig(rows, await readFile(join(build, '.config'), 'utf8'));
  if (problems.length > 0) throw new Error(`cannot configure Linux ${version}:\n${problems.join('\n')}`);
  let lines = 0;
  await make(['vmlinux'], (line) => {
    lines += 1;
    options.onProgress(buildFraction(lines), line.trim());
  });
  const output = join(place.output, 'vmlinux');
  await run('strip', ['--strip-debug', '-o', output, join(build, 'vmlinux')], {
    purpose: 'strip the kernel',
    signal: options.signal,
  });
  await copyFile(join(build, '.config'), join(place.output, 'config'));
}

/** How far the build is when make has printed so many lines: grows towards 1 and never passes it. */
export function buildFraction(lines: number): number {
  const share = lines <= EXPECTED_LINES ? (lines / EXPECTED_LINES) * 0.97 : 1 - (0.03 * EXPECTED_LINES) / lines;
  return UNPACK_SHARE + (1 - UNPACK_SHARE) * share;
}
