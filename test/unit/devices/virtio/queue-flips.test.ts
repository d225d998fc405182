// Hostile case 8: "descriptors rewritten by another vCPU while the device reads them (10^7 flips) → each field read once".
// VIRTIO 1.2 §2.7.5; the other vCPU is a thread over the same memory.
import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import { describe, expect, test } from 'vitest';
import { RegisterFile } from '../../../../src/devices/register-file.js';
import { DESC } from '../../../../src/devices/virtio/abi.js';
import { Virtqueue, type DescriptorChain } from '../../../../src/devices/virtio/queue.js';
import { GuestMemory } from '../../../../src/memory/guest-memory.js';
import { writeDescriptor } from '../../../support/virtqueue-driver.js';
import type { FlipTask, FlipWord } from './flip-thread.js';

const { NEXT, WRITE, INDIRECT } = DESC;
const SIZE = 8;
const RAM = 1 << 20;
const DESC_AT = 0x1000;
const DRIVER_AT = 0x2000;
const DEVICE_AT = 0x3000;
const TABLE = 0x4000;
/** The two places that a buffer may lie at, the second one at the very end of RAM, and the lengths that it may have. */
const PLACES = [0x8_0000, RAM - 16] as const;
const LENGTHS = [16, 4096, 0xffff_ff00] as const;
const POISON = 0xa5;

const flags = (value: number, next: number): number => (value | (next << 16)) >>> 0;

/** The words of a descriptor at `gpa`, each with right and wrong values. */
function descriptorWords(gpa: number, flagWords: readonly number[]): readonly FlipWord[] {
  return [
    { gpa, values: PLACES },
    { gpa: gpa + 4, values: [0, 0, 0, 1, 0x1f_ffff, 0xffff_ffff] },
    { gpa: gpa + 8, values: LENGTHS },
    { gpa: gpa + 12, values: flagWords },
  ];
}

const DIRECT = [0, 1, 2].flatMap((i) =>
  descriptorWords(DESC_AT + 16 * i, [
    flags(WRITE, 0),
    flags(WRITE | NEXT, i + 1),
    flags(NEXT, i + 1),
    flags(NEXT, i),
    flags(WRITE | NEXT, 0xffff),
  ]),
);
const INDIRECTLY: readonly FlipWord[] = [
  { gpa: DESC_AT, values: [TABLE, TABLE, TABLE + 16, RAM - 16] },
  { gpa: DESC_AT + 4, values: [0, 0, 0, 0x1f_ffff] },
  { gpa: DESC_AT + 8, values: [16, 32, 48, 64, 2 ** 20, 17] },
  { gpa: DESC_AT + 12, values: [INDIRECT, INDIRECT, INDIRECT, INDIRECT | WRITE, INDIRECT | NEXT] },
  ...[0, 1, 2].flatMap((i) =>
    descriptorWords(TABLE + 16 * i, [
      flags(WRITE, 0),
      flags(NEXT, i + 1),
      flags(WRITE | NEXT, i + 1),
      flags(WRITE | NEXT, i),
      INDIRECT,
    ]),
  ),
];
/** The driver's indices, too: the device counts for itself. */
const RINGS: readonly FlipWord[] = [
  { gpa: DRIVER_AT + 4, values: [0, 1, 2, 0x0001_0000, 0x0002_0001, SIZE, 0xffff] },
  { gpa: DRIVER_AT + 8, values: [0, 1, 2, 0x0001_0002, 0xffff_0003] },
  { gpa: DEVICE_AT, values: [0, 0xffff_ffff] },
];

const flips = 10_000_000;

