// Bad input: each case ends with status 2, one sentence that names the file or option, and nothing left running.
import { execFileSync, spawnSync } from 'node:child_process';
import { chmodSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { groupMembers, MAIN, start, type StartOptions } from '../support/cli.js';
import { bzImageFile, elfImage, multibootHeader } from '../support/images.js';
import { debugExit } from '../support/flat-guests.js';
import { noKvm } from '../support/kvm.js';

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'microvisor-bad-'));
  // For the cases that run as another user.
  chmodSync(folder, 0o755);
  writeFileSync(join(folder, 'good.bin'), debugExit(0));
  writeFileSync(join(folder, 'vmlinux'), GOOD_ELF);
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const code = Uint8Array.from(Array.from({ length: 64 }, () => 0xf4));
const GOOD_ELF = elfImage({ entry: 0x100_0000n, segments: [{ paddr: 0x100_0000n, bytes: code }] });

async function expectRefused(words: readonly string[], message: RegExp, options: StartOptions = {}): Promise<void> {
  const { child, ended } = start(['run', ...words], { input: '', ...options });
  const end = await ended;
  expect({ status: end.status, stderr: end.stderr }).toEqual({
    status: 2,
    stderr: expect.stringMatching(message) as string,
  });
  expect(end.stderr).toMatch(/^microvisor: [^\n]+\n$/);
  expect(end.stdout).toHaveLength(0);
  expect(groupMembers(child.pid ?? 0)).toEqual([]);
}

/** What can be wrong with a file, whatever it is for. */
const FILES: readonly (readonly [string, (path: string) => void, RegExp])[] = [
  ['missing', () => undefined, /no such file/],
  ['empty', (path) => writeFileSync(path, ''), /empty/],
  ['a directory', (path) => mkdirSync(path), /directory/],
  ['a FIFO', (path) => void execFileSync('mkfifo', [path]), /FIFO/],
  ['/dev/zero', (path) => symlinkSync('/dev/zero', path), /device/],
  ['a link to itself', (path) => symlinkSync(path, path), /circle/],
  ['in a file', (path) => writeFileSync(join(path, '..', 'plain'), ''), /not a folder/],
];

describe.skipIf(noKvm)('"missing, empty, … kernel or initrd; a directory, FIFO or /dev/zero"', () => {
  const cases = (['kernel', 'initrd'] as const).flatMap((role) => FILES.map((row) => [role, ...row] as const));
  test.each(cases)('%s: %s', async (role, what, make, message) => {
    const name = `${role}-${what.replaceAll(/\W/g, '-')}`;
    const path = what === 'in a file' ? join(folder, 'plain', 'x') : join(folder, name);
    make(what === 'in a file' ? join(folder, 'plain') : path);
    const words = role === 'kernel' ? ['--kernel', path] : ['--kernel', join(folder, 'vmlinux'), '--initrd', path];
    await expectRefused(words, message);
    await expectRefused(words, new RegExp(`^microvisor: ${path}: `));
  });
});

describe.skipIf(noKvm)('"truncated (at any header field)"', () => {
  // Field offsets of Elf64_Ehdr, then of the one Elf64_Phdr, then inside the segment.
  const elfCuts = [
    1, 4, 5, 16, 18, 20, 24, 32, 40, 48, 52, 54, 56, 58, 60, 63, 64, 68, 72, 80, 88, 96, 104, 112, 119, 130,
  ];
  test.each(elfCuts)('an ELF kernel of %i bytes', async (length) => {
    const path = join(folder, `elf-${length}`);
    writeFileSync(path, GOOD_ELF.subarray(0, length));
    await expectRefused(['--kernel', path], new RegExp(`^microvisor: ${path}: `));
  });

  test.each([0x1f1, 0x1fe, 0x202, 0x206, 0x211, 0x214, 0x230, 0x236, 0x250, 0x260, 0x268, 0x400])(
    'a bzImage of %i bytes',
    async (length) => {
      const path = join(folder, `bzimage-${length}`);
      writeFileSync(path, bzImageFile().subarray(0, length));
      await expectRefused(['--kernel', path], new RegExp(`^microvisor: ${path}: `));
    },
  );

  test.each([4, 8, 11])('a multiboot header of %i bytes', async (length) => {
    const path = join(folder, `multiboot-${length}`);
    writeFileSync(path, multibootHeader().subarray(0, length));
    await expectRefused(['--kernel', path], new RegExp(`^microvisor: ${path}: `));
  });
});

