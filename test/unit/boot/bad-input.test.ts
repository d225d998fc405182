// Bad files and options: each ends with one sentence that names the file or option, and never with a crash or a wait.
import { execFileSync } from 'node:child_process';
import { chmodSync, mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { BootError } from '../../../src/boot/errors.js';
import { checkBoot, inspectImage, loadImage } from '../../../src/boot/load-image.js';
import { GuestMemory } from '../../../src/memory/guest-memory.js';
import { boot, bootError, MIB, requestFor } from '../../support/boot.js';
import {
  bzImageFile,
  cpioArchive,
  elfImage,
  type ElfSegmentSpec,
  linuxNote,
  multibootHeader,
  pvhNote,
} from '../../support/images.js';

const CODE = new Uint8Array(256).fill(0xf4);

function vmlinux(...more: ElfSegmentSpec[]): Uint8Array {
  return elfImage({ entry: 0x100_0000n, segments: [{ paddr: 0x100_0000n, bytes: CODE }, ...more] });
}

const NOTES = { type: 4, paddr: 0n, bytes: new Uint8Array([...linuxNote(), ...pvhNote(0x100_0000)]) };
const LAST = { paddr: 0x110_0000n, bytes: CODE };
const MULTIBOOT = elfImage({
  bits: 32,
  entry: 0x10_0020n,
  segments: [{ paddr: 0x10_0000n, bytes: new Uint8Array([...multibootHeader(), ...CODE]) }],
});

const IMAGES = {
  'ELF64 with notes': vmlinux(NOTES, LAST),
  'ELF32 multiboot': MULTIBOOT,
  bzImage: bzImageFile({ payload: 0x400 }),
};

describe('a truncated kernel', () => {
  it.each(Object.entries(IMAGES))('%s "truncated at every byte offset": a BootError, each time', (_, image) => {
    expect(() => checkBoot(64 * MIB, requestFor(image))).not.toThrow();
    for (let size = 0; size < image.length; size++)
      expect(bootError(() => checkBoot(64 * MIB, requestFor(image.slice(0, size)))).file).toBe('kernel.img');
  });

  it('a truncated cpio archive: the same', () => {
    const archive = cpioArchive({ init: 'some text', 'etc/passwd': 'root' });
    // The padding after the trailer's name may go.
    const needed = archive.lastIndexOf('!'.charCodeAt(0)) + 2;
    for (let size = 0; size < needed; size++) {
      const initrd = { bytes: archive.slice(0, size), name: 'rd' };
      expect(bootError(() => checkBoot(64 * MIB, requestFor(vmlinux(), { initrd })))).toMatchObject({ file: 'rd' });
    }
  });

  it.each([
    ['gzip', [0x1f, 0x8b, 8], 19],
    ['xz', [0xfd, 0x37, 0x7a, 0x58, 0x5a, 0], 200],
  ])('%s data without its end is refused', (_, magic, size) => {
    const bytes = new Uint8Array(size);
    bytes.set(magic);
    expect(bootError(() => boot(vmlinux(), { initrd: { bytes, name: 'rd' } })).file).toBe('rd');
  });
});

describe('a damaged kernel', () => {
  it.each(Object.entries(IMAGES))(
    '%s with any bytes changed either loads or is refused with a BootError',
    (_, image) => {
      const change = fc.record({ at: fc.nat({ max: Math.min(image.length, 0x280) - 1 }), byte: fc.nat({ max: 255 }) });
      fc.assert(
        fc.property(fc.array(change, { minLength: 1, maxLength: 8 }), (changes) => {
          const damaged = image.slice();
          for (const { at, byte } of changes) damaged[at] = byte;
          try {
            checkBoot(64 * MIB, requestFor(damaged));
          } catch (error) {
            expect(error).toBeInstanceOf(BootError);
          }
        }),
        { numRuns: 1000 },
      );
    },
  );

  it('random bytes are refused, whatever entry is asked for', () => {
    fc.assert(
      fc.property(
        fc.uint8Array({ maxLength: 600 }),
        fc.constantFrom('auto', 'linux64', 'pvh', 'multiboot' as const),
        (bytes, entry) => {
          bootError(() => checkBoot(64 * MIB, requestFor(bytes, { entry })));
        },
      ),
    );
  });

  it.each([
    ['e_ident[EI_CLASS]', { 4: [3] }],
    ['e_ident[EI_DATA]', { 5: [2] }],
    ['e_ident[EI_VERSION]', { 6: [0] }],
    ['e_type', { 16: [1] }],
    ['e_machine', { 18: [0xb7] }],
    ['e_version', { 20: [0] }],
    ['e_entry', { 24: [0, 0, 0x20, 1] }],
    ['the program header table (e_phoff)', { 32: [0xff, 0xff, 0xff] }],
    ['the program header table (e_phoff)', { 32: [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff] }],
    ['e_phentsize', { 54: [55] }],
    ['e_phnum', { 56: [0, 0] }],
    ['e_phnum', { 56: [0xff, 0xff] }],
    ['p_type', { 64: [6] }],
    ['segment 0 (p_offset, p_filesz)', { 72: [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff] }],
    ['segment 0 (p_offset, p_filesz)', { 96: [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f] }],
    ['p_memsz', { 104: [1, 0] }],
    ['p_paddr', { 104: [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff] }],
  ])('a bad %s is refused by its name', (field, patch) => {
    const image = elfImage({ entry: 0x100_0000n, segments: [{ paddr: 0x100_0000n, bytes: CODE }], patch });
    expect(bootError(() => boot(image))).toMatchObject({ file: 'kernel.img', field });
  });
});

describe('ELF segments', () => {
  it.each([
    ['outside RAM', { paddr: 0x4000_0000n, bytes: CODE }, /belongs at 0x40000000.*RAM is 0x0–0x3ffffff/],
    ['across the end of RAM', { paddr: 0x3ff_ff80n, bytes: CODE }, /RAM is/],
    ['in the 32-bit hole', { paddr: 0xd000_0000n, bytes: CODE }, /RAM is/],
    ['wrapping', { paddr: 0xffff_ffff_ffff_0000n, bytes: CODE, memsz: 0x2_0000n }, /wraps around/],
    ['overlapping', { paddr: 0x100_0080n, bytes: CODE }, /kernel segment 1 .* lies on the kernel segment 0/],
    ['inside another', { paddr: 0x100_0010n, bytes: CODE.slice(0, 8) }, /lies on/],
    ['on the zero page', { paddr: 0x7800n, bytes: CODE }, /lies on the boot_params/],
    ['on the page tables', { paddr: 0x9000n, bytes: CODE }, /boot page tables/],
    ['on the command line', { paddr: 0x2_0000n, bytes: CODE }, /command line/],
    ['on the MP table', { paddr: 0x9_fc00n, bytes: CODE }, /MP table/],
  ])('%s are refused', (_, segment, message) => {
    const error = bootError(() => boot(vmlinux(segment)));
    expect(error).toMatchObject({ file: 'kernel.img', field: 'p_paddr' });
    expect(error.message).toMatch(message);
  });

  it('overlapping with the initrd cannot happen: it goes below, or is refused', () => {
    const initrd = { bytes: new Uint8Array(8192).fill(1), name: 'rd' };
    const image = vmlinux({ paddr: 0x3ff_0000n, bytes: CODE, memsz: 0x1_0000n });
    const { plan } = boot(image, { initrd });
    expect(plan.placed.find(({ name }) => name === 'initrd')?.base).toBe(0x3fe_e000);
    const big = { bytes: new Uint8Array(60 * MIB), name: 'rd' };
    expect(bootError(() => boot(image, { initrd: big }))).toMatchObject({ file: 'rd', field: 'initrd' });
  });
});

describe('options', () => {
  const refused = (more: Parameters<typeof requestFor>[1]) => bootError(() => boot(vmlinux(), more));

  it('a command line with NUL', () => {
    expect(refused({ cmdline: 'a\0b' })).toMatchObject({ file: 'cmdline', field: 'cmdline' });
  });

  it.each([0, -1, 1.5, Number.NaN, Infinity, 255, 2 ** 64])('%d processors', (cpus) => {
    expect(refused({ cpus })).toMatchObject({ field: 'cpus' });
  });

  it('a load address for an image that brings its own', () => {
    expect(refused({ load: 0x20_0000 })).toMatchObject({ field: 'load' });
  });

  it('a random seed that does not fit', () => {
    expect(refused({ rngSeed: new Uint8Array(5000) })).toMatchObject({ field: 'rngSeed' });
  });

  it('too little RAM for the kernel', () => {
    expect(bootError(() => boot(vmlinux(), {}, MIB)).field).toBe('p_paddr');
  });
});

describe('files', () => {
  let folder = '';
  const at = (name: string) => join(folder, name);
  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), 'microvisor-boot-'));
    mkdirSync(at('directory'));
    execFileSync('mkfifo', [at('fifo')]);
    writeFileSync(at('empty'), '');
    writeFileSync(at('text'), 'not a kernel\n'.repeat(100));
    writeFileSync(at('kernel'), vmlinux(NOTES, LAST));
    writeFileSync(at('initrd'), cpioArchive({ init: 'x'.repeat(10_000) }));
    symlinkSync(at('loop'), at('loop'));
    symlinkSync(at('kernel'), at('link'));
    writeFileSync(at('locked'), CODE);
    chmodSync(at('locked'), 0);
  });
  afterAll(() => rmSync(folder, { recursive: true, force: true }));

  const refusals: readonly (readonly [string, RegExp])[] = [
    ['missing', /no such file/],
    ['directory', /is a directory/],
    ['fifo', /is a FIFO/],
    ['empty', /file is empty/],
    ['loop', /symbolic links/],
    ['kernel/x', /not a folder/],
    ['x'.repeat(300), /too long/],
    ['nul\0', /NUL/],
  ];
  it.each(refusals)('%s is refused as kernel and as initrd, at once', (name, message) => {
    const path = at(name);
    const memory = GuestMemory.create(32 * MIB);
    for (const request of [
      { ...requestFor(CODE), kernel: { path } },
      { ...requestFor(vmlinux()), initrd: { path } },
    ]) {
      const error = bootError(() => loadImage(memory, request));
      expect(error.file).toBe(path);
      expect(error.message).toMatch(message);
    }
  });

  it.each(['/dev/zero', '/dev/null', '/dev/full'])('%s is refused', (path) => {
    expect(bootError(() => inspectImage({ path })).message).toMatch(/is a character device/);
  });

  it.skipIf(process.getuid?.() === 0)('an unreadable file is refused (not for root, who may read it)', () => {
    expect(bootError(() => inspectImage({ path: at('locked') })).message).toMatch(/permissions/);
  });

  it('a file of no known kind is refused, with the way to load it flat', () => {
    expect(bootError(() => inspectImage({ path: at('text') })).message).toMatch(/neither an ELF .* --entry/);
  });

  it('are read into guest memory, through symbolic links, and closed again', () => {
    const open = () => readdirSync('/proc/self/fd').length;
    const before = open();
    const memory = GuestMemory.create(32 * MIB);
    const request = { ...requestFor(CODE), kernel: { path: at('link') }, initrd: { path: at('initrd') } };
    const plan = loadImage(memory, request);
    expect(plan.format).toBe('elf-linux');
    expect(memory.readU8(0x100_0000)).toBe(0xf4);
    const initrd = plan.placed.find(({ name }) => name === 'initrd');
    expect(Buffer.from(memory.read(initrd?.base ?? 0, 6)).toString()).toBe('070701');
    bootError(() => loadImage(memory, { ...request, initrd: { path: at('missing') } }));
    expect(open()).toBe(before);
  });
});
