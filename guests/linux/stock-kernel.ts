// Debian's own cloud kernel as the guest: the bzImage, and those of its modules that the guest's devices need.
// Debian linux-image-cloud-amd64; Linux Documentation/kbuild/modules.rst; modinfo(8) for the "depends" entry.

import { copyFile, readFile, readdir, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import type { BuildPlace } from './cache.js';
import { run } from './command.js';
import type { ModuleFile } from './initramfs.js';
import { candidateVersion, unpackPackage, type PackageOptions } from './packages.js';

const META_PACKAGE = 'linux-image-cloud-amd64';

/** What the guest needs beyond what that kernel has built in; their dependencies come along. */
const WANTED = [
  'virtio_mmio',
  'virtio_blk',
  'virtio_net',
  'virtio_console',
  'virtio_rng',
  'af_packet',
  // ext4 asks for it by name when it mounts, not by dependency.
  'crc32c_generic',
  'ext4',
] as const;

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

/** `wanted` and all that they need, each after what it needs. */
export function loadOrder(wanted: readonly string[], dependencies: (name: string) => readonly string[]): string[] {
  const order: string[] = [];
  const visit = (name: string): void => {
    if (order.includes(name)) return;
    for (const needed of dependencies(name)) visit(needed);
    order.push(name);
  };
  for (const name of wanted) visit(name);
  return order;
}

async function readModule(path: string, options: PackageOptions): Promise<Buffer> {
  if (!path.endsWith('.xz')) return readFile(path);
  await run('xz', ['--decompress', '--keep', '--force', path], { purpose: `unpack ${path}`, signal: options.signal });
  return readFile(path.slice(0, -'.xz'.length));
}

async function collectModules(directory: string, options: PackageOptions): Promise<ModuleFile[]> {
  const paths = new Map<string, string>();
  for (const file of await readdir(directory, { recursive: true })) {
    if (/\.ko(\.xz)?$/.test(file)) paths.set(moduleName(file), join(directory, file));
  }
  const builtin = new Set((await readFile(join(directory, 'modules.builtin'), 'utf8')).split('\n').map(moduleName));
  const images = new Map<string, Buffer>();
  const load = async (name: string): Promise<void> => {
    if (images.has(name) || builtin.has(name)) return;
    const path = paths.get(name);
    if (path === undefined) throw new Error(`cannot collect the guest's modules: ${directory} has no ${name}`);
    const image = await readModule(path, options);
    images.set(name, image);
    for (const needed of moduleDependencies(image)) await load(needed);
  };
  for (const name of WANTED) await load(name);
  const order = loadOrder(WANTED, (name) => moduleDependencies(images.get(name) ?? Buffer.alloc(0)));
  return order.flatMap((name) => {
    const data = images.get(name);
    return data === undefined ? [] : [{ name: `${name}.ko`, data }];
  });
}

/** Leaves `vmlinuz`, `config` and, in the order of loading, `modules.list` with the modules in `place.output`. */
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
  const modules = await collectModules(join(root, 'lib/modules', release), options);
  for (const { name, data } of modules) await writeFile(join(place.output, name), data);
  await writeFile(join(place.output, 'modules.list'), modules.map(({ name }) => `${name}\n`).join(''));
}

/** The modules that `unpackStockKernel` left in `directory`. */
export async function readStockModules(directory: string): Promise<ModuleFile[]> {
  const names = (await readFile(join(directory, 'modules.list'), 'utf8')).split('\n').filter((name) => name !== '');
  return Promise.all(names.map(async (name) => ({ name, data: await readFile(join(directory, name)) })));
}
