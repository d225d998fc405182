// The block device with a driver that plays by the rules: every request type, batches, limits of rate, reset in flight.
// VIRTIO 1.2 §5.2.
import { describe, expect, it } from 'vitest';
import { ramDisk } from '../../../../examples/ram-disk.js';
import { TokenBucket } from '../../../../src/devices/backend/rate-limit.js';
import type { BlockTimer } from '../../../../src/devices/virtio/block.js';
import { ANSWER, BLOCK_FEATURE, REQUEST } from '../../../../src/devices/virtio/block-request.js';
import { STATUS } from '../../../../src/devices/virtio/abi.js';
import { BlockRig, MemoryDisk } from '../../../support/block-rig.js';
import { REG } from '../../../support/virtqueue-driver.js';

const BYTES = 1 << 20;

const filled = (length: number, value: number): Uint8Array => new Uint8Array(length).fill(value);

/** One struct virtio_blk_discard_write_zeroes after the other. */
function ranges(...rows: readonly (readonly [sector: number | bigint, count: number, flags?: number])[]): Uint8Array {
  const view = new DataView(new ArrayBuffer(rows.length * 16));
  for (const [i, [sector, count, flags = 0]] of rows.entries()) {
    view.setBigUint64(i * 16, BigInt(sector), true);
    view.setUint32(i * 16 + 8, count, true);
    view.setUint32(i * 16 + 12, flags, true);
  }
  return new Uint8Array(view.buffer);
}

/** A clock that stands still until the test moves it. */
class HandTimer implements BlockTimer {
  time = 0;
  readonly #due: { readonly at: number; readonly callback: () => void }[] = [];

  now(): number {
    return this.time;
  }

  after(milliseconds: number, callback: () => void): () => void {
    const entry = { at: this.time + milliseconds, callback };
    this.#due.push(entry);
    return () => void this.#due.splice(this.#due.indexOf(entry), 1);
  }

  get waiting(): number {
    return this.#due.length;
  }

  advance(milliseconds: number): void {
    this.time += milliseconds;
    for (const entry of this.#due.filter(({ at }) => at <= this.time)) {
      this.#due.splice(this.#due.indexOf(entry), 1);
      entry.callback();
    }
  }
}

describe('what is offered', () => {
  it('capacity, sizes and features, and RO for a disk that is', async () => {
    const rig = await BlockRig.start({ backend: new MemoryDisk(BYTES) });
    const { machine } = rig;
    expect(machine.read(REG.DeviceID)).toBe(2);
    expect(machine.read(REG.Config)).toBe(BYTES / 512);
    expect(machine.read(REG.Config + 12)).toBe(254);
    expect(machine.read(REG.Config + 20)).toBe(512);
    const offered = (bit: number): boolean => (machine.offered() & (1n << BigInt(bit))) !== 0n;
    const names = Object.entries(BLOCK_FEATURE).filter(([, bit]) => offered(bit));
    expect(names.map(([name]) => name)).toEqual([
      'SEG_MAX',
      'BLK_SIZE',
      'FLUSH',
      'TOPOLOGY',
      'DISCARD',
      'WRITE_ZEROES',
    ]);
    await rig.close();

    const readOnly = await BlockRig.start({ backend: new MemoryDisk(BYTES, true) });
    expect(readOnly.machine.offered() & (1n << BigInt(BLOCK_FEATURE.RO))).not.toBe(0n);
    expect(readOnly.machine.offered() & (1n << BigInt(BLOCK_FEATURE.DISCARD))).toBe(0n);
    await readOnly.close();
  });
});

