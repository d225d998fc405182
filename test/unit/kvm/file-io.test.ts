// Transfers of the addon's I/O engine on real files: with io_uring, and as where it is forbidden.
// preadv2(2), pwritev(2), fallocate(2), fcntl(2) F_OFD_SETLK.
import { execFileSync } from 'node:child_process';
import {
  closeSync,
  ftruncateSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { open } from 'node:fs/promises';
import { constants, tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { FileIo, IO_DEPTH, lockFile, type Segments } from '../../../src/kvm/file-io.js';
import { loadNative } from '../../../src/kvm/native.js';

const { errno } = constants;
const BYTES = 1 << 20;

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'microvisor-io-'));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

type Piece = readonly [offset: number, length: number];

interface Rig {
  readonly io: FileIo;
  readonly path: string;
  readonly memory: Uint8Array;
  /** These resolve with the errno. */
  readonly read: (position: number, ...pieces: readonly Piece[]) => Promise<number>;
  readonly write: (position: number, ...pieces: readonly Piece[]) => Promise<number>;
  readonly sync: () => Promise<number>;
  readonly punch: (position: number, length: number) => Promise<number>;
}

function segmentsOf(pieces: readonly Piece[]): Segments {
  return {
    count: pieces.length,
    regions: pieces.map(() => 0),
    offsets: pieces.map(([offset]) => offset),
    lengths: pieces.map(([, length]) => length),
  };
}

let files = 0;
function rig(uring: boolean, flags = 'r+'): Rig {
  const path = join(folder, `file${files++}`);
  writeFileSync(
    path,
    Uint8Array.from({ length: BYTES }, (_, i) => i * 31 + (i >> 8)),
  );
  const fd = openSync(path, flags);
  const memory = new Uint8Array(new SharedArrayBuffer(BYTES));
  const io = new FileIo(fd, [memory], path, uring);
  closeSync(fd);
  const promised = (start: (done: (errno: number) => void) => void): Promise<number> =>
    new Promise((resolve) => {
      start(resolve);
      io.submit();
    });
  return {
    io,
    path,
    memory,
    read: (position, ...pieces) => promised((done) => io.read(position, segmentsOf(pieces), done)),
    write: (position, ...pieces) => promised((done) => io.write(position, segmentsOf(pieces), done)),
    sync: () => promised((done) => io.sync(done)),
    punch: (position, length) => promised((done) => io.punch(position, length, done)),
  };
}