describe.skipIf(noKvm)('"ELF segments outside RAM, overlapping, wrapping"', () => {
  const segment = (paddr: bigint, memsz?: bigint) => ({
    paddr,
    bytes: code,
    ...(memsz === undefined ? {} : { memsz }),
  });
  test.each([
    ['outside RAM', [segment(0x1_0000_0000n)]],
    ['beyond the end of RAM', [segment(0x100_0000n, 0x1000_0000n)]],
    ['overlapping', [segment(0x100_0000n), segment(0x100_0020n)]],
    ['wrapping', [segment(0x100_0000n, 0xffff_ffff_ff80_0000n)]],
    ['at the top of the address space', [segment(0xffff_ffff_ffff_fff0n)]],
  ])('%s', async (what, segments) => {
    const path = join(folder, `segments-${what.replaceAll(' ', '-')}`);
    writeFileSync(path, elfImage({ entry: 0x100_0000n, segments }));
    await expectRefused(['--kernel', path], new RegExp(`^microvisor: ${path}: `));
  });
});

describe.skipIf(noKvm)('sizes', () => {
  test('"an initrd that does not fit"', async () => {
    const path = join(folder, 'big-initrd');
    writeFileSync(path, Buffer.alloc(40 << 20));
    await expectRefused(
      ['--kernel', join(folder, 'vmlinux'), '--initrd', path, '--mem', '32'],
      new RegExp(`^microvisor: ${path}: `),
    );
  });

  test('"a command line too long"', async () => {
    const words = ['--kernel', join(folder, 'vmlinux')];
    await expectRefused([...words, '--cmdline', 'x'.repeat(100_000)], /^microvisor: .*command line/);
    await expectRefused([...words, '--append', 'x'.repeat(100_000)], /^microvisor: .*command line/);
  });

  test('a kernel that does not fit into RAM', async () => {
    const words = ['--kernel', join(folder, 'vmlinux'), '--mem', '8'];
    await expectRefused(words, new RegExp(`^microvisor: ${join(folder, 'vmlinux')}: `));
  });

  test('a load address outside RAM', async () => {
    const words = ['--kernel', join(folder, 'good.bin'), '--entry', 'long', '--load', '0x40000000'];
    await expectRefused(words, /^microvisor: [^:]*(--load|good\.bin): /);
  });
});

describe('devices that cannot be had', () => {
  test.each([
    [['--disk', 'path=a,format=qcow2'], /--disk: takes path=FILE, .*not "format=qcow2"/],
    [['--disk', ''], /--disk: takes path=FILE/],
    [['--disk', 'id=x'], /--disk: names no file/],
    [['--disk', 'a,bps=fast'], /--disk bps: takes a size/],
    [['--net', 'bridge'], /--net: starts with one of user, tap=NAME, switch=NAME, none/],
    [['--net', 'user', '--net', 'none'], /--net: none/],
    [['--net', 'tap=t', '--net', 'tap=t'], /--net: has tap t twice/],
    [['--net', 'user,mac=01:00:00:00:00:00'], /--net mac: .*one station/],
    [['--net', 'user,forward=80:99999'], /--net forward: takes a whole number from 1 to 65535/],
    [['--console', 'virtio,tcp'], /--console: takes /],
    [['--guest', 'large'], /--guest: takes stock or small/],
    [['--guest', 'small', '--kernel', 'k'], /--guest: .*--kernel/],
    [['--guest', 'stock', '--kernel-source', 's'], /--kernel-source: .*--guest stock/],
  ])('%j', async (words, message) => {
    await expectRefused(words, message);
  });
});

