// The entropy device: what it writes and how much of it, with a source that can be recognised and with the real one.
// VIRTIO 1.2 §5.4; hostile cases 1, 2 and 9.
import { describe, expect, test } from 'vitest';
import { openRandomSource } from '../../../../src/devices/backend/random-source.js';
import { DESC, STATUS } from '../../../../src/devices/virtio/abi.js';
import { VirtioEntropy } from '../../../../src/devices/virtio/entropy.js';
import { MockMachine, REG, type MockQueue } from '../../../support/virtqueue-driver.js';

const DATA = 0x40_0000;
/** What one chain is given at most. */
const MOST = 256;

/** Counts from 1 on, so that no byte that it has not written looks as if. */
class CountingSource {
  next = 0;
  closed = 0;
  fill(bytes: Uint8Array): void {
    for (let i = 0; i < bytes.length; i++) bytes[i] = (this.next++ % 255) + 1;
  }
  close(): void {
    this.closed++;
  }
}

async function start(source: ConstructorParameters<typeof VirtioEntropy>[0] = new CountingSource()) {
  const machine = new MockMachine(new VirtioEntropy(source));
  const [queue] = (await machine.start()) as [MockQueue];
  return { machine, queue };
}

test('a device 4 with one queue, no feature of its own and no configuration', async () => {
  const { machine } = await start();
  expect(machine.read(REG.DeviceID)).toBe(4);
  expect(machine.offered() & 0xff_ffffn).toBe(0n);
  expect(machine.read(REG.Config)).toBe(0);
  await machine.close();
});

describe('"The device MUST place one or more random bytes into the buffer, but it MAY use less than the entire buffer length"', () => {
  test.each([
    ['one byte', [1], 1],
    ['what Linux asks for', [64], 64],
    ['scattered', [1, 7, 40], 48],
    ['as much as one chain is given', [MOST], MOST],
    ['more', [200, 4096], MOST],
    ['much more', [64 << 10], MOST],
  ])('%s', async (_, lengths, given) => {
    const { machine, queue } = await start();
    let gpa = DATA;
    const buffers = lengths.map((length) => {
      const buffer = { gpa, length, writable: true };
      gpa += length + 16;
      return buffer;
    });
    const head = queue.add(buffers);
    await machine.settle();
    expect(queue.takeUsed()).toEqual({ id: head, length: given });
    const bytes = buffers.flatMap(({ gpa: at, length }) => [...machine.memory.read(at, length)]);
    expect(bytes.slice(0, given)).toEqual(Array.from({ length: given }, (__, i) => (i % 255) + 1));
    // Neither the rest of the buffers nor what lies between them.
    expect(bytes.slice(given).every((byte) => byte === 0)).toBe(true);
    for (const { gpa: at, length } of buffers)
      expect([...machine.memory.read(at + length, 16)]).toEqual(Array.from({ length: 16 }, () => 0));
    expect(machine.back.report().counters).toEqual({ bytes: given });
    await machine.close();
  });
});

test('a full queue is answered with one look, and no two buffers alike', async () => {
  const { machine, queue } = await start();
  for (let i = 0; i < queue.size; i++) queue.publish(queue.build([{ gpa: DATA + 64 * i, length: 64, writable: true }]));
  queue.kick();
  await machine.settle();
  expect(queue.usedIndex).toBe(queue.size);
  expect(machine.back.report()).toMatchObject({ chains: 64, kicks: 1, interrupts: 1, counters: { bytes: 64 * 64 } });
  await machine.close();
});

describe('buffers that make no sense', () => {
  test('"The driver MUST NOT place driver-readable buffers into the queue": nothing is read or written, length 0', async () => {
    const { machine, queue } = await start();
    const readable = queue.add([{ gpa: DATA, length: 64 }]);
    const empty = queue.add([{ gpa: DATA, length: 0, writable: true }]);
    await machine.settle();
    expect([queue.takeUsed(), queue.takeUsed()]).toEqual([
      { id: readable, length: 0 },
      { id: empty, length: 0 },
    ]);
    expect(machine.memory.read(DATA, 64).every((byte) => byte === 0)).toBe(true);
    expect(machine.back.report().counters).toEqual({ bytes: 0 });
    await machine.close();
  });

  test('Case 2: "buffer beyond RAM … (data only: DROP)"; the next one is filled', async () => {
    const { machine, queue } = await start();
    queue.add([{ gpa: 0x1000_0000, length: 64, writable: true }]);
    queue.add([{ gpa: (16 << 20) - 32, length: 64, writable: true }]);
    const head = queue.add([{ gpa: DATA, length: 64, writable: true }]);
    await machine.settle();
    expect([queue.takeUsed()?.length, queue.takeUsed()?.length, queue.takeUsed()]).toEqual([
      0,
      0,
      { id: head, length: 64 },
    ]);
    expect(machine.memory.read((16 << 20) - 32, 32).every((byte) => byte === 0)).toBe(true);
    await machine.close();
  });

  test('Case 1: "a descriptor that points at itself" → NR, and it works after the reset', async () => {
    const { machine, queue } = await start();
    queue.setDescriptor(3, DATA, 8, DESC.WRITE | DESC.NEXT, 3);
    queue.publish(3);
    queue.kick();
    await machine.settle();
    expect(machine.status & STATUS.DEVICE_NEEDS_RESET).toBe(STATUS.DEVICE_NEEDS_RESET);
    machine.write(REG.Status, 0);
    await machine.settle();
    const [again] = (await machine.start()) as [MockQueue];
    again.add([{ gpa: DATA, length: 8, writable: true }]);
    await machine.settle();
    expect(again.takeUsed()?.length).toBe(8);
    await machine.close();
  });
});

test('the source is closed once, with the machine', async () => {
  const source = new CountingSource();
  const { machine } = await start(source);
  machine.write(REG.Status, 0);
  await machine.settle();
  expect(source.closed).toBe(0);
  await machine.close();
  await machine.close();
  expect(source.closed).toBe(1);
});

test("the host kernel's random bytes: every byte of the buffer, and others each time", async () => {
  const { machine, queue } = await start(openRandomSource());
  const bits = new Uint8Array(MOST);
  const seen = new Set<string>();
  for (let i = 0; i < 32; i++) {
    queue.add([{ gpa: DATA, length: MOST, writable: true }]);
    await machine.settle();
    expect(queue.takeUsed()?.length).toBe(MOST);
    const bytes = machine.memory.read(DATA, MOST);
    seen.add(Buffer.from(bytes).toString('hex'));
    for (const [at, byte] of bytes.entries()) bits[at] = (bits[at] as number) | byte;
  }
  expect(seen.size).toBe(32);
  // A byte that 32 fills have left zero was not filled: by chance that happens once in 2^248.
  expect(bits.every((byte) => byte !== 0)).toBe(true);
  await machine.close();
});
