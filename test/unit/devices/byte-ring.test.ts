// The byte ring: order, limits, and that threads racing on it lose and double nothing.
import * as fc from 'fast-check';
import { Worker } from 'node:worker_threads';
import { describe, expect, test } from 'vitest';
import { ByteRing, RING_EMPTY } from '../../../src/devices/byte-ring.js';
import { RegisterFile } from '../../../src/devices/register-file.js';

function ring(capacity: number): ByteRing {
  return ByteRing.allocate(RegisterFile.create(1 << 16), 'd', 'ring', capacity);
}

describe('one thread', () => {
  test('behaves as a queue of bounded length, lap after lap', () => {
    fc.assert(
      fc.property(fc.array(fc.oneof(fc.uint8Array({ maxLength: 11 }), fc.nat(11)), { maxLength: 200 }), (steps) => {
        const subject = ring(8);
        const model: number[] = [];
        for (const step of steps) {
          if (typeof step === 'number') {
            const into = new Uint8Array(step);
            const count = subject.takeMany(into);
            expect([...into.subarray(0, count)]).toEqual(model.splice(0, step));
          } else {
            const count = step.length === 1 ? Number(subject.push(step[0] ?? 0)) : subject.pushMany(step);
            expect(count).toBe(Math.min(step.length, 8 - model.length));
            model.push(...step.subarray(0, count));
          }
          expect([subject.length, subject.free, subject.isReady]).toEqual([
            model.length,
            8 - model.length,
            model.length > 0,
          ]);
        }
        for (const byte of model) expect(subject.take()).toBe(byte);
        expect(subject.take()).toBe(RING_EMPTY);
      }),
    );
  });

  test('cursors may pass 2^32', () => {
    const file = RegisterFile.create(1 << 16);
    const subject = ByteRing.allocate(file, 'd', 'ring', 4);
    // An even lap, so that the cells' phases fit the cursors as if the ring had run all that way.
    for (const { field } of file.fields) field.set(0xffff_fff8);
    const taken: number[] = [];
    for (let i = 0; i < 24; i++) {
      expect(subject.push(i)).toBe(true);
      if (i % 3 === 2) for (let n = 0; n < 3; n++) taken.push(subject.take());
    }
    expect(taken).toEqual(Array.from({ length: 24 }, (_, i) => i));
  });

  test.each([0, 1, 3, 6, 2 ** 25, Number.NaN, -4])('a capacity of %d is refused', (capacity) => {
    expect(() => ring(capacity)).toThrow(/power of two/);
  });
});

test('"No interleaving loses or doubles a byte": two producers and two consumers, each byte once and in order', async () => {
  const file = RegisterFile.create(1 << 16);
  const subject = ByteRing.allocate(file, 'd', 'ring', 16);
  const { done } = file.allocate('control', { done: { doc: 'producers that have finished' } });
  const count = 60_000;
  const spawn = (role: string, id: number): Worker =>
    new Worker(new URL('byte-ring-thread.js', import.meta.url), {
      workerData: { buffer: file.share(), role, id, count },
    });
  const results = await Promise.all(
    [spawn('produce', 0), spawn('produce', 1), spawn('consume', 0), spawn('consume', 1)].map(
      (worker) =>
        new Promise<Uint8Array>((resolve, reject) => {
          worker.once('message', resolve);
          worker.once('error', reject);
        }),
    ),
  );
  expect(done.get()).toBe(2);
  expect(subject.length).toBe(0);
  const [, , first = new Uint8Array(), second = new Uint8Array()] = results;
  expect(first.length + second.length).toBe(2 * count);
  // Bit 7 tells the producer, the rest counts modulo 127: a consumer sees each producer's bytes in order, with gaps.
  const totals = new Map<number, number>();
  for (const byte of [...first, ...second]) totals.set(byte, (totals.get(byte) ?? 0) + 1);
  for (const producer of [0x00, 0x80])
    for (let value = 0; value < 127; value++)
      expect(totals.get(producer | value)).toBe(Math.floor(count / 127) + (value < count % 127 ? 1 : 0));
});

test('one producer and one consumer: byte-exact in order', async () => {
  const file = RegisterFile.create(1 << 16);
  ByteRing.allocate(file, 'd', 'ring', 16);
  file.allocate('control', { done: { initial: 1, doc: 'producers that have finished' } });
  const count = 100_000;
  const workers = ['produce', 'consume'].map(
    (role) =>
      new Worker(new URL('byte-ring-thread.js', import.meta.url), {
        workerData: { buffer: file.share(), role, id: 0, count },
      }),
  );
  const [, bytes = new Uint8Array()] = await Promise.all(
    workers.map(
      (worker) => new Promise<Uint8Array>((resolve, reject) => worker.once('message', resolve).once('error', reject)),
    ),
  );
  expect(bytes.length).toBe(count);
  expect(bytes.every((byte, i) => byte === i % 127)).toBe(true);
});
