// The files that a run writes: the report in one piece, the console without ever waiting, and what is refused.
import { execFileSync } from 'node:child_process';
import {
  closeSync,
  constants,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { finished } from 'node:stream/promises';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { openConsoleFile } from '../../../src/cli/console-file.js';
import { FdSink } from '../../../src/cli/fd-sink.js';
import { openReportFile, toJson } from '../../../src/cli/report-file.js';

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'microvisor-cli-'));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

const makeFifo = (path: string): void => void execFileSync('mkfifo', [path]);

describe('--report FILE', () => {
  test('"written atomically": a whole new file, nothing beside it, registers as hexadecimal', () => {
    const path = join(folder, 'report.json');
    writeFileSync(path, 'the old one');
    const file = openReportFile(path);
    expect(readFileSync(path, 'utf8')).toBe('the old one');
    file.write({ rip: 0xffff_ffff_8000_0000n, list: [1] });
    expect(JSON.parse(readFileSync(path, 'utf8'))).toEqual({ rip: '0xffffffff80000000', list: [1] });
    expect(readdirSync(folder)).toEqual(['report.json']);
  });

  test('a symbolic link stays one: its target is replaced', () => {
    writeFileSync(join(folder, 'target'), '');
    symlinkSync(join(folder, 'target'), join(folder, 'link'));
    openReportFile(join(folder, 'link')).write(7);
    expect(lstatSync(join(folder, 'link')).isSymbolicLink()).toBe(true);
    expect(readFileSync(join(folder, 'target'), 'utf8')).toBe('7\n');
  });

  test('a device stays one: it is written to, not replaced', () => {
    symlinkSync('/dev/null', join(folder, 'null'));
    openReportFile(join(folder, 'null')).write({});
    expect(lstatSync('/dev/null').isCharacterDevice()).toBe(true);
  });

  test.each([
    ['a directory', (path: string) => mkdirSync(path), /it is a directory/],
    ['a FIFO that nobody reads, at once', makeFifo, /nobody reads/],
    ['a folder that is not there', (path: string) => path, /no such folder/, 'missing/report'],
    ['a file as folder', (path: string) => writeFileSync(join(path, '..', 'file'), ''), /not a folder/, 'file/report'],
  ])('refused before the VM starts: %s', (_, prepare, message, name = 'report') => {
    const path = join(folder, name);
    prepare(join(folder, 'report'));
    expect(() => openReportFile(path)).toThrow(message);
    expect(() => openReportFile(path)).toThrow(new RegExp(`^--report: ${path}: `));
  });

  test('JSON without loss', () => {
    expect(toJson({ a: 1n, b: undefined })).toBe('{\n  "a": "0x1"\n}\n');
  });
});

describe('--console file=PATH', () => {
  test.each([
    ['a directory', (path: string) => mkdirSync(path), /it is a directory/, 'console'],
    ['a folder that is not there', () => undefined, /no such folder/, 'missing/console'],
  ])('refused before the VM starts: %s', (_, prepare, message, name) => {
    const path = join(folder, name);
    prepare(path);
    expect(() => openConsoleFile(path)).toThrow(message);
    expect(() => openConsoleFile(path)).toThrow(new RegExp(`^--console: ${path}: `));
  });

  test('a FIFO that nobody reads yet does not hold us up', () => {
    const path = join(folder, 'console');
    makeFifo(path);
    closeSync(openConsoleFile(path));
  });
});

describe('FdSink', () => {
  test('byte-exact into a file, in many pieces', async () => {
    const fd = openSync(join(folder, 'out'), 'w');
    const bytes = Buffer.from(Array.from({ length: 300_000 }, (_, i) => (i * 31 + (i >> 8)) & 0xff));
    const sink = new FdSink(fd);
    for (let at = 0; at < bytes.length; at += 7919) sink.write(bytes.subarray(at, at + 7919));
    sink.end();
    await finished(sink);
    closeSync(fd);
    expect(readFileSync(join(folder, 'out')).equals(bytes)).toBe(true);
  });

  test('a pipe whose reader has stopped makes it wait, not the event loop; then everything comes', async () => {
    const path = join(folder, 'pipe');
    makeFifo(path);
    const reader = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
    const writer = openSync(path, constants.O_WRONLY);
    const bytes = Buffer.alloc(400_000, 'abcdefg');
    const sink = new FdSink(writer);
    sink.end(bytes);
    // More than a pipe holds: the event loop is free, the write is not done.
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(sink.writableFinished).toBe(false);
    const parts: Buffer[] = [];
    const buffer = Buffer.alloc(65_536);
    while (!sink.writableFinished) {
      try {
        parts.push(Buffer.from(buffer.subarray(0, readSync(reader, buffer))));
      } catch {
        // Nothing there yet.
      }
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
    parts.push(Buffer.from(buffer.subarray(0, readSync(reader, buffer))));
    expect(Buffer.concat(parts).equals(bytes)).toBe(true);
    closeSync(reader);
    closeSync(writer);
  });

  test('a reader that has gone is an EPIPE error, and no crash', async () => {
    const path = join(folder, 'pipe');
    makeFifo(path);
    const reader = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
    const writer = openSync(path, constants.O_WRONLY);
    const sink = new FdSink(writer);
    closeSync(reader);
    sink.write('x');
    await expect(finished(sink)).rejects.toMatchObject({ code: 'EPIPE' });
    closeSync(writer);
  });
});
