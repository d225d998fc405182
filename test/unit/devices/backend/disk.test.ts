// Disks on real files: what may be opened, what is locked, what an overlay keeps, and what a broken host does.
// Issue text, part 3 (Block); shared list of hostile cases, groups Block and Host faults.
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  appendFileSync,
  closeSync,
  constants,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { constants as os, tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { BlockBackend } from '../../../../src/devices/backend/block-backend.js';
import { openDisk, type DiskOptions } from '../../../../src/devices/backend/disk.js';
import { DiskError } from '../../../../src/devices/backend/host-file.js';
import { overlayLayout } from '../../../../src/devices/backend/overlay-format.js';
import { DiskHands, transferMemory } from '../../../support/disk-hands.js';
import { randomOf } from '../../../support/recording-file.js';

const { errno } = os;
const BYTES = 1 << 20;
const isRoot = process.getuid?.() === 0;

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'microvisor-disk-'));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

let names = 0;
function image(bytes = BYTES): string {
  const path = join(folder, `image${names++}`);
  const random = randomOf(names);
  writeFileSync(
    path,
    Uint8Array.from({ length: bytes }, () => random(256)),
  );
  return path;
}

const memory = transferMemory(4 << 20);

async function hands(options: DiskOptions): Promise<DiskHands> {
  return new DiskHands(await openDisk(options, memory), memory);
}

/** The sentence of the refusal. */
async function refusal(options: DiskOptions): Promise<string> {
  const opened: BlockBackend | Error = await openDisk(options, memory).catch((error: Error) => error);
  if (!(opened instanceof Error)) {
    await opened.close();
    return 'it was opened';
  }
  expect(opened).toBeInstanceOf(DiskError);
  return opened.message;
}

const digest = (path: string): string => createHash('sha256').update(readFileSync(path)).digest('hex');
/** Vitest compares large arrays element by element, for seconds. */
function expectSame(found: Uint8Array | number, wanted: Uint8Array): void {
  expect(typeof found === 'number' ? `errno ${found}` : Buffer.compare(found, wanted)).toBe(0);
}
const filled = (length: number, value: number): Uint8Array => new Uint8Array(length).fill(value);

describe('what is refused, and in which words', () => {
  it('"sizes not multiple of 512 refused"', async () => {
    const path = image(1000);
    expect(await refusal({ path })).toBe(
      `cannot use the disk ${path}: it has 1000 bytes, and a disk has whole sectors of 512, at least one; ` +
        'make it 1024 bytes long (truncate -s)',
    );
    writeFileSync(path, '');
    expect(await refusal({ path })).toMatch(/has 0 bytes.*make it 512 bytes long/);
  });

  it.each([
    [
      'missing',
      () => join(folder, 'missing'),
      /cannot open the disk .*missing for writing: ENOENT; there is no such file/,
    ],
    ['a directory', () => folder, /EISDIR; it is a directory/],
    ['a device of characters', () => '/dev/null', /neither a regular file nor a block device/],
    [
      'a FIFO, without hanging',
      () => {
        const path = join(folder, 'fifo');
        execFileSync('mkfifo', [path]);
        return path;
      },
      /neither a regular file nor a block device/,
    ],
  ])('%s', async (_, path, message) => {
    expect(await refusal({ path: path() })).toMatch(message);
  });

  it('"the second user gets a clear error"; readers share, and a file is free again after close', async () => {
    const path = image();
    const writer = await openDisk({ path }, memory);
    const sentence = `cannot use the disk ${path}: somebody else has it open`;
    expect(await refusal({ path })).toContain(sentence);
    expect(await refusal({ path, readOnly: true })).toContain(`${sentence} for writing`);
    await writer.close();
    const readers = [
      await openDisk({ path, readOnly: true }, memory),
      await openDisk({ path, readOnly: true }, memory),
    ];
    expect(await refusal({ path })).toContain(sentence);
    await Promise.all(readers.map((reader) => reader.close()));
    await (await openDisk({ path }, memory)).close();
  });

  it('the lock is the kernel’s, so that it holds against other processes and goes with this one', async () => {
    const path = image();
    const writer = await openDisk({ path }, memory);
    const inode = statSync(path).ino;
    expect(readFileSync('/proc/locks', 'utf8')).toMatch(new RegExp(`OFDLCK .* WRITE .*:${inode} `));
    await writer.close();
    expect(readFileSync('/proc/locks', 'utf8')).not.toMatch(new RegExp(`OFDLCK .*:${inode} `));
  });
});

