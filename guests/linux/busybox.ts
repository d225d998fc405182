// Busybox for the initramfs: where it comes from, and the one thing about it that has to be changed.
// busybox.net: applets/applets.c, libbb/appletlib.c (the applets' names as one sorted run of strings).

import { access, constants, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { run } from './command.js';
import { candidateVersion, haveApt, inPath, unpackPackage, type PackageOptions } from './packages.js';

const PACKAGE = 'busybox-static';

export type BusyboxSource =
  | { readonly kind: 'package'; readonly name: string; readonly version: string }
  | { readonly kind: 'installed'; readonly path: string };

/** Names that /init answers to itself: busybox's own would stop the processors instead of powering off. */
export const POWER_COMMANDS = ['poweroff', 'reboot', 'halt'] as const;

const PT_INTERP = 3;

/** True for an ELF64 program that needs no dynamic loader (ELF-64 Object File Format, Program Header). */
export function isStaticElf(image: Buffer): boolean {
  if (image.length < 64 || image.readUInt32BE(0) !== 0x7f454c46 || image[4] !== 2) return false;
  const offset = Number(image.readBigUInt64LE(32));
  const size = image.readUInt16LE(54);
  const count = image.readUInt16LE(56);
  if (size < 56 || offset + size * count > image.length) return false;
  for (let i = 0; i < count; i++) if (image.readUInt32LE(offset + i * size) === PT_INTERP) return false;
  return true;
}

/** Debian's package where apt offers it, else a static busybox of this machine. */
export async function findBusybox(options: PackageOptions): Promise<BusyboxSource> {
  const version = haveApt() ? await candidateVersion(PACKAGE, options) : undefined;
  if (version !== undefined) return { kind: 'package', name: PACKAGE, version };
  const path = inPath('busybox');
  if (path !== undefined && isStaticElf(await readFile(path))) return { kind: 'installed', path };
  throw new Error(
    `cannot build the initramfs: apt offers no ${PACKAGE} and PATH has no static busybox; install ${PACKAGE}`,
  );
}

/**
 * Takes applets out of busybox by giving them names that nobody types. Debian's static shell runs an applet before it
 * looks into PATH, so /sbin/poweroff would never be found. The names are sorted and stay so.
 * @returns the changed image, or the same one where the names' table is not found exactly once
 */
export function hideApplets(image: Buffer, applets: readonly string[], hidden: readonly string[]): Buffer {
  const result = Buffer.from(image);
  for (const name of hidden) {
    const index = applets.indexOf(name);
    const before = applets[index - 1];
    const after = applets[index + 1];
    if (before === undefined || after === undefined) continue;
    const pattern = Buffer.from(`\0${before}\0${name}\0${after}\0`);
    const at = result.indexOf(pattern);
    const last = at + before.length + name.length + 1;
    const replaced = `${name.slice(0, -1)}${String.fromCharCode(name.charCodeAt(name.length - 1) + 1)}`;
    if (at < 0 || result.indexOf(pattern, at + 1) >= 0 || replaced >= after) continue;
    result[last] = replaced.charCodeAt(replaced.length - 1);
  }
  return result;
}

/** The program and the names of its applets. */
export async function loadBusybox(
  source: BusyboxSource,
  scratch: string,
  options: PackageOptions,
): Promise<{ image: Buffer; applets: string[] }> {
  let path = source.kind === 'installed' ? source.path : '';
  if (source.kind === 'package') {
    const root = await unpackPackage(source.name, source.version, scratch, options);
    path = join(root, 'bin/busybox');
    await access(path, constants.X_OK).catch(() => {
      path = join(root, 'usr/bin/busybox');
    });
  }
  const list = await run(path, ['--list'], { purpose: "list busybox's applets", signal: options.signal });
  const applets = list.split('\n').filter((name) => name !== '');
  const image = await readFile(path);
  return { image: hideApplets(image, applets, POWER_COMMANDS), applets };
}
