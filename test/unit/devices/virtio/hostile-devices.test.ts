// The hostile cases of virtqueues, "over every device": each queue of the disk, the network card, the console and the entropy
// source meets each broken ring. Hostile cases 1 to 3, 5, 6 and 9; what the queue itself does is in hostile-queue.test.ts.
import { describe, expect, test } from 'vitest';
import { INTERRUPT, STATUS } from '../../../../src/devices/virtio/abi.js';
import { absentBuffers, BROKEN_RINGS, publishBroken } from '../../../support/broken-rings.js';
import { openSubject, SUBJECTS, type Subject } from '../../../support/hostile-subjects.js';
import { DRIVING, MockMachine, REG, type MockQueue } from '../../../support/virtqueue-driver.js';

const SIZE = 8;
const GROUND = { data: 0x20_0000, table: 0x30_0000 };
const ASKED = 0x38_0000;

/** From reset to DRIVER_OK, with short queues. */
async function begin(machine: MockMachine, without: readonly number[] = []): Promise<readonly MockQueue[]> {
  machine.negotiate(without);
  const queues = machine.back.device.offer.queueSizes.map((_, index) => machine.addQueue(index, SIZE));
  machine.driverOk();
  await machine.settle();
  return queues;
}

async function expectWorks(machine: MockMachine, subject: Subject, queues: readonly MockQueue[]): Promise<void> {
  const { queue: index, buffers, hasWorked } = subject.ask(machine.memory, ASKED);
  const queue = queues[index];
  const head = queue?.add(buffers);
  await machine.settle(20);
  expect(queue?.takeUsed()?.id).toBe(head);
  expect(hasWorked()).toBe(true);
}

describe.each(SUBJECTS)('%s', (_, make, queueCount) => {
  describe.each(Array.from({ length: queueCount }, (_, index) => index))('queue %d', (index) => {
    test.each(BROKEN_RINGS.map((row) => [row.name, row] as const))(
      '%s → NR: "stops until status := 0, and works after the reset"',
      async (_, row) => {
        const subject = await openSubject(make);
        const machine = new MockMachine(subject.device);
        const queue = (await begin(machine, row.without))[index] as MockQueue;
        publishBroken(row, queue, GROUND);
        queue.kick();
        await machine.settle();
        subject.prompt();
        await machine.settle();
        expect(machine.status).toBe(DRIVING | STATUS.DEVICE_NEEDS_RESET);
        expect(machine.read(REG.InterruptStatus) & INTERRUPT.CONFIGURATION_CHANGE).not.toBe(0);
        expect(machine.interrupts).toBe(1);
        expect(machine.warnings.filter((line) => row.reason.test(line))).toHaveLength(1);
        expect(queue.usedIndex).toBe(0);
        for (let i = 0; i < 10; i++) queue.kick();
        subject.prompt();
        await machine.settle();
        expect([machine.interrupts, queue.usedIndex, machine.warnings.length]).toEqual([1, 0, 1]);
        machine.write(REG.Status, 0);
        await machine.settle();
        expect(machine.status, 'the reset must return').toBe(0);
        await expectWorks(machine, subject, await begin(machine));
        await machine.close();
      },
    );

    test('2. "buffer beyond RAM, in the hole below 4 GiB, in MMIO …": "the chain returned with length 0 and counted"', async () => {
      const subject = await openSubject(make);
      const machine = new MockMachine(subject.device);
      const queues = await begin(machine);
      const queue = queues[index] as MockQueue;
      const absent = absentBuffers(machine.memory.size);
      const heads = absent.map(([, gpa, length]) => {
        const head = queue.build([{ gpa, length, writable: subject.ask(machine.memory, ASKED).queue !== index }]);
        queue.publish(head);
        return head;
      });
      queue.kick();
      await machine.settle();
      subject.prompt();
      await machine.settle();
      expect(heads.map(() => queue.takeUsed())).toEqual(heads.map((id) => ({ id, length: 0 })));
      expect(machine.back.report().dropped).toBe(absent.length);
      expect(machine.status).toBe(DRIVING);
      const working = subject.ask(machine.memory, ASKED);
      const head = queues[working.queue]?.add(working.buffers);
      await machine.settle(20);
      expect(queues[working.queue]?.takeUsed()?.id).toBe(head);
      expect(working.hasWorked()).toBe(true);
      await machine.close();
    });
  });
});
