// A file on a file system of the test's own, served by a child process: as slow and as broken as the test says.
// FUSE protocol 7.31 (linux/fuse.h), mount(8). Needs root.
import { execFileSync, fork, type ChildProcess } from 'node:child_process';
import { mkdtempSync, openSync, read, rmSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** What the server does from now on. */
export interface FuseBehaviour {
  /** Before every answer to a read, write or fsync. */
  readonly delayMs?: number;
  /** What these answer; 0 is success. */
  readonly errno?: number;
}

/** How often the server was asked. */
export interface FuseCounts {
  readonly reads: number;
  readonly writes: number;
  readonly syncs: number;
}

export class FuseDisk {
  readonly path: string;
  readonly #folder: string;
  readonly #server: ChildProcess;

  private constructor(folder: string, server: ChildProcess) {
    this.#folder = folder;
    this.path = join(folder, 'disk');
    this.#server = server;
  }

  static async mount(bytes: number): Promise<FuseDisk> {
    const folder = mkdtempSync(join(tmpdir(), 'microvisor-fuse-'));
    const server = fork(fileURLToPath(import.meta.url), [folder, `${bytes}`], { stdio: 'inherit' });
    const disk = new FuseDisk(folder, server);
    await disk.#answer();
    return disk;
  }

  /** @returns how often the server was asked since it was mounted */
  behave(behaviour: FuseBehaviour): Promise<FuseCounts> {
    this.#server.send(behaviour);
    return this.#answer();
  }

  async unmount(): Promise<void> {
    const ended = new Promise((resolve) => this.#server.once('exit', resolve));
    execFileSync('umount', ['--lazy', this.#folder]);
    this.#server.kill('SIGKILL');
    await ended;
    rmSync(this.#folder, { recursive: true });
  }

  #answer(): Promise<FuseCounts> {
    return new Promise((resolve, reject) => {
      const onExit = (): void => reject(new Error('the FUSE server ended'));
      this.#server.once('exit', onExit);
      this.#server.once('message', (counts) => {
        this.#server.off('exit', onExit);
        resolve(counts as FuseCounts);
      });
    });
  }
}

const OP = {
  LOOKUP: 1,
  FORGET: 2,
  GETATTR: 3,
  OPEN: 14,
  READ: 15,
  WRITE: 16,
  RELEASE: 18,
  FSYNC: 20,
  FLUSH: 25,
  INIT: 26,
};
const NO_ANSWER = [OP.FORGET, 36, 42];
const IN_HEADER = 40;
const OUT_HEADER = 16;
const ROOT = 1n;
const FILE = 2n;
const ENOENT = 2;
const ENOSYS = 38;
const FOPEN_DIRECT_IO = 1;
const MAX_WRITE = 128 << 10;

function serve(folder: string, bytes: number): void {
  const content = Buffer.alloc(bytes);
  const fd = openSync('/dev/fuse', 'r+');
  const options = `fd=3,rootmode=40000,user_id=0,group_id=0`;
  execFileSync('mount', ['-i', '-t', 'fuse', '-o', options, 'microvisor-test', folder], {
    stdio: ['ignore', 'inherit', 'inherit', fd],
  });
  const counts = { reads: 0, writes: 0, syncs: 0 };
  let behaviour: FuseBehaviour = {};
  process.on('message', (message: FuseBehaviour) => {
    behaviour = message;
    process.send?.(counts);
  });

  const attributes = (node: bigint): Buffer => {
    const out = Buffer.alloc(88);
    out.writeBigUInt64LE(node, 0);
    out.writeBigUInt64LE(node === FILE ? BigInt(bytes) : 0n, 8);
    out.writeUInt32LE(node === FILE ? 0o100644 : 0o40755, 60);
    out.writeUInt32LE(1, 64);
    out.writeUInt32LE(4096, 80);
    return out;
  };
  const answer = (unique: bigint, error: number, body: Uint8Array = new Uint8Array()): void => {
    const out = Buffer.alloc(OUT_HEADER);
    out.writeUInt32LE(OUT_HEADER + body.length, 0);
    out.writeInt32LE(-error, 4);
    out.writeBigUInt64LE(unique, 8);
    writeSync(fd, Buffer.concat([out, body]));
  };
  /** Read, write and fsync: what the test is about. */
  const transfer = (unique: bigint, work: () => Buffer): void => {
    const { delayMs = 0, errno = 0 } = behaviour;
    setTimeout(() => (errno === 0 ? answer(unique, 0, work()) : answer(unique, errno)), delayMs);
  };
  const handle = (request: Buffer): void => {
    const op = request.readUInt32LE(4);
    const unique = request.readBigUInt64LE(8);
    const node = request.readBigUInt64LE(16);
    const body = request.subarray(IN_HEADER);
    if (op === OP.INIT) {
      const out = Buffer.alloc(64);
      out.writeUInt32LE(7, 0);
      out.writeUInt32LE(31, 4);
      out.writeUInt32LE(MAX_WRITE, 8);
      // FUSE_ASYNC_READ, FUSE_BIG_WRITES
      out.writeUInt32LE(1 | (1 << 5), 12);
      out.writeUInt16LE(64, 16);
      out.writeUInt16LE(48, 18);
      out.writeUInt32LE(MAX_WRITE, 20);
      out.writeUInt32LE(1, 24);
      answer(unique, 0, out);
      process.send?.(counts);
    } else if (op === OP.LOOKUP) {
      if (node !== ROOT || body.toString('latin1', 0, 5) !== 'disk\0') answer(unique, ENOENT);
      else {
        const out = Buffer.alloc(40);
        out.writeBigUInt64LE(FILE, 0);
        answer(unique, 0, Buffer.concat([out, attributes(FILE)]));
      }
    } else if (op === OP.GETATTR) answer(unique, 0, Buffer.concat([Buffer.alloc(16), attributes(node)]));
    else if (op === OP.OPEN) {
      const out = Buffer.alloc(16);
      out.writeUInt32LE(FOPEN_DIRECT_IO, 8);
      answer(unique, 0, out);
    } else if (op === OP.READ) {
      counts.reads++;
      const at = Number(body.readBigUInt64LE(8));
      const length = body.readUInt32LE(16);
      transfer(unique, () => Buffer.from(content.subarray(at, at + length)));
    } else if (op === OP.WRITE) {
      counts.writes++;
      const at = Number(body.readBigUInt64LE(8));
      const data = Buffer.from(body.subarray(40, 40 + body.readUInt32LE(16)));
      transfer(unique, () => {
        data.copy(content, at);
        const out = Buffer.alloc(8);
        out.writeUInt32LE(data.length, 0);
        return out;
      });
    } else if (op === OP.FSYNC) {
      transfer(unique, () => {
        counts.syncs++;
        return Buffer.alloc(0);
      });
    } else if (op === OP.RELEASE || op === OP.FLUSH) answer(unique, 0);
    else if (!NO_ANSWER.includes(op)) answer(unique, ENOSYS);
  };
  const buffer = Buffer.alloc(MAX_WRITE + 8192);
  const next = (): void =>
    read(fd, buffer, 0, buffer.length, null, (error, length) => {
      // ENODEV: unmounted.
      if (error !== null) process.exit(0);
      handle(buffer.subarray(0, length));
      next();
    });
  next();
}

const [, program, folder, bytes] = process.argv;
if (program === fileURLToPath(import.meta.url) && folder !== undefined) serve(folder, Number(bytes));
