// The block device with a driver that breaks every rule: an answer or nothing, and no byte elsewhere changes.
// Shared list of hostile cases, group Block; VIRTIO 1.2 §5.2.6.
import { createHash } from 'node:crypto';
import * as fc from 'fast-check';
import { afterEach, describe, expect, it } from 'vitest';
import { ANSWER, REQUEST } from '../../../../src/devices/virtio/block-request.js';
import { BlockRig, MemoryDisk, type RequestParts } from '../../../support/block-rig.js';
import type { MockBuffer } from '../../../support/virtqueue-driver.js';

const SECTORS = 256;
const BYTES = SECTORS * 512;

const open: BlockRig[] = [];
afterEach(async () => {
  for (const rig of open.splice(0)) await rig.close();
});

async function start(readOnly = false): Promise<{ rig: BlockRig; backend: MemoryDisk }> {
  const backend = new MemoryDisk(BYTES, readOnly);
  const rig = await BlockRig.start({ backend });
  open.push(rig);
  return { rig, backend };
}

const digest = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

/** Of guest RAM without the rings, and without one byte: the status. */
function ramDigest(rig: BlockRig, status: number): string {
  const from = 0x20_0000;
  const bytes = rig.machine.memory.read(from, rig.machine.memory.size - from);
  bytes[status - from] = 0;
  return digest(bytes);
}

function range(sector: bigint, count: number, flags = 0): Uint8Array {
  const view = new DataView(new ArrayBuffer(16));
  view.setBigUint64(0, sector, true);
  view.setUint32(8, count, true);
  view.setUint32(12, flags, true);
  return new Uint8Array(view.buffer);
}

const repeated = (row: Uint8Array, times: number): Uint8Array =>
  Uint8Array.from({ length: row.length * times }, (_, i) => row[i % row.length] ?? 0);

const zeros = (length: number): Uint8Array => new Uint8Array(length);

