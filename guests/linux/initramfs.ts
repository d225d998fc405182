// Assembles the default guest's root file system: /init, busybox and a handful of small files, as one cpio archive.
// Linux Documentation/filesystems/ramfs-rootfs-initramfs.rst.

import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { loadBusybox, POWER_COMMANDS, type BusyboxSource } from './busybox.js';
import type { BuildPlace } from './cache.js';
import { writeCpio, type CpioEntry } from './cpio.js';
import { compileInit } from './init-program.js';
import type { PackageOptions } from './packages.js';

/** Kernel modules. */
export interface ModuleSet {
  readonly files: readonly { readonly name: string; readonly data: Uint8Array }[];
  /** In the order of loading, each for one virtio device id or, with 0, for every machine. */
  readonly list: readonly { readonly device: number; readonly name: string }[];
}

const DIRECTORIES = [
  'bin',
  'dev',
  'etc',
  'lib',
  'mnt',
  'proc',
  'root',
  'run',
  'sbin',
  'sys',
  'tmp',
  'usr',
  'usr/bin',
  'var',
];

/** udhcpc calls this with the lease in its environment. */
const UDHCPC_SCRIPT = `#!/bin/sh
case "$1" in
deconfig) ifconfig "$interface" 0.0.0.0 ;;
bound | renew)
  ifconfig "$interface" "$ip" netmask "\${subnet:-255.255.255.0}" \${mtu:+mtu "$mtu"}
  for r in $router; do route add default gw "$r" dev "$interface" && break; done
  for d in $dns; do echo "nameserver $d"; done > /etc/resolv.conf
  ;;
esac
`;

const FILES: readonly { path: string; mode: number; text: string }[] = [
  { path: 'etc/passwd', mode: 0o644, text: 'root:x:0:0:root:/root:/bin/sh\n' },
  { path: 'etc/group', mode: 0o644, text: 'root:x:0:\ntty:x:5:\n' },
  { path: 'etc/hosts', mode: 0o644, text: '127.0.0.1 localhost microvisor\n' },
  { path: 'etc/udhcpc.script', mode: 0o755, text: UDHCPC_SCRIPT },
];

/**
 * Links to busybox for what is executed by its path. Everything else needs none: the shell and busybox's own xargs,
 * env and find run an applet by its name, and the exec agent asks busybox for what PATH does not have. A link for each
 * of its 270 applets would cost the guest three million instructions at every boot, a seventh of it all.
 */
const LINKS: readonly { path: string; target: string }[] = [
  { path: 'bin/sh', target: 'busybox' },
  { path: 'usr/bin/env', target: '/bin/busybox' },
  ...POWER_COMMANDS.map((name) => ({ path: `sbin/${name}`, target: '/init' })),
];

function entries(init: Uint8Array, busybox: Uint8Array, modules: ModuleSet | undefined): CpioEntry[] {
  const list: CpioEntry[] = [
    ...DIRECTORIES.map((path): CpioEntry => ({ kind: 'directory', path, mode: path === 'tmp' ? 0o1777 : 0o755 })),
    // The kernel opens it for process 1 before devtmpfs is mounted.
    { kind: 'device', path: 'dev/console', mode: 0o600, type: 'char', major: 5, minor: 1 },
    { kind: 'device', path: 'dev/null', mode: 0o666, type: 'char', major: 1, minor: 3 },
    { kind: 'file', path: 'init', mode: 0o755, data: init },
    { kind: 'file', path: 'bin/busybox', mode: 0o755, data: busybox },
    ...LINKS.map((link): CpioEntry => ({ kind: 'symlink', ...link })),
    ...FILES.map(({ path, mode, text }): CpioEntry => ({ kind: 'file', path, mode, data: Buffer.from(text) })),
  ];
  if (modules === undefined) return list;
  const order = modules.list.map(({ device, name }) => `${device} /lib/modules/${name}\n`).join('');
  return [
    ...list,
    { kind: 'directory', path: 'lib/modules', mode: 0o755 },
    { kind: 'file', path: 'lib/modules/list', mode: 0o644, data: Buffer.from(order) },
    ...modules.files.map(({ name, data }): CpioEntry => ({
      kind: 'file',
      path: `lib/modules/${name}`,
      mode: 0o644,
      data,
    })),
  ];
}

/** Stands for the tables of this file in the names of what is cached. */
export function initramfsLayout(): string {
  return JSON.stringify([DIRECTORIES, FILES, LINKS]);
}

export interface InitramfsParts {
  /** The folder with /init's C sources. */
  readonly initDirectory: string;
  readonly busybox: BusyboxSource;
  /** Undefined for a kernel that needs none. */
  readonly modules: ModuleSet | undefined;
}

/** Leaves `initrd.cpio` in `place.output`. */
export async function buildInitramfs(parts: InitramfsParts, place: BuildPlace, options: PackageOptions): Promise<void> {
  const init = join(place.scratch, 'init');
  await compileInit(parts.initDirectory, init, options.signal);
  const { image } = await loadBusybox(parts.busybox, place.scratch, options);
  const archive = writeCpio(entries(await readFile(init), image, parts.modules));
  await writeFile(join(place.output, 'initrd.cpio'), archive);
}