describe.each([
  ['with io_uring where the host has it', true],
  ['without io_uring', false],
])('%s', (_, uring) => {
  it('reads and writes pieces in order, at their place', async () => {
    const { io, path, memory, read, write, sync } = rig(uring);
    const content = readFileSync(path);
    expect(await read(4096, [512, 1000], [0, 24])).toBe(0);
    expect(Buffer.compare(memory.subarray(512, 1512), new Uint8Array(content.subarray(4096, 5096)))).toBe(0);
    expect(Buffer.compare(memory.subarray(0, 24), new Uint8Array(content.subarray(5096, 5120)))).toBe(0);
    memory.fill(0xa5, 8192, 8200);
    expect(await write(100, [8192, 8], [0, 2])).toBe(0);
    expect(await sync()).toBe(0);
    content.fill(0xa5, 100, 108);
    content.set(memory.subarray(0, 2), 108);
    expect(readFileSync(path).equals(content)).toBe(true);
    await io.close();
  });

  it('a batch of all the requests that may be in flight: each is answered once; one more throws', async () => {
    const { io, path, memory } = rig(uring);
    const content = readFileSync(path);
    const answers = new Map<number, number>();
    for (let i = 0; i < IO_DEPTH; i++)
      io.read(i * 64, segmentsOf([[i * 64, 64]]), (error) => {
        expect(error).toBe(0);
        answers.set(i, (answers.get(i) ?? 0) + 1);
      });
    expect(() => io.sync(() => undefined)).toThrow(/512 requests are in flight/);
    io.submit();
    await io.close();
    expect([...answers.values()]).toEqual(Array.from({ length: IO_DEPTH }, () => 1));
    expect(Buffer.compare(memory.subarray(0, IO_DEPTH * 64), new Uint8Array(content.subarray(0, IO_DEPTH * 64)))).toBe(
      0,
    );
  });

  it('close waits for what is in flight', async () => {
    const { io, path, memory } = rig(uring);
    memory.fill(0x5a);
    let answered = 0;
    for (let i = 0; i < 16; i++) io.write(i * 65536, segmentsOf([[i * 65536, 65536]]), () => answered++);
    io.sync(() => answered++);
    await io.close();
    expect(answered).toBe(17);
    expect(readFileSync(path).every((byte) => byte === 0x5a)).toBe(true);
    expect(() => io.sync(() => undefined)).toThrow(/closed/);
  });

  it('one who is answered may ask again, within the answer', async () => {
    const { io, memory } = rig(uring);
    const order: string[] = [];
    await new Promise<void>((resolve) => {
      io.write(0, segmentsOf([[0, 512]]), () => {
        order.push('written');
        io.sync(() => {
          order.push('synced');
          io.read(0, segmentsOf([[512, 512]]), () => {
            order.push('read');
            resolve();
          });
        });
      });
      memory.fill(7, 0, 512);
      io.submit();
    });
    expect(order).toEqual(['written', 'synced', 'read']);
    expect(memory[600]).toBe(7);
    await io.close();
  });

  it('an answer that throws takes no other answer with it', async () => {
    const { io } = rig(uring);
    const answers: number[] = [];
    io.read(0, segmentsOf([[0, 512]]), () => {
      throw new Error('a bug of the caller');
    });
    for (let i = 0; i < 3; i++) io.read(0, segmentsOf([[0, 512]]), () => answers.push(i));
    expect(() => io.submit()).toThrow('a bug of the caller');
    await io.close();
    expect(answers.toSorted((a, b) => a - b)).toEqual([0, 1, 2]);
  });

  it('holes: the bytes are zeros, the length stays, the space is given back', async () => {
    const { io, path, read, memory, punch } = rig(uring);
    const blocks = statSync(path).blocks;
    memory.fill(0xff);
    expect(await punch(4096, BYTES - 8192)).toBe(0);
    expect(await read(4096, [0, 4096])).toBe(0);
    expect(memory.subarray(0, 4096).every((byte) => byte === 0)).toBe(true);
    expect(statSync(path).size).toBe(BYTES);
    expect(statSync(path).blocks).toBeLessThan(blocks);
    await io.close();
  });

  it('a file that was cut: EIO for what is gone, and all is well when it is long again', async () => {
    const { io, path, read } = rig(uring);
    const fd = openSync(path, 'r+');
    ftruncateSync(fd, 6144);
    expect(await read(0, [0, 4096])).toBe(0);
    expect(await read(4096, [0, 4096])).toBe(errno.EIO);
    expect(await read(8192, [0, 4096])).toBe(errno.EIO);
    ftruncateSync(fd, BYTES);
    expect(await read(8192, [0, 4096])).toBe(0);
    closeSync(fd);
    await io.close();
  });

  it('a piece outside its region is refused, and nothing is read or written', async () => {
    const { io, path, read, write, memory } = rig(uring);
    const content = readFileSync(path);
    expect(await read(0, [0, 512], [BYTES - 4, 8])).toBe(errno.EFAULT);
    expect(await write(0, [0, 512], [BYTES + 1, 1])).toBe(errno.EFAULT);
    expect(memory.every((byte) => byte === 0)).toBe(true);
    expect(readFileSync(path).equals(content)).toBe(true);
    await io.close();
  });

  it('a file opened for reading cannot be written: EBADF', async () => {
    const { io, write } = rig(uring, 'r');
    expect(await write(0, [0, 512])).toBe(errno.EBADF);
    await io.close();
  });

  it('many pieces, more than one call of the kernel takes', async () => {
    const { io, path, memory } = rig(uring);
    const pieces = Array.from({ length: 2000 }, (_, i) => [i * 512, 100] as const);
    const error = await new Promise<number>((resolve) => {
      io.read(0, segmentsOf(pieces), resolve);
      io.submit();
    });
    expect(error).toBe(0);
    const content = readFileSync(path);
    for (const [i, [at]] of pieces.entries())
      expect(Buffer.compare(memory.subarray(at, at + 100), content.subarray(i * 100, i * 100 + 100))).toBe(0);
    await io.close();
  });

  it('no transfer occupies Node’s thread pool: it answers while its own four threads are all busy', async () => {
    // Opening a FIFO for reading waits for a writer: four of them are all that the pool has.
    const fifos = Array.from({ length: 4 }, (_, i) => join(folder, `pool-${i}-${String(uring)}`));
    execFileSync('mkfifo', fifos);
    let opened = 0;
    const busy = fifos.map(async (fifo) => {
      const handle = await open(fifo, 'r');
      opened++;
      await handle.close();
    });
    const { io, write, sync } = rig(uring);
    expect(await write(0, [0, 4096])).toBe(0);
    expect(await sync()).toBe(0);
    expect(opened).toBe(0);
    for (const fifo of fifos) closeSync(openSync(fifo, 'w'));
    await Promise.all(busy);
    await io.close();
  });
});