describe('18., 19. "→ IOERR or UNSUPP; bytes outside the request unchanged (hash)"', () => {
  it.each<[string, RequestParts, number]>([
    ['a read that ends beyond the capacity', { type: REQUEST.IN, sector: SECTORS - 1, in: 1024 }, ANSWER.IOERR],
    ['a read at the capacity', { type: REQUEST.IN, sector: SECTORS, in: 512 }, ANSWER.IOERR],
    ['a write that ends beyond it', { type: REQUEST.OUT, sector: SECTORS - 1, out: zeros(1024) }, ANSWER.IOERR],
    ['sector 2^63', { type: REQUEST.IN, sector: 2n ** 63n, in: 512 }, ANSWER.IOERR],
    [
      'sector 2^64 - 1, which wraps with its length',
      { type: REQUEST.OUT, sector: 2n ** 64n - 1n, out: zeros(512) },
      ANSWER.IOERR,
    ],
    [
      'sector 2^55, whose bytes are beyond 2^64',
      { type: REQUEST.OUT, sector: 2n ** 55n, out: zeros(512) },
      ANSWER.IOERR,
    ],
    ['sector 2^53 + 1, which no number holds', { type: REQUEST.IN, sector: 2n ** 53n + 1n, in: 512 }, ANSWER.IOERR],
    ['a read of 511 bytes', { type: REQUEST.IN, in: 511 }, ANSWER.IOERR],
    ['a write of 513 bytes', { type: REQUEST.OUT, out: zeros(513) }, ANSWER.IOERR],
    ['a read of nothing', { type: REQUEST.IN, in: 0 }, ANSWER.IOERR],
    ['a write of nothing', { type: REQUEST.OUT, out: zeros(0) }, ANSWER.IOERR],
    ['a write that gives only room to write', { type: REQUEST.OUT, in: 512 }, ANSWER.IOERR],
    ['an unknown type', { type: 2, in: 512 }, ANSWER.UNSUPP],
    ['type 2^32 - 1', { type: 0xffff_ffff, out: zeros(512) }, ANSWER.UNSUPP],
    ['SECURE_ERASE, which is not offered', { type: 14, out: range(0n, 1) }, ANSWER.UNSUPP],
    ['GET_ID into 19 bytes', { type: REQUEST.GET_ID, in: 19 }, ANSWER.IOERR],
    ['GET_ID into nothing', { type: REQUEST.GET_ID, in: 0 }, ANSWER.IOERR],
    ['GET_ID into a megabyte', { type: REQUEST.GET_ID, in: 1 << 20 }, ANSWER.IOERR],
    ['DISCARD beyond the capacity', { type: REQUEST.DISCARD, out: range(BigInt(SECTORS) - 1n, 2) }, ANSWER.IOERR],
    ['DISCARD that wraps', { type: REQUEST.DISCARD, out: range(2n ** 64n - 1n, 2) }, ANSWER.IOERR],
    ['DISCARD with too many sectors', { type: REQUEST.DISCARD, out: range(0n, 0xffff_ffff) }, ANSWER.IOERR],
    ['DISCARD of no sectors', { type: REQUEST.DISCARD, out: range(0n, 0) }, ANSWER.IOERR],
    ['DISCARD without a range', { type: REQUEST.DISCARD, out: zeros(0) }, ANSWER.IOERR],
    ['DISCARD with half a range', { type: REQUEST.DISCARD, out: zeros(24) }, ANSWER.IOERR],
    ['DISCARD with too many ranges', { type: REQUEST.DISCARD, out: repeated(range(0n, 1), 17) }, ANSWER.IOERR],
    ['DISCARD with a 4 MiB list', { type: REQUEST.DISCARD, out: zeros(4 << 20) }, ANSWER.IOERR],
    ['DISCARD with the unmap flag', { type: REQUEST.DISCARD, out: range(0n, 1, 1) }, ANSWER.UNSUPP],
    ['WRITE_ZEROES with an unknown flag', { type: REQUEST.WRITE_ZEROES, out: range(0n, 1, 2) }, ANSWER.UNSUPP],
    ['WRITE_ZEROES beyond the capacity', { type: REQUEST.WRITE_ZEROES, out: range(2n ** 63n, 1) }, ANSWER.IOERR],
    [
      'WRITE_ZEROES whose last range is bad: none of it is done',
      { type: REQUEST.WRITE_ZEROES, out: Uint8Array.from([...range(0n, 8), ...range(BigInt(SECTORS), 1)]) },
      ANSWER.IOERR,
    ],
  ])('%s', async (_, parts, answer) => {
    const { rig, backend } = await start();
    const disk = digest(backend.bytes);
    // The request lies in RAM before the hash is taken; only its status may change.
    const { memory } = rig.machine;
    const header = rig.header(parts);
    const out = parts.out ?? zeros(0);
    const outAt = rig.room(out.length);
    memory.write(outAt, out);
    const inAt = rig.room(parts.in ?? 0);
    memory.fill(inAt, parts.in ?? 0, 0xcc);
    const status = rig.room(1);
    const buffers: MockBuffer[] = [{ gpa: header, length: 16 }];
    if (out.length > 0) buffers.push({ gpa: outAt, length: out.length });
    if ((parts.in ?? 0) > 0) buffers.push({ gpa: inAt, length: parts.in ?? 0, writable: true });
    buffers.push({ gpa: status, length: 1, writable: true });
    const before = ramDigest(rig, status);
    await rig.send(buffers);
    expect(memory.readU8(status)).toBe(answer);
    expect(ramDigest(rig, status)).toBe(before);
    expect(digest(backend.bytes)).toBe(disk);
    // And it goes on.
    expect((await rig.read(0, 512)).status).toBe(ANSWER.OK);
  });

  it('"write to a read-only disk", and every other change of it', async () => {
    const { rig, backend } = await start(true);
    const disk = digest(backend.bytes);
    expect((await rig.write(0, zeros(512))).status).toBe(ANSWER.IOERR);
    expect((await rig.request({ type: REQUEST.DISCARD, out: range(0n, 1) })).status).toBe(ANSWER.UNSUPP);
    expect((await rig.request({ type: REQUEST.WRITE_ZEROES, out: range(0n, 1) })).status).toBe(ANSWER.UNSUPP);
    expect((await rig.flush()).status).toBe(ANSWER.OK);
    expect((await rig.read(0, 512)).status).toBe(ANSWER.OK);
    expect(digest(backend.bytes)).toBe(disk);
  });

  it('"no status byte": the chain comes back with length 0', async () => {
    const { rig, backend } = await start();
    const header = rig.header({ type: REQUEST.OUT, sector: 0 });
    const disk = digest(backend.bytes);
    expect(await rig.send([{ gpa: header, length: 16 }])).toBe(0);
    expect(
      await rig.send([
        { gpa: header, length: 16 },
        { gpa: 0x30_0000, length: 512 },
      ]),
    ).toBe(0);
    expect(await rig.send([{ gpa: header, length: 0 }])).toBe(0);
    expect(digest(backend.bytes)).toBe(disk);
    expect((await rig.read(0, 512)).status).toBe(ANSWER.OK);
  });

  it('a header that is too short, or writable', async () => {
    const { rig } = await start();
    const { memory } = rig.machine;
    const header = rig.header({ type: REQUEST.IN, sector: 0 });
    const status = rig.room(1);
    for (const length of [1, 15]) {
      memory.writeU8(status, 0xff);
      await rig.send([
        { gpa: header, length },
        { gpa: status, length: 1, writable: true },
      ]);
      expect(memory.readU8(status)).toBe(ANSWER.IOERR);
    }
    memory.writeU8(header + 15, 0xff);
    await rig.send([{ gpa: header, length: 16, writable: true }]);
    expect(memory.readU8(header + 15)).toBe(ANSWER.IOERR);
  });

  it('a status byte within the header, and data over the rings: the guest harms itself only', async () => {
    const { rig, backend } = await start();
    const disk = digest(backend.bytes);
    const header = rig.header({ type: REQUEST.IN, sector: 0 });
    expect(
      await rig.send([
        { gpa: header, length: 16 },
        { gpa: header, length: 1, writable: true },
      ]),
    ).toBe(1);
    // A read into the descriptor table and the rings: whatever follows, this process lives and the disk is whole.
    rig.machine.memory.writeU32(header, REQUEST.IN);
    rig.queue.add([
      { gpa: header, length: 16 },
      { gpa: rig.queue.desc, length: 8192, writable: true },
      { gpa: header + 8, length: 1, writable: true },
    ]);
    await rig.machine.settle(20);
    expect(digest(backend.bytes)).toBe(disk);
  });
});

