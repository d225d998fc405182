// `microvisor disk create`, with Debian's own mke2fs, e2fsck and debugfs.
import { execFileSync, spawnSync } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { createDisk, type DiskRequest } from '../../../src/cli/disk-create.js';
import { programsMissing } from '../../support/programs.js';

const MAIN = fileURLToPath(new URL('../../../src/cli/main.js', import.meta.url));
const MIB = 2 ** 20;
const PATH = `${process.env['PATH'] ?? ''}:/sbin:/usr/sbin`;

const noTools = programsMissing('debugfs', 'e2fsck', 'mke2fs') !== undefined;

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'microvisor-disk-'));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

const at = (name: string): string => join(folder, name);
const tool = (program: string, ...words: string[]): Buffer =>
  execFileSync(program, words, { env: { PATH }, stdio: 'pipe' });

function request(more: Partial<DiskRequest> = {}): DiskRequest {
  const signal = new AbortController().signal;
  return { path: at('disk.img'), bytes: 64 * MIB, from: undefined, force: false, signal, ...more };
}

describe.skipIf(noTools)('"makes an ext4 image with Debian\'s mke2fs -d"', () => {
  test('"sparse, exact size", clean, a journal, and root’s', async () => {
    await createDisk(request({ bytes: 64 * MIB + 512 }));
    const { size, blocks } = statSync(at('disk.img'));
    expect(size).toBe(64 * MIB + 512);
    expect(blocks * 512).toBeLessThan(2 * MIB);
    tool('e2fsck', '-fn', at('disk.img'));
    const features = tool('dumpe2fs', '-h', at('disk.img')).toString();
    expect(features).toMatch(/^Filesystem features:.*has_journal.*extent/m);
    expect(tool('debugfs', '-R', 'stat /', at('disk.img')).toString()).toMatch(/User: +0 +Group: +0/);
    expect(readdirSync(folder)).toEqual(['disk.img']);
  });

  test('"[--from DIR]": what lies there is in the image, byte for byte', async () => {
    const bytes = randomBytes(300_001);
    mkdirSync(at('from/deep'), { recursive: true });
    writeFileSync(at('from/deep/file'), bytes);
    symlinkSync('deep/file', at('from/link'));
    await createDisk(request({ from: at('from') }));
    tool('e2fsck', '-fn', at('disk.img'));
    const found = tool('debugfs', '-R', 'cat /deep/file', at('disk.img'));
    const sha256 = (data: Uint8Array): string => createHash('sha256').update(data).digest('hex');
    expect(sha256(found)).toBe(sha256(bytes));
    expect(tool('debugfs', '-R', 'stat /link', at('disk.img')).toString()).toMatch(/"deep\/file"/);
  });
});

describe.skipIf(noTools)('what is there stays', () => {
  test('"refuses to overwrite without --force"', async () => {
    writeFileSync(at('disk.img'), 'mine');
    await expect(createDisk(request())).rejects.toThrow(/^FILE: .*disk\.img: it is there already; add --force/);
    expect(readFileSync(at('disk.img'), 'utf8')).toBe('mine');
    await createDisk(request({ force: true, bytes: MIB }));
    expect(statSync(at('disk.img')).size).toBe(MIB);
  });

  test.each([
    ['a folder', (path: string) => mkdirSync(path)],
    ['a link', (path: string) => symlinkSync('/dev/null', path)],
    ['a FIFO', (path: string) => void execFileSync('mkfifo', [path])],
  ])('%s is not replaced, --force or not', async (_, make) => {
    make(at('disk.img'));
    await expect(createDisk(request({ force: true }))).rejects.toThrow(/no regular file/);
    expect(readdirSync(folder)).toEqual(['disk.img']);
  });

  test('"removes its partial file on failure", and with --force keeps the old one', async () => {
    mkdirSync(at('from'));
    writeFileSync(at('from/big'), randomBytes(2 * MIB));
    writeFileSync(at('disk.img'), 'mine');
    const failing = request({ from: at('from'), bytes: MIB, force: true });
    await expect(createDisk(failing)).rejects.toThrow(/^--size: the content of .* does not fit; choose a larger one/);
    expect(readFileSync(at('disk.img'), 'utf8')).toBe('mine');
    expect(readdirSync(folder).toSorted()).toEqual(['disk.img', 'from']);
  });

  test('a signal in the middle leaves nothing', async () => {
    mkdirSync(at('from'));
    for (let i = 0; i < 200; i++) writeFileSync(at(`from/${i}`), randomBytes(10_000));
    const abort = new AbortController();
    const made = createDisk(request({ from: at('from'), signal: abort.signal }));
    setTimeout(() => abort.abort(), 5);
    await expect(made).rejects.toThrow();
    expect(readdirSync(folder)).toEqual(['from']);
  });
});

describe('what cannot work', () => {
  test.skipIf(noTools)('a path or folder that is not there', async () => {
    await expect(createDisk(request({ path: at('no/disk.img') }))).rejects.toThrow(/^FILE: .*no such folder/);
    await expect(createDisk(request({ from: at('no') }))).rejects.toThrow(/^--from: .*no such folder/);
    writeFileSync(at('file'), '');
    await expect(createDisk(request({ from: at('file') }))).rejects.toThrow(/^--from: .*it is no folder/);
    expect(readdirSync(folder)).toEqual(['file']);
  });

  test.skipIf(process.getuid?.() !== 0)('"a clear sentence with the package name e2fsprogs when missing"', () => {
    // Without /sbin and /usr/sbin, which are searched whatever PATH says.
    const hide = 'mount -t tmpfs none /usr/sbin && { test -L /sbin || mount -t tmpfs none /sbin; }; exec "$@"';
    const words = [process.execPath, MAIN, 'disk', 'create', at('disk.img'), '--size', '1M'];
    const end = spawnSync('unshare', ['-m', 'sh', '-c', hide, 'sh', ...words], { encoding: 'utf8' });
    expect(end).toMatchObject({ status: 2, stdout: '' });
    expect(end.stderr).toMatch(/^microvisor: mke2fs is not on this machine; .*apt-get install e2fsprogs\n$/);
    expect(readdirSync(folder)).toEqual([]);
  });

  test.skipIf(noTools)('without root, from the command line', () => {
    const words = [MAIN, 'disk', 'create', at('disk.img'), '--size', '8M'];
    const end = spawnSync(process.execPath, words, { encoding: 'utf8', env: { PATH: '/nowhere' } });
    expect(end).toMatchObject({ status: 0, stdout: '', stderr: '' });
    expect(statSync(at('disk.img')).size).toBe(8 * MIB);
  });
});
