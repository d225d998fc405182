// The hostile cases of virtqueues, "over every device", by guests on the real KVM: each queue of the disk, the network card, the
// console and the entropy source meets each broken ring, all of them in one guest. Hostile cases 1 to 3, 5, 6 and 9.
import { expect, test, describe } from 'vitest';
import { INTERRUPT, STATUS } from '../../src/devices/virtio/abi.js';
import { absentBuffers, BROKEN_RINGS, publishBroken } from '../support/broken-rings.js';
import { openSubject, SUBJECTS } from '../support/hostile-subjects.js';
import { noKvm } from '../support/kvm.js';
import { DRIVING, REG } from '../support/virtqueue-driver.js';
import { begin, layOut, withGuest } from './hostile-guest.js';
import { MEMORY_MIB } from './script-guest.js';

const GROUND = { data: 0x18_0000, table: 0x1a_0000 };
const ASKED = 0x19_0000;
/** Of the queues: a page for each case. */
const QUEUES = 0x10_0000;
const QUEUE_BYTES = 0x1000;
const ABSENT = absentBuffers(MEMORY_MIB << 20);

describe.skipIf(noKvm).each(SUBJECTS)('a hostile driver of %s', (_, make, queueCount) => {
  const indices = Array.from({ length: queueCount }, (_, index) => index);

  test('1., 3., 5., 6., 9. → NR: "stops until status := 0, and works after the reset"; 2. "data only: DROP"', async () => {
    const subject = await openSubject(make);
    await withGuest(subject.device, async ({ vm, script, hands, warnings, run }) => {
      let at = QUEUES;
      const place = (index: number) => layOut(hands, (at += QUEUE_BYTES), index);
      const all = (): ReturnType<typeof place>[] => indices.map(place);

      const seen = indices.flatMap((index) =>
        BROKEN_RINGS.map((row) => {
          const queues = all();
          const queue = queues[index] as (typeof queues)[number];
          publishBroken(row, queue, GROUND);
          begin(hands, queues, row.without);
          hands.write(REG.QueueNotify, index);
          script.add('waitBits', hands.base + REG.Status, STATUS.DEVICE_NEEDS_RESET);
          script.add('waitBits', hands.base + REG.InterruptStatus, INTERRUPT.CONFIGURATION_CHANGE);
          const used = script.read(queue.used, 4);
          hands.write(REG.Status, 0);
          return { name: row.name, used, status: script.read(hands.base + REG.Status) };
        }),
      );

      const working = subject.ask(vm.memory, ASKED);
      const dropping = all();
      for (const queue of dropping)
        for (const [i, [, gpa, length]] of ABSENT.entries()) {
          queue.setDescriptor(i, gpa, length, queue.index === working.queue ? 0 : 2);
          queue.publish(i);
        }
      begin(hands, dropping);
      for (const queue of dropping) {
        hands.write(REG.QueueNotify, queue.index);
        script.add('wait16', queue.used + 2, ABSENT.length);
      }
      const status = script.read(hands.base + REG.Status);

      hands.write(REG.Status, 0);
      const honest = all();
      honest[working.queue]?.publish(honest[working.queue]?.build(working.buffers) ?? 0);
      begin(hands, honest);
      hands.write(REG.QueueNotify, working.queue);
      script.add('wait16', (honest[working.queue]?.used ?? 0) + 2, 1);

      const prompting = setInterval(() => subject.prompt(), 2);
      await run().finally(() => clearInterval(prompting));
      for (const { name, used, status } of seen) expect([used(), status()], name).toEqual([0, 0]);
      for (const queue of dropping)
        expect(ABSENT.map(() => queue.takeUsed())).toEqual(ABSENT.map((_, id) => ({ id, length: 0 })));
      expect(status()).toBe(DRIVING);
      expect(vm.report().virtio[0]).toMatchObject({
        dropped: queueCount * ABSENT.length,
        needsReset: seen.length,
      });
      expect(working.hasWorked()).toBe(true);
      // "One rate-limited line is logged."
      expect(warnings.length).toBeGreaterThan(0);
      expect(warnings.length).toBeLessThanOrEqual(seen.length);
    });
  });
});