/** Runs the command where `prepare` was done to a private /dev first. Needs the right to make a mount namespace. */
const inNamespace = (prepare: string): readonly string[] => [
  'unshare',
  '-m',
  'sh',
  '-c',
  `${prepare}; exec "$@"`,
  'sh',
];
const noNamespaces = spawnSync('unshare', ['-m', 'true']).status !== 0;
const noOtherUser =
  process.getuid?.() !== 0 ||
  spawnSync(process.execPath, [MAIN, '--version'], { uid: 65_534, gid: 65_534 }).status !== 0;

describe('"no /dev/kvm, no permission on it, wrong API version"', () => {
  const flat = (): string[] => ['--kernel', join(folder, 'good.bin'), '--entry', 'real'];

  test.skipIf(noKvm || noNamespaces)('no /dev/kvm: the sentence names the way to try Microvisor without', async () => {
    const wrapper = inNamespace('mount -t tmpfs none /dev && touch /dev/null');
    await expectRefused(flat(), /\/dev\/kvm: ENOENT.*npm run svm-host/, { wrapper });
  });

  test.skipIf(noKvm || noNamespaces)('something that is not KVM', async () => {
    await expectRefused(flat(), /\/dev\/kvm.*KVM/, { wrapper: inNamespace('mount --bind /dev/null /dev/kvm') });
  });

  test.skipIf(noKvm || noNamespaces)('the default guest is not built for nothing', async () => {
    const wrapper = inNamespace('mount -t tmpfs none /dev && touch /dev/null');
    const env = { XDG_CACHE_HOME: join(folder, 'cache') };
    await expectRefused([], /\/dev\/kvm: ENOENT/, { wrapper, env });
  });

  test.skipIf(noKvm || noOtherUser)('no permission on /dev/kvm', async () => {
    await expectRefused(flat(), /\/dev\/kvm: EACCES.*usermod -aG kvm/, { uid: 65_534 });
  });

  test.skipIf(noKvm || noOtherUser)('"unreadable kernel or initrd"', async () => {
    const path = join(folder, 'secret');
    writeFileSync(path, GOOD_ELF, { mode: 0o600 });
    await expectRefused(['--kernel', path], /may not be read/, { uid: 65_534 });
    await expectRefused(['--kernel', join(folder, 'vmlinux'), '--initrd', path], /may not be read/, { uid: 65_534 });
  });

  test.skipIf(noKvm || noOtherUser)('outputs that may not be written', async () => {
    await expectRefused([...flat(), '--report', join(folder, 'r')], /--report: .*may not be written/, { uid: 65_534 });
    await expectRefused([...flat(), '--console', `file=${join(folder, 'c')}`], /--console: .*may not be written/, {
      uid: 65_534,
    });
  });
});

describe('microvisor check', () => {
  test.skipIf(noKvm)('"Status 0 when VMs can run here", human and as JSON', () => {
    const human = spawnSync(process.execPath, [MAIN, 'check'], { encoding: 'utf8' });
    expect(human).toMatchObject({ status: 0, stderr: '' });
    expect(human.stdout).toMatch(/^ok +\/dev\/kvm +readable and writable$/m);
    const json = spawnSync(process.execPath, [MAIN, 'check', '--json'], { encoding: 'utf8' });
    expect(JSON.parse(json.stdout)).toMatchObject({ usable: true, facts: { kvm: { apiVersion: 12 } } });
  });

  test.skipIf(noNamespaces)('"Must work without /dev/kvm": status 1 and the remedy', () => {
    const [program = '', ...words] = inNamespace('mount -t tmpfs none /dev && touch /dev/null');
    const { status, stdout } = spawnSync(program, [...words, process.execPath, MAIN, 'check'], { encoding: 'utf8' });
    expect(status).toBe(1);
    expect(stdout).toMatch(/^BAD +\/dev\/kvm +there is no \/dev\/kvm\n +→ load the module/m);
  });
});
