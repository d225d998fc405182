// The initramfs writer, held to what cpio(1) reads from it.
// Linux Documentation/driver-api/early-userspace/buffer-format.rst.

import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { writeCpio, type CpioEntry } from '../../../guests/linux/cpio.js';

const haveCpio = spawnSync('cpio', ['--version']).status === 0;

const entries: readonly CpioEntry[] = [
  { kind: 'directory', path: 'dev', mode: 0o755 },
  { kind: 'directory', path: 'tmp', mode: 0o1777 },
  { kind: 'device', path: 'dev/console', mode: 0o600, type: 'char', major: 5, minor: 1 },
  { kind: 'device', path: 'dev/vda', mode: 0o660, type: 'block', major: 254, minor: 0 },
  { kind: 'file', path: 'init', mode: 0o755, data: Buffer.from('#!/bin/sh\n') },
  { kind: 'file', path: 'empty', mode: 0o644, data: new Uint8Array() },
  { kind: 'file', path: 'tmp/ü', mode: 0o4755, data: Buffer.alloc(4097, 9) },
  { kind: 'symlink', path: 'sh', target: '/bin/busybox' },
];

describe('writeCpio', () => {
  it.skipIf(!haveCpio)('"uncompressed cpio archive, device nodes included", as cpio -itv lists it', () => {
    const listed = spawnSync('cpio', ['-itvn', '--quiet'], { input: writeCpio(entries), encoding: 'utf8' });
    expect(listed.stderr).toBe('');
    const lines = listed.stdout.trim().split('\n');
    const rows = lines.map((line) => line.replaceAll(/\s+/g, ' ').replace(/ Jan 1 1970/, ''));
    expect(rows).toEqual([
      'drwxr-xr-x 2 0 0 0 dev',
      'drwxrwxrwt 2 0 0 0 tmp',
      'crw------- 1 0 0 5, 1 dev/console',
      'brw-rw---- 1 0 0 254, 0 dev/vda',
      '-rwxr-xr-x 1 0 0 10 init',
      '-rw-r--r-- 1 0 0 0 empty',
      expect.stringMatching(/^-rwsr-xr-x 1 0 0 4097 tmp\//),
      'lrwxrwxrwx 1 0 0 12 sh -> /bin/busybox',
    ]);
  });

  it.skipIf(!haveCpio)('gives the files back byte for byte', () => {
    const directory = mkdtempSync(join(tmpdir(), 'cpio-test-'));
    try {
      const files = entries.filter((entry) => entry.kind !== 'device');
      const unpacked = spawnSync('cpio', ['-id', '--quiet'], { input: writeCpio(files), cwd: directory });
      expect(unpacked.status).toBe(0);
      for (const entry of files) {
        if (entry.kind === 'file') expect(readFileSync(join(directory, entry.path)).equals(entry.data)).toBe(true);
      }
    } finally {
      rmSync(directory, { recursive: true, force: true });
    }
  });

  it('gives equal bytes for equal entries, and starts every header and every file on a multiple of four', () => {
    const archive = writeCpio(entries);
    expect(archive.equals(writeCpio(entries))).toBe(true);
    expect(archive.length % 4).toBe(0);
    for (let at = archive.indexOf('070701'); at >= 0; at = archive.indexOf('070701', at + 1)) expect(at % 4).toBe(0);
  });

  it.each([
    ['an absolute path', [{ kind: 'directory', path: '/dev', mode: 0o755 }], /not a relative path/],
    ['a missing directory', [{ kind: 'symlink', path: 'a/b', target: 'c' }], /a\/b comes before its directory/],
    [
      'a path twice',
      [
        { kind: 'symlink', path: 'a', target: 'c' },
        { kind: 'symlink', path: 'a', target: 'd' },
      ],
      /a is there twice/,
    ],
  ] satisfies [string, CpioEntry[], RegExp][])('throws on %s', (_, list, message) => {
    expect(() => writeCpio(list)).toThrow(message);
  });
});