describe('requests', () => {
  it('read and write, and the used length counts what was written', async () => {
    const backend = new MemoryDisk(BYTES);
    const rig = await BlockRig.start({ backend });
    const read = await rig.read(3, 1024);
    expect(read).toEqual({ status: ANSWER.OK, data: backend.bytes.slice(1536, 2560), usedLength: 1025 });
    expect(await rig.write(5, filled(512, 0xaa))).toMatchObject({ status: ANSWER.OK, usedLength: 1 });
    expect(backend.bytes.subarray(5 * 512, 6 * 512).every((byte) => byte === 0xaa)).toBe(true);
    expect(await rig.flush()).toMatchObject({ status: ANSWER.OK, usedLength: 1 });
    expect(backend.flushes).toBe(1);
    expect(rig.device.counters()).toMatchObject({ reads: 1, writes: 1, flushes: 1, bytesRead: 1024, errors: 0 });
    await rig.close();
    expect(backend.closed).toBe(1);
  });

  it('GET_ID: "the device ID string … is a NUL-padded ASCII string up to 20 bytes"', async () => {
    for (const [id, text] of [
      ['short', 'short'],
      ['exactly twenty bytes', 'exactly twenty bytes'],
      ['more than twenty bytes are cut', 'more than twenty byt'],
      // Not in the middle of a character.
      ['1234567890123456789é', '1234567890123456789'],
    ] as const) {
      const rig = await BlockRig.start({ backend: new MemoryDisk(BYTES), id });
      const { status, data, usedLength } = await rig.request({ type: REQUEST.GET_ID, in: 20 });
      expect(status).toBe(ANSWER.OK);
      expect(usedLength).toBe(21);
      expect(Buffer.from(data).toString('latin1')).toBe(text.padEnd(20, '\0'));
      await rig.close();
    }
  });

  it('DISCARD and WRITE_ZEROES, several ranges in one request', async () => {
    const backend = new MemoryDisk(BYTES);
    const rig = await BlockRig.start({ backend });
    const before = backend.bytes.slice();
    const out = ranges([8, 8], [100, 1], [2040, 8]);
    for (const type of [REQUEST.DISCARD, REQUEST.WRITE_ZEROES]) {
      backend.bytes.set(before);
      expect(await rig.request({ type, out })).toMatchObject({ status: ANSWER.OK, usedLength: 1 });
      const wanted = before.slice();
      for (const [sector, count] of [
        [8, 8],
        [100, 1],
        [2040, 8],
      ] as const)
        wanted.fill(0, sector * 512, (sector + count) * 512);
      expect(Buffer.compare(backend.bytes, wanted)).toBe(0);
    }
    expect(await rig.request({ type: REQUEST.WRITE_ZEROES, out: ranges([0, 1, 1]) })).toMatchObject({ status: 0 });
    await rig.close();
  });

  it('"the device MUST NOT make assumptions about the particular arrangement of descriptors"', async () => {
    const backend = new MemoryDisk(BYTES);
    const rig = await BlockRig.start({ backend });
    const { memory } = rig.machine;
    const header = rig.header({ type: REQUEST.IN, sector: 9 });
    const data = rig.room(513);
    // The header in three pieces, the data in three, the status behind the last byte of the data.
    await rig.send([
      { gpa: header, length: 1 },
      { gpa: header + 1, length: 7 },
      { gpa: header + 8, length: 8 },
      { gpa: data, length: 100, writable: true },
      { gpa: data + 100, length: 0, writable: true },
      { gpa: data + 100, length: 411, writable: true },
      { gpa: data + 511, length: 2, writable: true },
    ]);
    expect(memory.read(data, 512)).toEqual(backend.bytes.slice(9 * 512, 10 * 512));
    expect(memory.readU8(data + 512)).toBe(ANSWER.OK);
    // Header and data of a write in one piece.
    const write = rig.header({ type: REQUEST.OUT, sector: 1 });
    const joined = rig.room(528);
    memory.write(joined, memory.read(write, 16));
    memory.fill(joined + 16, 512, 0x3c);
    const status = rig.room(1);
    await rig.send([
      { gpa: joined, length: 528 },
      { gpa: status, length: 1, writable: true },
    ]);
    expect(memory.readU8(status)).toBe(ANSWER.OK);
    expect(backend.bytes.subarray(512, 1024).every((byte) => byte === 0x3c)).toBe(true);
    await rig.close();
  });

  it('many in flight, answered in another order than they came; one interrupt for what is done together', async () => {
    const backend = new MemoryDisk(BYTES);
    const rig = await BlockRig.start({ backend });
    backend.isHeld = true;
    const requests = Array.from({ length: 64 }, (_, i) => rig.read(i, 512));
    await rig.machine.settle();
    expect(backend.held).toHaveLength(64);
    backend.held.reverse();
    const before = rig.machine.interrupts;
    backend.release();
    for (const [i, { status, data }] of (await Promise.all(requests)).entries()) {
      expect(status).toBe(ANSWER.OK);
      expect(data).toEqual(backend.bytes.slice(i * 512, i * 512 + 512));
    }
    expect(rig.machine.interrupts - before).toBe(1);
    await rig.close();
  });

  it('what the driver publishes together reaches the backend as one batch', async () => {
    const backend = new MemoryDisk(BYTES);
    const rig = await BlockRig.start({ backend });
    const before = backend.batches;
    const requests = Array.from({ length: 32 }, (_, i) => rig.read(i, 512));
    await Promise.all(requests);
    expect(backend.batches - before).toBe(1);
    await rig.close();
  });
});