describe('raw', () => {
  it('case 20: "the guest writes a qcow2 or vmdk header to its raw disk; reopened → still raw"', async () => {
    for (const magic of [
      Uint8Array.of(0x51, 0x46, 0x49, 0xfb, 0, 0, 0, 3),
      new TextEncoder().encode('KDMV\x01\0\0\0'),
    ]) {
      const path = image();
      const sector = filled(512, 0);
      sector.set(magic);
      let disk = await hands({ path });
      expect(await disk.write(0, sector)).toBe(0);
      expect(await disk.flush()).toBe(0);
      await disk.disk.close();
      disk = await hands({ path });
      expect(disk.disk.capacityBytes).toBe(BYTES);
      expectSame(await disk.read(0, 512), sector);
      expectSame(await disk.read(BYTES - 512, 512), new Uint8Array(readFileSync(path).subarray(BYTES - 512)));
      await disk.disk.close();
    }
  });

  it('"DISCARD and WRITE_ZEROES punch holes"', async () => {
    const path = image();
    const disk = await hands({ path });
    const blocks = statSync(path).blocks;
    expect(await disk.discard(0, 256 << 10)).toBe(0);
    expect(await disk.writeZeroes(512 << 10, 256 << 10)).toBe(0);
    expectSame(await disk.read(512 << 10, 4096), filled(4096, 0));
    expectSame(await disk.read(0, 4096), filled(4096, 0));
    expect(statSync(path).blocks).toBeLessThanOrEqual(blocks - 2 * 512);
    expect(statSync(path).size).toBe(BYTES);
    await disk.disk.close();
  });

  it.skipIf(!isRoot)('a block device of the host', async () => {
    const path = image();
    let device: string;
    try {
      device = execFileSync('losetup', ['--find', '--show', path]).toString().trim();
    } catch {
      return;
    }
    try {
      const holder = openSync(device, constants.O_RDONLY | constants.O_EXCL);
      expect(await refusal({ path: device })).toMatch(/EBUSY; the host uses it \(it is mounted/);
      closeSync(holder);
      const disk = await hands({ path: device });
      expect(disk.disk.capacityBytes).toBe(BYTES);
      expect(await disk.write(4096, filled(4096, 0x77))).toBe(0);
      expect(await disk.flush()).toBe(0);
      expect(await disk.writeZeroes(8192, 4096)).toBe(0);
      expectSame(await disk.read(8192, 4096), filled(4096, 0));
      await disk.disk.close();
    } finally {
      execFileSync('losetup', ['--detach', device]);
    }
    expect(new Uint8Array(readFileSync(path).subarray(4096, 8192))).toEqual(filled(4096, 0x77));
  });
});

describe('overlay', () => {
  it('"an overlay leaves its base byte-identical", and has what was written, after any number of opens', async () => {
    const path = image();
    const overlay = `${path}.overlay`;
    const before = digest(path);
    const model = new Uint8Array(readFileSync(path));
    const random = randomOf(3);
    for (let round = 0; round < 4; round++) {
      const disk = await hands({ path, overlay });
      expectSame(await disk.content(), model);
      for (let i = 0; i < 150; i++) {
        const length = 512 * (1 + random(random(3) === 0 ? 128 : 4));
        const at = 512 * random((BYTES - length) / 512 + 1);
        const kind = random(6);
        if (kind === 0) {
          expect(await disk.writeZeroes(at, length)).toBe(0);
          model.fill(0, at, at + length);
        } else if (kind === 1) {
          expect(await disk.flush()).toBe(0);
        } else if (kind === 2) {
          expectSame(await disk.read(at, length), model.slice(at, at + length));
        } else {
          const content = Uint8Array.from({ length }, () => random(256));
          expect(await disk.write(at, content)).toBe(0);
          model.set(content, at);
        }
      }
      expectSame(await disk.content(), model);
      await disk.disk.close();
    }
    expect(digest(path)).toBe(before);
  });

  it('is sparse, and a discard gives space back and reads as zeros', async () => {
    const path = image();
    const overlay = `${path}.overlay`;
    const disk = await hands({ path, overlay });
    expect(await disk.write(0, filled(64 << 10, 1))).toBe(0);
    expect(await disk.flush()).toBe(0);
    const { size, blocks } = statSync(overlay);
    expect(size).toBe(overlayLayout(BYTES).fileBytes);
    expect(blocks * 512).toBeLessThan(128 << 10);
    expect(await disk.discard(0, 64 << 10)).toBe(0);
    expect(await disk.flush()).toBe(0);
    expect(statSync(overlay).blocks * 512).toBeLessThan(blocks * 512 - (48 << 10));
    expectSame(await disk.read(0, 4096), filled(4096, 0));
    await disk.disk.close();
  });

  it('two overlays share a base, which nobody may write meanwhile', async () => {
    const path = image();
    const one = await hands({ path, overlay: `${path}.1` });
    const two = await hands({ path, overlay: `${path}.2` });
    await one.write(0, filled(512, 1));
    await two.write(0, filled(512, 2));
    expectSame(await one.read(0, 512), filled(512, 1));
    expectSame(await two.read(0, 512), filled(512, 2));
    expect(await refusal({ path })).toMatch(/somebody else has it open/);
    expect(await refusal({ path, overlay: `${path}.1` })).toMatch(/cannot use the overlay .*somebody else has it open/);
    await one.disk.close();
    await two.disk.close();
  });

  it('read-only: opens what is there, and creates nothing', async () => {
    const path = image();
    const overlay = `${path}.overlay`;
    expect(await refusal({ path, overlay, readOnly: true })).toMatch(/cannot open the overlay .*ENOENT/);
    expect(existsSync(overlay)).toBe(false);
    const disk = await hands({ path, overlay });
    await disk.write(512, filled(512, 9));
    await disk.disk.close();
    const before = digest(overlay);
    const reader = await hands({ path, overlay, readOnly: true });
    expect(reader.disk.readOnly).toBe(true);
    expectSame(await reader.read(512, 512), filled(512, 9));
    await reader.disk.close();
    expect(digest(overlay)).toBe(before);
  });

  it('an empty file becomes one; so does one whose creation the power cut short', async () => {
    const path = image();
    for (const leftover of [0, 4096]) {
      const overlay = `${path}.${leftover}`;
      writeFileSync(overlay, new Uint8Array(leftover));
      const disk = await hands({ path, overlay });
      await disk.write(0, filled(512, 5));
      await disk.disk.close();
      // Its header alone was durable.
      const again = `${overlay}.again`;
      writeFileSync(again, readFileSync(overlay).subarray(0, 4096));
      const second = await hands({ path, overlay: again });
      expectSame(await second.content(), new Uint8Array(readFileSync(path)));
      await second.disk.close();
    }
  });

  it.each<[string, (bytes: Buffer) => Buffer, RegExp]>([
    [
      'a file of something else',
      () => Buffer.alloc(8192, 'text'),
      /it has no overlay's header; give the path of an overlay/,
    ],
    ['a few bytes', () => Buffer.from('short'), /too short for an overlay's header/],
    ['another magic', (bytes) => set(bytes, 0, 0), /no overlay's header/],
    [
      'a bit of the header turned',
      (bytes) => set(bytes, 20, 1),
      /the checksum of its header is wrong; the file is damaged/,
    ],
    ['one that was cut', (bytes) => bytes.subarray(0, bytes.length - 512), /it was cut, go back to a copy/],
  ])('%s is refused', async (_, change, message) => {
    const path = image();
    const overlay = `${path}.overlay`;
    await (await openDisk({ path, overlay }, memory)).close();
    writeFileSync(overlay, change(readFileSync(overlay)));
    const before = digest(overlay);
    expect(await refusal({ path, overlay })).toMatch(message);
    expect(digest(overlay)).toBe(before);
  });

  it('"a base of another size is refused"', async () => {
    const path = image();
    const overlay = `${path}.overlay`;
    await (await openDisk({ path, overlay }, memory)).close();
    appendFileSync(path, new Uint8Array(512));
    expect(await refusal({ path, overlay })).toMatch(
      new RegExp(`belongs to a base of ${BYTES} bytes, and this one has ${BYTES + 512}`),
    );
    truncateSync(path, BYTES);
    await (await openDisk({ path, overlay }, memory)).close();
  });

  it('after a restart of the host the live map does not count, within one it does', async () => {
    const path = image();
    const overlay = `${path}.overlay`;
    const disk = await hands({ path, overlay });
    await disk.write(0, filled(512, 1));
    await disk.flush();
    await disk.write(512, filled(512, 2));
    // What a killed process leaves: acknowledged, not flushed.
    const killed = readFileSync(overlay);
    await disk.disk.close();
    writeFileSync(`${overlay}.same`, killed);
    const same = await hands({ path, overlay: `${overlay}.same` });
    expectSame(await same.read(0, 1024), Uint8Array.from([...filled(512, 1), ...filled(512, 2)]));
    await same.disk.close();
    // The other boot's id: the file may have lost what no flush covered.
    killed.write('another boot of this or another host', 512, 'latin1');
    writeFileSync(`${overlay}.other`, killed);
    const other = await hands({ path, overlay: `${overlay}.other` });
    expectSame(await other.read(0, 512), filled(512, 1));
    expectSame(await other.read(512, 512), new Uint8Array(readFileSync(path).subarray(512, 1024)));
    await other.disk.close();
  });
});

function set(bytes: Buffer, at: number, value: number): Buffer {
  bytes[at] = value;
  return bytes;
}

describe('28. "backing file truncated, EIO, ENOSPC, file-size limit → IOERR; writes work again when there is space"', () => {
  it('truncated under us', async () => {
    for (const overlay of [undefined, join(folder, 'cut.overlay')]) {
      const path = image();
      const disk = await hands({ path, overlay });
      truncateSync(path, 4096);
      expect(await disk.read(0, 4096)).toBeInstanceOf(Uint8Array);
      expect(await disk.read(8192, 4096)).toBe(errno.EIO);
      truncateSync(path, BYTES);
      expectSame(await disk.read(8192, 4096), filled(4096, 0));
      await disk.disk.close();
    }
  });

  it.skipIf(!isRoot)('a full file system, raw and overlay', async () => {
    const mount = join(folder, 'small');
    mkdirSync(mount);
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=512k', 'tmpfs', mount]);
    try {
      const base = image();
      const raw = join(mount, 'raw');
      for (const options of [{ path: raw }, { path: base, overlay: join(mount, 'overlay') }]) {
        const ballast = join(mount, 'ballast');
        writeFileSync(raw, '');
        truncateSync(raw, BYTES);
        const disk = await hands(options);
        writeFileSync(ballast, filled(128 << 10, 1));
        const results: number[] = [];
        for (let at = 0; at < BYTES; at += 64 << 10) results.push(await disk.write(at, filled(64 << 10, 7)));
        expect(results[0]).toBe(0);
        expect(results.at(-1)).toBe(errno.ENOSPC);
        expectSame(await disk.read(0, 4096), filled(4096, 7));
        // "writes work again when there is space"
        rmSync(ballast);
        const failed = results.indexOf(errno.ENOSPC) * (64 << 10);
        expect(await disk.write(failed, filled(64 << 10, 8))).toBe(0);
        expect(await disk.flush()).toBe(0);
        expectSame(await disk.read(failed, 64 << 10), filled(64 << 10, 8));
        await disk.disk.close();
        rmSync(raw);
      }
    } finally {
      execFileSync('umount', ['--lazy', mount]);
    }
  });

  it('the file-size limit of the process: EFBIG, and no SIGXFSZ ends it', async () => {
    const path = join(folder, 'limited');
    writeFileSync(path, '');
    truncateSync(path, BYTES);
    const disk = await hands({ path });
    const limit = (soft: string): Buffer => execFileSync('prlimit', ['--pid', `${process.pid}`, `--fsize=${soft}:`]);
    limit('524288');
    try {
      expect(await disk.write(0, filled(4096, 1))).toBe(0);
      expect(await disk.write(768 << 10, filled(4096, 1))).toBe(errno.EFBIG);
    } finally {
      limit('unlimited');
    }
    expect(await disk.write(768 << 10, filled(4096, 1))).toBe(0);
    await disk.disk.close();
  });
});
