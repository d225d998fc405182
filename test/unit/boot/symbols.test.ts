// Symbols of a kernel from its ELF file and from a System.map, and what an initrd has in it: for reports of failures.
// System V ABI, "Symbol Table"; Linux Documentation/driver-api/early-userspace/buffer-format.rst.
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { afterAll, describe, expect, it } from 'vitest';
import { initrdFacts } from '../../../src/boot/initrd-facts.js';
import { readSymbols } from '../../../src/boot/symbols.js';
import { cpioArchive, elfImage } from '../../support/images.js';

const directory = mkdtempSync(join(tmpdir(), 'microvisor-symbols-'));
afterAll(() => rmSync(directory, { recursive: true }));

/** Linked at 0xffffffff81000000, loaded at 0x1000000: as Linux is. */
function kernel(): string {
  const [source, object, image, script] = ['k.S', 'k.o', 'k', 'k.ld'].map((name) => join(directory, name)) as [
    string,
    string,
    string,
    string,
  ];
  writeFileSync(source, '.globl start_kernel\nstart_kernel: nop\nnop\n.globl panic\npanic: hlt\n');
  writeFileSync(
    script,
    'ENTRY(start_kernel)\nSECTIONS { . = 0xffffffff81000000; .text : AT(0x1000000) { *(.text) } }\n',
  );
  for (const words of [
    ['as', '--64', '-o', object, source],
    ['ld', '-T', script, '-o', image, object],
  ]) {
    const { status, stderr } = spawnSync(words[0] as string, words.slice(1), { encoding: 'utf8' });
    if (status !== 0) throw new Error(stderr);
  }
  return image;
}

describe('symbols', () => {
  it('names an address by the last symbol before it, where it was linked and where it was loaded', () => {
    const path = kernel();
    const symbols = readSymbols({ path });
    expect(symbols?.nameOf(0xffff_ffff_8100_0001n)).toBe('start_kernel+0x1');
    expect(symbols?.nameOf(0xffff_ffff_8100_0002n)).toBe('panic+0x0');
    expect(symbols?.nameOf(0x100_0002n)).toBe('panic+0x0');
    expect(symbols?.nameOf(0x7c00n)).toBeUndefined();
    expect(symbols?.nameOf(0xffff_ffff_ff00_0000n)).toBeUndefined();
  });

  it('a file cut anywhere is refused or has no symbols; nothing else happens', () => {
    const bytes = readFileSync(kernel());
    for (let length = 1; length < bytes.length; length += 7)
      try {
        readSymbols({ name: 'cut', bytes: bytes.subarray(0, length) });
      } catch (error) {
        expect(error).toHaveProperty('name', 'BootError');
      }
  });

  it('reads a System.map, and finds none where there are none', () => {
    const bytes = Buffer.from('ffffffff81000000 T _stext\nffffffff81000040 t early\nffffffff82000000 D data\n');
    expect(readSymbols({ name: 'System.map', bytes })?.nameOf(0xffff_ffff_8100_0044n)).toBe('early+0x4');
    expect(readSymbols({ name: 'flat', bytes: Uint8Array.of(0x90, 0x90) })).toBeUndefined();
    const bare = elfImage({ entry: 0n, segments: [{ paddr: 0n, bytes: Uint8Array.of(0x90) }] });
    expect(readSymbols({ name: 'bare', bytes: bare })).toBeUndefined();
  });
});

describe('initrd facts', () => {
  const facts = (bytes: Uint8Array) => initrdFacts({ name: 'initrd', bytes });

  it('says whether there is an init, also in a gzipped archive and behind another one', () => {
    expect(facts(cpioArchive({ 'bin/sh': 'x', init: 'y' }))).toEqual({ form: 'cpio', hasInit: true });
    expect(facts(cpioArchive({ 'bin/init': 'x' }))).toEqual({ form: 'cpio', hasInit: false });
    expect(facts(gzipSync(cpioArchive({ './init': 'x' })))).toEqual({ form: 'gzip', hasInit: true });
    const two = Buffer.concat([cpioArchive({ a: 'x' }), new Uint8Array(512), cpioArchive({ init: 'x' })]);
    expect(facts(two)?.hasInit).toBe(true);
  });

  it('does not know what it cannot unpack', () => {
    expect(facts(Buffer.from([0x28, 0xb5, 0x2f, 0xfd, 0, 0, 0, 0, 0]))).toEqual({ form: 'zstd', hasInit: undefined });
    expect(facts(Buffer.concat([cpioArchive({ a: 'x' }), gzipSync('y'.repeat(300))]))?.hasInit).toBeUndefined();
    expect(facts(Buffer.from([0x1f, 0x8b, 1, 2, 3]))).toBeUndefined();
    expect(initrdFacts({ path: join(directory, 'nothing') })).toBeUndefined();
  });
});
