// What the guest is made of: choosing kernel packages, ordering modules, hiding busybox applets.
// guests/linux/packages.ts, stock-kernel.ts, busybox.ts.

import { describe, expect, it } from 'vitest';
import { hideApplets, isStaticElf } from '../../../guests/linux/busybox.js';
import { missingPackages, newestKernelSource } from '../../../guests/linux/packages.js';
import { loadOrder, moduleDependencies, moduleLines } from '../../../guests/linux/stock-kernel.js';

describe('newestKernelSource', () => {
  it('"the one with the highest version", by number and not by letter', () => {
    expect(newestKernelSource(['linux-source-6.9', 'linux-source-6.12', 'linux-source-6.1'])).toBe('linux-source-6.12');
    expect(newestKernelSource(['linux-source', 'linux-source-6.1-rt'])).toBeUndefined();
  });
});

describe('missingPackages', () => {
  it('names each missing package once', () => {
    const needs = [
      { program: 'sh', package: 'dash' },
      { program: 'no-such-program-a', package: 'one' },
      { program: 'no-such-program-b', package: 'one' },
      { file: '/no/such/file', package: 'two' },
    ];
    expect(missingPackages(needs)).toEqual(['one', 'two']);
  });
});

describe('loadOrder', () => {
  it('"each after what it needs", and once', () => {
    const needs: Record<string, string[]> = { ext4: ['jbd2', 'crc16'], jbd2: ['crc16'] };
    expect(loadOrder('ext4', (name) => needs[name] ?? [])).toEqual(['crc16', 'jbd2', 'ext4']);
  });

  it('"what two devices need stands there twice", so that either alone brings it', () => {
    const needs: Record<string, string[]> = { net: ['ring', 'failover'], block: ['ring'] };
    const rows = [
      { name: 'net', device: 1 },
      { name: 'failover', device: 1 },
      { name: 'block', device: 2 },
    ];
    expect(moduleLines(rows, (name) => needs[name] ?? [])).toEqual([
      '1 ring.ko',
      '1 failover.ko',
      '1 net.ko',
      '2 ring.ko',
      '2 block.ko',
    ]);
  });

  it('reads "the modules that a module needs" from its .modinfo section', () => {
    expect(moduleDependencies(Buffer.from('\0license=GPL\0depends=jbd2,mb-cache\0name=ext4\0'))).toEqual([
      'jbd2',
      'mb_cache',
    ]);
    expect(moduleDependencies(Buffer.from('\0depends=\0name=x\0'))).toEqual([]);
    expect(moduleDependencies(Buffer.from('nothing'))).toEqual([]);
  });
});

describe('hideApplets', () => {
  const applets = ['grep', 'halt', 'head', 'ls'];
  const image = Buffer.from('code\0halt\0other\0grep\0halt\0head\0ls\0');

  it('"gives them names that nobody types", in the table of names only, and "the names stay sorted"', () => {
    expect(hideApplets(image, applets, ['halt']).toString()).toBe('code\0halt\0other\0grep\0halu\0head\0ls\0');
  });

  it('"the same one where the names\' table is not found exactly once"', () => {
    const twice = Buffer.concat([image, image]);
    expect(hideApplets(twice, applets, ['halt']).equals(twice)).toBe(true);
    expect(hideApplets(image, applets, ['reboot']).equals(image)).toBe(true);
  });
});

describe('isStaticElf', () => {
  it('refuses what is no ELF file, and a truncated one', () => {
    expect(isStaticElf(Buffer.from('#!/bin/sh\n'))).toBe(false);
    expect(isStaticElf(Buffer.concat([Buffer.from('\x7fELF\x02'), Buffer.alloc(40)]))).toBe(false);
  });
});
