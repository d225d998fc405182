// The entropy device with the mock driver. VIRTIO 1.2 §5.4.
import { afterEach, expect, it } from 'vitest';
import { openRandomSource } from '../../../../src/devices/backend/random-source.js';
import { VirtioEntropy } from '../../../../src/devices/virtio/entropy.js';
import { MockMachine, type MockQueue } from '../../../support/virtqueue-driver.js';

const BUFFERS = 0x40_0000;

let machine: MockMachine;
afterEach(async () => machine.close());

it('§5.4.6: "The device MUST place one or more random bytes into the buffer"', async () => {
  machine = new MockMachine(new VirtioEntropy(openRandomSource()));
  const [queue] = (await machine.start()) as [MockQueue];
  queue.add([
    { gpa: BUFFERS, length: 5, writable: true },
    { gpa: BUFFERS + 0x100, length: 59, writable: true },
  ]);
  await machine.settle();
  expect(queue.takeUsed()?.length).toBe(64);
  const bytes = [...machine.memory.read(BUFFERS, 5), ...machine.memory.read(BUFFERS + 0x100, 59)];
  expect(new Set(bytes).size).toBeGreaterThan(32);
  expect(machine.memory.readU8(BUFFERS + 5)).toBe(0);
});

it('fills a large buffer in part, and returns one that cannot be written with length 0', async () => {
  machine = new MockMachine(new VirtioEntropy(openRandomSource()));
  const [queue] = (await machine.start()) as [MockQueue];
  queue.add([{ gpa: BUFFERS, length: 1 << 20, writable: true }]);
  queue.add([{ gpa: BUFFERS, length: 16 }]);
  await machine.settle();
  expect([queue.takeUsed()?.length, queue.takeUsed()?.length]).toEqual([4096, 0]);
});