describe('locks', () => {
  it('of two opens exclude each other in one process; a closed one is gone', () => {
    const path = join(folder, 'locked');
    writeFileSync(path, '');
    const [a, b, c] = [openSync(path, 'r+'), openSync(path, 'r+'), openSync(path, 'r')] as const;
    expect(lockFile(a, true, path)).toBe(true);
    expect(lockFile(b, true, path)).toBe(false);
    expect(lockFile(c, false, path)).toBe(false);
    closeSync(a);
    expect(lockFile(c, false, path)).toBe(true);
    expect(lockFile(b, true, path)).toBe(false);
    expect(lockFile(b, false, path)).toBe(true);
    closeSync(b);
    closeSync(c);
  });
});

describe('wrong use of the addon', () => {
  it.each<[string, () => unknown, RegExp]>([
    ['private memory', () => new FileIo(0, [new Uint8Array(16)], 'x'), /shared memory/],
    ['no descriptor', () => new FileIo(-1, [], 'x'), /file descriptor/],
    ['a closed descriptor', () => new FileIo(999_999, [], 'x'), /EBADF/],
    ['no handle', () => loadNative().ioClose({} as never), /a handle of the I\/O engine/],
  ])('%s', (_, call, message) => {
    expect(call).toThrow(message);
  });

  it('words that make no request are refused', () => {
    const fd = openSync('/dev/null', 'r');
    const words = new Int32Array(new SharedArrayBuffer(8192));
    const native = loadNative();
    const created = native.ioCreate(fd, fd, [], new Uint8Array(words.buffer), false);
    if (typeof created === 'number') throw new Error(`errno ${-created}`);
    const at = 16 + 2 * IO_DEPTH;
    for (const [op, tag, segments, used] of [
      [9, 0, 0, 8],
      [0, IO_DEPTH, 0, 8],
      [0, 0, 1, 8],
      [0, 0, 0xffff_ffff, 8],
      [0, 0, 0, 4],
      [0, 0, 0, 0xffff_ffff],
    ] as const) {
      words.set([op, tag, 0, 0, 0, 0, segments | 0, 0], at);
      expect(created.submit(used)).toBe(-errno.EINVAL);
    }
    native.ioClose(created.handle);
    native.ioClose(created.handle);
    expect(() => created.submit(0)).toThrow(/closed/);
    closeSync(fd);
  });
});
