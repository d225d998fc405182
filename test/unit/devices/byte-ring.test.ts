// The byte ring: order, limits, and that threads racing on it lose and double nothing.
import * as fc from 'fast-check';
import { Worker } from 'node:worker_threads';
import { describe, expect, test } from 'vitest';
import { ByteRing, RING_EMPTY } from '../../../src/devices/byte-ring.js';
import { RegisterFile } from '../../../src/devices/register-file.js';
import type { RingTask } from './byte-ring-thread.js';

function ring(capacity: number): ByteRing {
  return ByteRing.allocate(RegisterFile.create(1 << 16), 'd', 'ring', capacity);
}

describe('one thread', () => {
  test('is sound whatever was done with it, and not when its cursors or cells are made up', () => {
    const registers = RegisterFile.create(1 << 16);
    const subject = ByteRing.allocate(registers, 'd', 'ring', 8);
    for (let step = 0; step < 100; step++) {
      expect(subject.isSound()).toBe(true);
      if (step % 3 === 2) subject.takeMany(new Uint8Array(step % 7));
      else subject.pushMany(new Uint8Array(step % 5).fill(step));
    }
    const [head, tail] = ['head', 'tail'].map((name) => registers.fields.find((entry) => entry.name === name)?.field);
    const end = tail?.get() ?? 0;
    // A cell that nobody has written.
    tail?.set(end + 1);
    expect(subject.isSound()).toBe(false);
    tail?.set((head?.get() ?? 0) - 1);
    expect(subject.isSound()).toBe(false);
    tail?.set((head?.get() ?? 0) + 9);
    expect(subject.isSound()).toBe(false);
  });

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

/** Runs `tasks` on a thread each over a ring of `capacity`; `fill` is in it at first. */
async function race(
  capacity: number,
  count: number,
  tasks: readonly Pick<RingTask, 'role' | 'id'>[],
  fill = new Uint8Array(),
): Promise<Uint8Array[]> {
  const file = RegisterFile.create(1 << 19);
  const subject = ByteRing.allocate(file, 'd', 'ring', capacity);
  // Consumers stop when two producers have finished and the ring is empty.
  const absent = 2 - tasks.filter(({ role }) => role === 'produce').length;
  file.allocate('control', { done: { initial: absent, doc: '' }, ready: { doc: '' } });
  expect(subject.pushMany(fill)).toBe(fill.length);
  const results = await Promise.all(
    tasks.map((task) => {
      const workerData: RingTask = { buffer: file.share(), capacity, count, ...task };
      const worker = new Worker(new URL('byte-ring-thread.js', import.meta.url), { workerData });
      return new Promise<Uint8Array>((resolve, reject) => worker.once('message', resolve).once('error', reject));
    }),
  );
  expect(subject.length).toBe(0);
  return results.filter((_bytes, i) => tasks[i]?.role === 'consume');
}

function histogram(...parts: readonly Uint8Array[]): Map<number, number> {
  const totals = new Map<number, number>();
  for (const part of parts) for (const byte of part) totals.set(byte, (totals.get(byte) ?? 0) + 1);
  return totals;
}

describe('"No interleaving loses or doubles a byte"', () => {
  test('two producers and two consumers', async () => {
    const count = 60_000;
    const taken = await race(16, count, [
      { role: 'produce', id: 0 },
      { role: 'produce', id: 1 },
      { role: 'consume', id: 0 },
      { role: 'consume', id: 1 },
    ]);
    // Bit 7 tells the producer, the rest counts modulo 127.
    const sent = [0x00, 0x80].map((producer) => Uint8Array.from({ length: count }, (_, i) => producer | (i % 127)));
    expect(histogram(...taken)).toEqual(histogram(...sent));
  });

  test('two consumers at once on a full ring', async () => {
    const fill = Uint8Array.from({ length: 1 << 16 }, (_, i) => (i * 31) >>> 8);
    const taken = await race(
      1 << 16,
      1 << 16,
      [
        { role: 'consume', id: 0 },
        { role: 'consume', id: 1 },
      ],
      fill,
    );
    expect(histogram(...taken)).toEqual(histogram(fill));
  });

  test('one producer and one consumer: in order', async () => {
    const count = 100_000;
    const [taken] = await race(16, count, [
      { role: 'produce', id: 0 },
      { role: 'consume', id: 0 },
    ]);
    expect(taken?.length).toBe(count);
    expect(taken?.every((byte, i) => byte === i % 127)).toBe(true);
  });
});