describe('a disk of one’s own', () => {
  it('the example: what was written is read back, what was zeroed is zeros', async () => {
    const rig = await BlockRig.start({ backend: ramDisk(1) });
    expect(rig.machine.read(REG.Config)).toBe(2048);
    expect((await rig.write(2000, filled(1024, 0x42))).status).toBe(ANSWER.OK);
    expect((await rig.flush()).status).toBe(ANSWER.OK);
    expect((await rig.request({ type: REQUEST.WRITE_ZEROES, out: ranges([2001, 1]) })).status).toBe(ANSWER.OK);
    const { data } = await rig.read(2000, 1024);
    expect([data[0], data[511], data[512], data[1023]]).toEqual([0x42, 0x42, 0, 0]);
    await rig.close();
  });
});

describe('durability', () => {
  it('21. "FLUSH returns before fdatasync did → a failure of ours (count the calls)"', async () => {
    const backend = new MemoryDisk(BYTES);
    const rig = await BlockRig.start({ backend });
    backend.isHeld = true;
    const flush = rig.flush();
    await rig.machine.settle(20);
    expect(backend.flushes).toBe(1);
    expect(rig.waiting).toBe(1);
    backend.release();
    expect((await flush).status).toBe(ANSWER.OK);
    await rig.close();
  });

  it('without FLUSH negotiated every write is durable when it is answered', async () => {
    const backend = new MemoryDisk(BYTES);
    const rig = await BlockRig.start({ backend }, { without: [BLOCK_FEATURE.FLUSH] });
    expect((await rig.write(0, filled(512, 1))).status).toBe(ANSWER.OK);
    expect(backend.flushes).toBe(1);
    expect((await rig.request({ type: REQUEST.WRITE_ZEROES, out: ranges([0, 1], [2, 1]) })).status).toBe(ANSWER.OK);
    expect(backend.flushes).toBe(2);
    backend.isHeld = true;
    const write = rig.write(0, filled(512, 2));
    await rig.machine.settle();
    backend.release();
    await rig.machine.settle();
    expect(rig.waiting).toBe(1);
    backend.release();
    await write;
    await rig.close();
  });
});

describe('a host that fails', () => {
  it('IOERR for each kind of request, a warning, and it works again afterwards', async () => {
    const backend = new MemoryDisk(BYTES);
    const rig = await BlockRig.start({ backend });
    backend.errno = 5;
    expect((await rig.read(0, 512)).status).toBe(ANSWER.IOERR);
    expect((await rig.write(0, filled(512, 1))).status).toBe(ANSWER.IOERR);
    expect((await rig.flush()).status).toBe(ANSWER.IOERR);
    expect((await rig.request({ type: REQUEST.DISCARD, out: ranges([0, 1], [4, 1]) })).status).toBe(ANSWER.IOERR);
    expect(rig.machine.warnings[0]).toBe('disk0: a read of 512 bytes at 0 failed: EIO (i/o error)');
    backend.errno = 0;
    expect((await rig.read(0, 512)).status).toBe(ANSWER.OK);
    expect(rig.device.counters()['errors']).toBe(4);
    await rig.close();
  });
});

