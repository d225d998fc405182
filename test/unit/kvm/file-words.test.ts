// What is said of a file that the host does not give: src/kvm/file-words.ts, by the host's own errors.
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { errorCode, fileWords } from '../../../src/kvm/file-words.js';
import { openSnapshot } from '../../../src/machine/snapshot/directory.js';

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'microvisor-words-'));
  mkdirSync(join(folder, 'directory'));
  writeFileSync(join(folder, 'file'), 'x');
  symlinkSync('round', join(folder, 'round'));
});
afterAll(() => rmSync(folder, { recursive: true }));

function thrown(act: () => unknown): unknown {
  try {
    act();
  } catch (error) {
    return error;
  }
  throw new Error('it went well');
}

describe('"one clear sentence: … what was found, what to do"', () => {
  it.each([
    ['directory', /^it is a directory; name a file in it$/, /^it is a directory; name a file in it$/],
    ['missing/file', /^there is no such file; check the path$/, /^there is no such folder; make it first$/],
    ['file/file', /^a part of its path is not a folder; check the path$/, /^a part of its path is not a folder/],
    ['round', /^its symbolic links go round in a circle/, /^its symbolic links go round in a circle/],
    ['n'.repeat(300), /^its name is too long; choose a shorter one$/, /^its name is too long; choose a shorter one$/],
    ['nul\0byte', /^its name has a NUL byte in it; check the path$/, /^its name has a NUL byte in it/],
  ])('%s', (name, reading, writing) => {
    const path = `${folder}/${name}`;
    expect(
      fileWords(
        'read',
        thrown(() => readFileSync(path)),
      ),
    ).toMatch(reading);
    expect(
      fileWords(
        'write',
        thrown(() => writeFileSync(path, 'x')),
      ),
    ).toMatch(writing);
  });

  it('a code that has no row, and an error that has no code', () => {
    const odd = Object.assign(new Error('odd'), { code: 'EXDEV' });
    expect(errorCode(odd)).toBe('EXDEV');
    expect(fileWords('read', odd)).toBe('the host answered EXDEV; choose another file');
    expect(errorCode(new Error('odd'))).toBeUndefined();
    expect(fileWords('write', new Error('odd'))).toBe('the host answered Error: odd; choose another file');
  });

  it('of a snapshot that cannot be read nobody says that it cannot be written', () => {
    expect(thrown(() => openSnapshot(join(folder, 'missing')))).toMatchObject({
      message: expect.stringMatching(
        /there is no snapshot to be read: there is no such file; check the path$/,
      ) as string,
    });
  });
});
