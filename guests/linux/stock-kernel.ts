// Debian's own cloud kernel as the guest: the bzImage, and those of its modules that the guest's devices need.
// Debian linux-image-cloud-amd64; Linux Documentation/kbuild/modules.rst; modinfo(8) for the "depends" entry.

import { copyFile, readFile, readdir, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import type { BuildPlace } from './cache.js';
import { run } from './command.js';
import type { ModuleSet } from './initramfs.js';
import { candidateVersion, unpackPackage, type PackageOptions } from './packages.js';

const META_PACKAGE = 'linux-image-cloud-amd64';
const LIST = 'modules.list';

interface ModuleRow {
  readonly name: string;
  /** The id of the virtio device for which it is loaded (VIRTIO 1.2 §5); 0: always. */
  readonly device: number;
  /** Not there in every kernel. */
  readonly optional?: true;
}

/** What the guest needs beyond what that kernel has built in; their dependencies come along. */
const WANTED: readonly ModuleRow[] = [
  // The one that finds the devices comes first.
  { name: 'virtio_mmio', device: 0 },
  { name: 'virtio_net', device: 1 },
  // udhcpc's.
  { name: 'af_packet', device: 1 },
  { name: 'virtio_blk', device: 2 },
  // ext4 asks for it by name when it mounts, not by dependency. Newer kernels have it in a library.
  { name: 'crc32c_generic', device: 2, optional: true },
  { name: 'ext4', device: 2 },
  { name: 'virtio_console', device: 3 },
  { name: 'virtio_rng', device: 4 },
];

/** Stands for the table in the names of what is cached. */
export function wantedModules(): string {
  return JSON.stringify(WANTED);
}

/** The kernel package behind the meta package, and its version. */
export async function offeredStockKernel(options: PackageOptions): Promise<{ name: string; version: string }> {
  const depends = await run('apt-cache', ['depends', META_PACKAGE], {
    purpose: `look up ${META_PACKAGE}`,
    signal: options.signal,
  });
  const name = /Depends: (linux-image-\S+)/.exec(depends)?.[1];
  const version = name === undefined ? undefined : await candidateVersion(name, options);
  if (name === undefined || version === undefined) {
    throw new Error(`apt offers no ${META_PACKAGE}: run "apt-get update" as root on a Debian machine`);
  }
  return { name, version };
}

/** A module's name as the kernel knows it, from its file's name. */
function moduleName(file: string): string {
  return basename(file)
    .replace(/\.ko(\.xz|\.zst|\.gz)?$/, '')
    .replaceAll('-', '_');
}

/** The modules that a module needs, from the "depends=" string of its .modinfo section. */
export function moduleDependencies(image: Buffer): string[] {
  const at = image.indexOf('\0depends=');
  if (at < 0) return [];
  const start = at + '\0depends='.length;
  const text = image.toString('latin1', start, image.indexOf(0, start));
  return text.split(',').flatMap((name) => (name === '' ? [] : [name.replaceAll('-', '_')]));
}

/** `wanted` and all that it needs, each after what it needs. */
export function loadOrder(wanted: string, dependencies: (name: string) => readonly string[]): string[] {
  const order: string[] = [];
  const visit = (name: string): void => {
    if (order.includes(name)) return;
    for (const needed of dependencies(name)) visit(needed);
    order.push(name);
  };
  visit(wanted);
  return order;
}

/** One line of the list from which /init loads: `DEVICE NAME`. What two devices need stands there twice. */
export function moduleLines(rows: readonly ModuleRow[], dependencies: (name: string) => readonly string[]): string[] {
  const lines = rows.flatMap(({ name, device }) =>
    loadOrder(name, dependencies).map((module) => `${device} ${module}.ko`),
  );
  return [...new Set(lines)];
}

async function readModule(path: string, options: PackageOptions): Promise<Buffer> {
  if (!path.endsWith('.xz')) return readFile(path);
  await run('xz', ['--decompress', '--keep', '--force', path], { purpose: `unpack ${path}`, signal: options.signal });
  return readFile(path.slice(0, -'.xz'.length));
}

/** The modules by file name, and the lines of their list. */
async function collectModules(
  directory: string,
  options: PackageOptions,
): Promise<{ readonly files: ReadonlyMap<string, Buffer>; readonly lines: readonly string[] }> {
  const paths = new Map<string, string>();
  for (const file of await readdir(directory, { recursive: true })) {
    if (/\.ko(\.xz)?$/.test(file)) paths.set(moduleName(file), join(directory, file));
  }
  const builtin = new Set((await readFile(join(directory, 'modules.builtin'), 'utf8')).split('\n').map(moduleName));
  const needs = new Map<string, readonly string[]>();
  const files = new Map<string, Buffer>();
  const load = async (name: string): Promise<void> => {
    if (needs.has(name)) return;
    const path = paths.get(name);
    if (path === undefined) throw new Error(`cannot collect the guest's modules: ${directory} has no ${name}`);
    const image = await readModule(path, options);
    files.set(`${name}.ko`, image);
    const needed = moduleDependencies(image).filter((module) => !builtin.has(module));
    needs.set(name, needed);
    for (const module of needed) await load(module);
  };
  const rows = WANTED.filter(({ name, optional }) => !builtin.has(name) && !(optional === true && !paths.has(name)));
  for (const { name } of rows) await load(name);
  return { files, lines: moduleLines(rows, (name) => needs.get(name) ?? []) };
}

/** Leaves `vmlinuz`, `config`, the modules and the list of them in `place.output`. */
export async function unpackStockKernel(
  kernel: { readonly name: string; readonly version: string },
  place: BuildPlace,
  options: PackageOptions,
): Promise<void> {
  const root = await unpackPackage(kernel.name, kernel.version, place.scratch, options);
  const image = (await readdir(join(root, 'boot'))).find((name) => name.startsWith('vmlinuz-'));
  if (image === undefined) throw new Error(`cannot unpack ${kernel.name}: no vmlinuz in its boot directory`);
  const release = image.slice('vmlinuz-'.length);
  await copyFile(join(root, 'boot', image), join(place.output, 'vmlinuz'));
  await copyFile(join(root, 'boot', `config-${release}`), join(place.output, 'config'));
  const { files, lines } = await collectModules(join(root, 'lib/modules', release), options);
  for (const [name, data] of files) await writeFile(join(place.output, name), data);
  await writeFile(join(place.output, LIST), lines.map((line) => `${line}\n`).join(''));
}

/** The modules that `unpackStockKernel` left in `directory`. */
export async function readStockModules(directory: string): Promise<ModuleSet> {
  const lines = (await readFile(join(directory, LIST), 'utf8')).split('\n').filter((line) => line !== '');
  const list = lines.map((line) => {
    const [device = '', name = ''] = line.split(' ');
    return { device: Number(device), name };
  });
  const names = [...new Set(list.map(({ name }) => name))];
  const files = await Promise.all(names.map(async (name) => ({ name, data: await readFile(join(directory, name)) })));
  return { files, list };
}