describe('8. "descriptors rewritten by another vCPU while the device reads them (10^7 flips) → each field read once"', () => {
  test.each([
    ['direct', DIRECT],
    ['indirect', INDIRECTLY],
    ['direct, and the rings', [...DIRECT, ...RINGS]],
    ['indirect, and the rings', [...INDIRECTLY, ...RINGS]],
  ])(
    `%s, ${flips} flips: every buffer that comes out was one of those that went in, and lies in RAM`,
    async (_, words) => {
      const memory = GuestMemory.create(RAM);
      const fieldsOf = RegisterFile.create(4096).allocate('queue', { avail: { doc: '' }, used: { doc: '' } });
      const layout = { size: SIZE, desc: DESC_AT, driver: DRIVER_AT, device: DEVICE_AT };
      // What nobody named stays as it is: the bytes around the places that a buffer may lie at.
      memory.fill(PLACES[0] + 4096, PLACES[1] - PLACES[0] - 4096, POISON);
      memory.fill(PLACES[0] - 4096, 4096, POISON);

      const counts = { ok: 0, dropped: 0, broken: 0 };
      let broken = false;
      const create = (): Virtqueue => {
        broken = false;
        memory.fill(DEVICE_AT, 0x100);
        memory.fill(DRIVER_AT, 0x100);
        fieldsOf.avail.set(0);
        fieldsOf.used.set(0);
        return new Virtqueue({
          memory,
          layout,
          indirect: true,
          eventIdx: true,
          cursors: fieldsOf,
          interrupt: () => undefined,
          broken: () => (broken = true),
          again: () => undefined,
        });
      };
      const wrong: string[] = [];
      const check = ({ readable, writable }: DescriptorChain): void => {
        for (const { count, offsets, lengths, bytes } of [readable, writable]) {
          let sum = 0;
          for (let i = 0; i < count; i++) {
            const [offset, length] = [offsets[i] ?? -1, lengths[i] ?? -1];
            sum += length;
            // The long length fits nowhere, 4096 does not fit at the end.
            if (!(offset === PLACES[0] && length <= 4096) && !(offset === PLACES[1] && length === 16))
              wrong.push(`${length} bytes at 0x${offset.toString(16)}`);
          }
          if (sum !== bytes) wrong.push(`${bytes} bytes, which are ${sum}`);
          if (count > SIZE) wrong.push(`${count} buffers`);
        }
      };

      for (const { gpa, values } of words) memory.writeU32(gpa, values[0] as number);
      writeDescriptor(memory, DESC_AT + 16 * 3, PLACES[0], 16, WRITE, 0);
      const progress = new SharedArrayBuffer(12);
      const state = new Int32Array(progress);
      const workerData: FlipTask = { memory: memory.share(), words, flips, progress };
      const worker = new Worker(new URL('./flip-thread.js', import.meta.url), { workerData });
      const ended = once(worker, 'exit');
      await once(worker, 'online');
      Atomics.store(state, 0, 1);
      Atomics.notify(state, 0);
      let queue = create();
      let published = 0;
      // On a busy host one of the two may have had the processor for itself: both go on until each outcome was there.
      while (Atomics.load(state, 1) === 0 || Object.values(counts).includes(0)) {
        // A turn of the device, then the event loop's other work.
        for (let n = 0; n < 1000; n++) {
          memory.writeU16(DRIVER_AT + 4 + 2 * (published % SIZE), 0);
          published = (published + 1) & 0xffff;
          memory.writeU16(DRIVER_AT + 2, published);
          const before = queue.dropped;
          const chain = queue.pop();
          counts.dropped += queue.dropped - before;
          if (broken) {
            counts.broken++;
            queue = create();
            published = 0;
          } else if (chain !== undefined) {
            counts.ok++;
            check(chain);
            chain.writable.fill(counts.ok);
            queue.push(chain, chain.writable.bytes);
            queue.flush();
          }
        }
        await new Promise((resolve) => setImmediate(resolve));
      }
      Atomics.store(state, 2, 1);
      await ended;

      expect(wrong.slice(0, 5)).toEqual([]);
      for (const [gpa, length] of [
        [PLACES[0] - 4096, 4096],
        [PLACES[0] + 4096, PLACES[1] - PLACES[0] - 4096],
      ] as const)
        expect(Buffer.from(memory.read(gpa, length)).every((byte) => byte === POISON)).toBe(true);
      // All three outcomes were there: the flips did meet the walk.
      for (const count of Object.values(counts)) expect(count, JSON.stringify(counts)).toBeGreaterThan(0);
    },
  );
});