describe('any request at all', () => {
  it('is answered once, changes only its own bytes, and agrees with a slow model', async () => {
    const sector = fc.oneof(
      { weight: 6, arbitrary: fc.bigInt(0n, BigInt(SECTORS) + 4n) },
      { weight: 1, arbitrary: fc.bigInt(0n, 2n ** 64n - 1n) },
    );
    const piece = fc.oneof(fc.constantFrom(1, 512, 1024, 511), fc.integer({ min: 0, max: 2048 }));
    const request = fc.record({
      type: fc.oneof(fc.constantFrom<number>(...Object.values(REQUEST)), fc.integer({ min: 0, max: 20 })),
      sector,
      headerSplit: fc.integer({ min: 0, max: 16 }),
      out: fc.array(piece, { maxLength: 4 }),
      in: fc.array(piece, { maxLength: 4 }),
      hasStatus: fc.boolean(),
      byte: fc.integer({ min: 0, max: 255 }),
    });
    await fc.assert(
      fc.asyncProperty(fc.array(request, { minLength: 1, maxLength: 12 }), async (requests) => {
        const { rig, backend } = await start();
        const model = backend.bytes.slice();
        const { memory } = rig.machine;
        for (const { type, sector, headerSplit, out, in: into, hasStatus, byte } of requests) {
          const header = rig.header({ type, sector });
          const buffers: MockBuffer[] = [
            { gpa: header, length: headerSplit },
            { gpa: header + headerSplit, length: 16 - headerSplit },
          ];
          for (const length of out) {
            const gpa = rig.room(length);
            memory.fill(gpa, length, byte);
            buffers.push({ gpa, length });
          }
          const pieces = into.map((length) => ({ gpa: rig.room(length), length, writable: true }));
          for (const { gpa, length } of pieces) memory.fill(gpa, length, 0xcc);
          buffers.push(...pieces);
          if (hasStatus) buffers.push({ gpa: rig.room(1), length: 1, writable: true });
          const usedLength = await rig.send(buffers);

          const writable = buffers.filter((buffer) => buffer.writable === true);
          const room = writable.reduce((sum, { length }) => sum + length, 0);
          expect(usedLength).toBe(room);
          if (room === 0) continue;
          const bytes = Buffer.concat(writable.map(({ gpa, length }) => memory.read(Number(gpa), length)));
          const status = bytes[room - 1];
          const dataOut = out.reduce((sum, length) => sum + length, 0);
          const isInside = (length: number): boolean =>
            length > 0 && length % 512 === 0 && sector + BigInt(length / 512) <= BigInt(SECTORS);
          const at = Number(sector) * 512;
          if (type === REQUEST.IN && isInside(room - 1)) {
            expect(status).toBe(ANSWER.OK);
            expect(Buffer.compare(bytes.subarray(0, room - 1), model.subarray(at, at + room - 1))).toBe(0);
          } else if (type === REQUEST.OUT) {
            expect(status).toBe(isInside(dataOut) ? ANSWER.OK : ANSWER.IOERR);
            if (isInside(dataOut)) model.fill(byte, at, at + dataOut);
          } else if (type === REQUEST.GET_ID || type === REQUEST.FLUSH) {
            expect([ANSWER.OK, ANSWER.IOERR]).toContain(status);
          } else {
            expect([ANSWER.IOERR, ANSWER.UNSUPP, type === REQUEST.DISCARD || type === 13 ? 0 : 1]).toContain(status);
            if (status === ANSWER.OK) model.set(backend.bytes);
          }
        }
        expect(Buffer.compare(backend.bytes, model)).toBe(0);
        for (const rig of open.splice(0)) await rig.close();
      }),
      { numRuns: 60 },
    );
  });
});