describe('rate limits', () => {
  it('operations: a burst of one second, then the rate', async () => {
    const timer = new HandTimer();
    const backend = new MemoryDisk(BYTES);
    const rig = await BlockRig.start({ backend, timer, limits: { operationsPerSecond: 10 } });
    const answers: number[] = [];
    for (let i = 0; i < 40; i++) void rig.read(i, 512).then(({ status }) => answers.push(status));
    await rig.machine.settle();
    expect(answers).toHaveLength(10);
    for (let second = 1; second <= 3; second++) {
      for (let tenth = 0; tenth < 10; tenth++) {
        timer.advance(100);
        await rig.machine.settle();
      }
      expect(Math.abs(answers.length - 10 * (second + 1))).toBeLessThanOrEqual(1);
    }
    timer.advance(1000);
    await rig.machine.settle();
    expect(answers).toHaveLength(40);
    await rig.close();
  });

  it('bytes: a request larger than the bucket goes through, and is paid for', async () => {
    const timer = new HandTimer();
    const rig = await BlockRig.start({ backend: new MemoryDisk(BYTES), timer, limits: { bytesPerSecond: 4096 } });
    await rig.read(0, 16384);
    let isDone = false;
    void rig.read(0, 512).then(() => (isDone = true));
    timer.advance(2999);
    await rig.machine.settle();
    expect(isDone).toBe(false);
    timer.advance(2);
    await rig.machine.settle();
    expect(isDone).toBe(true);
    await rig.close();
  });

  it('a reset, and the end, call off what waits', async () => {
    const timer = new HandTimer();
    const rig = await BlockRig.start({ backend: new MemoryDisk(BYTES), timer, limits: { operationsPerSecond: 1 } });
    void rig.read(0, 512);
    void rig.read(1, 512);
    await rig.machine.settle();
    expect(timer.waiting).toBe(1);
    rig.machine.write(REG.Status, 0);
    await rig.machine.settle();
    expect(timer.waiting).toBe(0);
    expect(rig.machine.status).toBe(0);
    await rig.close();
  });

  it('a bucket fills no further than its size', () => {
    let now = 0;
    const bucket = new TokenBucket(100, () => now);
    now = 3_600_000;
    expect(bucket.wait()).toBe(0);
    bucket.take(150);
    expect(bucket.wait()).toBeGreaterThan(499);
    now += 501;
    expect(bucket.wait()).toBe(0);
  });
});

describe('16. "reset with I/O in flight → once the reset returned, nothing of any kind is written into guest RAM"', () => {
  it('waits for the backend, and the disk works after it', async () => {
    const backend = new MemoryDisk(BYTES);
    const rig = await BlockRig.start({ backend });
    const { machine } = rig;
    backend.isHeld = true;
    for (let i = 0; i < 8; i++) void rig.read(i, 512);
    await machine.settle();
    expect(backend.held).toHaveLength(8);
    machine.write(REG.Status, 0);
    await machine.settle();
    // The mock driver's thread cannot wait: on a vCPU thread Status := 0 has not returned yet.
    const usedIndex = rig.queue.usedIndex;
    backend.release();
    await machine.settle();
    expect(machine.status).toBe(0);
    expect(rig.queue.usedIndex).toBe(usedIndex);
    const before = machine.memory.read(0, machine.memory.size);
    await machine.settle(20);
    expect(Buffer.compare(before, machine.memory.read(0, machine.memory.size))).toBe(0);
    backend.isHeld = false;
    const again = await BlockRig.start({ backend: new MemoryDisk(BYTES) });
    expect((await again.read(1, 512)).status).toBe(ANSWER.OK);
    await again.close();
    await rig.close();
  });
});

describe('30. "a disk that takes 5 s, with 64 requests in flight → other disks … and the API answer"', () => {
  it('a disk that does not answer at all leaves the other one alone', async () => {
    const slow = new MemoryDisk(BYTES);
    const slowRig = await BlockRig.start({ backend: slow });
    const rig = await BlockRig.start({ backend: new MemoryDisk(BYTES) });
    slow.isHeld = true;
    const waiting = Array.from({ length: 64 }, (_, i) => slowRig.read(i, 512));
    await slowRig.machine.settle();
    for (let i = 0; i < 100; i++) expect((await rig.read(i, 512)).status).toBe(ANSWER.OK);
    expect(slow.held).toHaveLength(64);
    slow.release();
    await Promise.all(waiting);
    await slowRig.close();
    await rig.close();
    expect(slowRig.machine.status & STATUS.DEVICE_NEEDS_RESET).toBe(0);
  });
});
