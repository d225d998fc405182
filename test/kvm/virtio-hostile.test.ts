// Hostile drivers of a few instructions on the real KVM, with everything that a machine puts between them and a device.
// Hostile cases 1, 4, 5, 10, 12, 16 and 32; virtio-hostile-cases.test.ts has the others: "the process lives …, other devices and other VMs are unaffected".
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, test } from 'vitest';
import { createVm } from '../../src/index.js';
import { DESC, STATUS } from '../../src/devices/virtio/abi.js';
import { VirtioBlock } from '../../src/devices/virtio/block.js';
import { MemoryDisk } from '../support/block-rig.js';
import { noKvm } from '../support/kvm.js';
import { amount } from '../support/soak.js';
import { TestDevice } from '../support/test-device.js';
import {
  describeQueue,
  DRIVING,
  negotiate,
  type MockBuffer,
  REG,
  type QueuePlace,
} from '../support/virtqueue-driver.js';
import {
  begin,
  BUFFERS,
  DATA,
  drive,
  expectNeedsReset,
  layOut,
  machine,
  SIZE,
  useDevice,
  victimDevice,
  withGuest,
} from './hostile-guest.js';
import { MEMORY_MIB, Script } from './script-guest.js';

const isEmulated = process.env['MICROVISOR_HOST'] === 'svm';

/** VIRTIO 1.2 §5.2.6: a header of zeros reads sector 0; then the sector and the status byte. */
const READ_SECTOR: readonly MockBuffer[] = [
  { gpa: DATA, length: 16 },
  { gpa: DATA + 512, length: 513, writable: true },
];

const bug = (): never => {
  throw new RangeError('a bug');
};

function throwing(): TestDevice {
  const device = new TestDevice({ name: 'broken' });
  device.onChain = bug;
  return device;
}

function rejecting(): TestDevice {
  const device = new TestDevice({ name: 'broken' });
  device.notify = async () => {
    await sleep(5);
    bug();
  };
  return device;
}

function failing(): TestDevice {
  const device = new TestDevice({ name: 'broken' });
  device.notify = () => void setTimeout(() => device.host?.fail(new RangeError('a bug')), 5);
  return device;
}

function answeringTwice(): VirtioBlock {
  const backend = new MemoryDisk(512);
  backend.isHeld = true;
  backend.submit = () =>
    void setTimeout(() => {
      for (const answer of [...backend.held, ...backend.held]) answer();
    }, 5);
  return new VirtioBlock({ name: 'broken', id: '', backend });
}

describe.skipIf(noKvm)('a hostile virtio driver in a guest', () => {
  test('1. "a descriptor that points at itself" → NR', async () => {
    await withGuest(victimDevice(), async (kit) => {
      const queue = layOut(kit.hands, 0x10_0000);
      queue.setDescriptor(3, DATA, 4, DESC.NEXT, 3);
      queue.publish(3);
      begin(kit.hands, [queue]);
      await expectNeedsReset(kit, /victim: .*a chain is longer than the queue/);
    });
  });

  test('5. "avail index jumping by more than the size" → NR', async () => {
    await withGuest(victimDevice(), async (kit) => {
      const { script, hands } = kit;
      const queue = layOut(hands, 0x10_0000);
      begin(hands, [queue]);
      script.add('write16', queue.avail + 2, SIZE + 1);
      hands.write(REG.QueueNotify, 0);
      await expectNeedsReset(kit, /victim: .*the avail index is further ahead than the queue is long/);
    });
  });

  test('4. "rings unaligned, outside RAM, overlapping → never activated"', async () => {
    await withGuest(victimDevice(), async ({ script, hands, victim, warnings, run }) => {
      const good = layOut(hands, 0x10_0000);
      const place = { size: SIZE, desc: good.desc, avail: good.avail, used: good.used };
      const wrong: readonly Partial<QueuePlace>[] = [
        { size: 0 },
        { size: 3 },
        { size: 2 * SIZE },
        { size: 0xffff_ffff },
        { desc: good.desc + 8 },
        { avail: good.avail + 1 },
        { used: good.used + 2 },
        { desc: MEMORY_MIB << 20 },
        { avail: 0xd000_0000 },
        { used: 0xfee0_0000 },
        { used: good.desc },
        { desc: 2n ** 53n + 0x10_0000n },
        { desc: 2n ** 64n - 16n },
      ];
      const ready: (() => number)[] = [];
      negotiate(hands);
      for (const it of wrong) {
        describeQueue(hands, 0, { ...place, ...it });
        ready.push(script.read(hands.base + REG.QueueReady));
      }
      hands.write(REG.Status, DRIVING);
      hands.write(REG.QueueNotify, 0);
      hands.write(REG.Status, 0);
      useDevice(script, hands, 0x14_0000);
      await run();
      expect(ready.map((it) => it())).toEqual(wrong.map(() => 0));
      expect(victim.heads).toHaveLength(1);
      expect(warnings).toEqual([]);
    });
  });

  test('10. "a kick storm …; kicks before DRIVER_OK, after reset, for queue 0xffffffff" → the API answers, no exit for a kick', async () => {
    await withGuest(victimDevice(), async ({ vm, script, hands, victim, warnings, run }) => {
      const storm = (): void => {
        script.repeat(hands.base + REG.QueueNotify, 0, isEmulated ? 5000 : 100_000);
        for (const queue of [0xffff_ffff, SIZE, 2]) script.repeat(hands.base + REG.QueueNotify, queue, 100);
      };
      storm();
      const queue = layOut(hands, 0x10_0000);
      queue.publish(queue.build(BUFFERS));
      begin(hands, [queue]);
      storm();
      script.add('wait16', queue.used + 2, 1);
      hands.write(REG.Status, 0);
      storm();
      useDevice(script, hands, 0x14_0000);
      let answers = 0;
      const timer = setInterval(() => (answers += vm.report().vcpus.length), 1);
      await run();
      clearInterval(timer);
      expect(answers).toBeGreaterThan(0);
      expect(victim.heads).toHaveLength(2);
      expect(warnings).toEqual([]);
      const exits = vm.report().vcpus[0]?.mmio.filter(({ address }) => address === hands.base + REG.QueueNotify);
      // Those for queues that are not there: they are not bound to an eventfd.
      expect(exits?.reduce((sum, { count }) => sum + count, 0)).toBe(3 * 3 * 100);
    });
  });

  test('16. reset in flight: the write of Status returns when the host is done, and nothing is written after it', async () => {
    await withGuest(victimDevice(), async ({ vm, script, hands, victim, run }) => {
      const BUSY = 0x1f_0000;
      const FINISHED = BUSY + 4;
      const POISON = 0xa5a5_a5a5;
      victim.holds = true;
      victim.onChain = () => {
        vm.memory.writeU32(BUSY, 1);
        setTimeout(() => {
          victim.holds = false;
          vm.memory.writeU32(FINISHED, 1);
          victim.finish();
        }, 100);
        victim.onChain = undefined;
      };
      const queue = layOut(hands, 0x10_0000);
      queue.publish(queue.build(BUFFERS));
      begin(hands, [queue]);
      script.add('wait16', BUSY, 1);
      hands.write(REG.Status, 0);
      const finished = script.read(FINISHED);
      const status = script.read(hands.base + REG.Status);
      // The memory is somebody else's now.
      const reused = [queue.used, queue.used + 4, queue.used + 8, DATA + 64];
      for (const address of reused) script.add('write32', address, POISON);
      useDevice(script, script.hands(0, victim.offer), 0x14_0000);
      // That one wrote to the same data buffer, rightly; the old rings are untouched.
      await run();
      expect([finished(), status()]).toEqual([1, 0]);
      expect(reused.slice(0, 3).map((address) => vm.memory.readU32(address))).toEqual([POISON, POISON, POISON]);
      expect(victim.heads).toHaveLength(2);
    });
  });

  // A soak's is the whole minute, on a host where a reset takes no more than a millisecond.
  test(
    '16. "1,000 resets per second for 60 s → alive", each with a chain in flight',
    { timeout: 300_000 },
    async () => {
      await withGuest(victimDevice(), async ({ script, hands, victim, warnings, run }) => {
        const resets = amount(isEmulated ? 100 : 1000, isEmulated ? 1000 : 60_000);
        let used = 0;
        victim.holds = true;
        victim.onChain = () => {
          used++;
          victim.heads.length = victim.calls.length = 0;
          setImmediate(() => victim.finish());
        };
        const queue = layOut(hands, 0x10_0000);
        queue.publish(queue.build(BUFFERS));
        script.loop(resets, 0x1f_0000, () => {
          // What negotiate does, without its reads: a script's loop has no room in the log for them.
          for (const status of [0, STATUS.ACKNOWLEDGE, STATUS.ACKNOWLEDGE | STATUS.DRIVER])
            hands.write(REG.Status, status);
          hands.write(REG.DriverFeaturesSel, 1);
          hands.write(REG.DriverFeatures, 1);
          hands.write(REG.Status, DRIVING & ~STATUS.DRIVER_OK);
          drive(hands, [queue]);
          hands.write(REG.QueueNotify, 0);
        });
        hands.write(REG.Status, 0);
        script.add('write16', queue.used + 2, 0);
        begin(hands, [queue]);
        hands.write(REG.QueueNotify, 0);
        script.add('wait16', queue.used + 2, 1);
        await run(amount(60_000, 240_000));
        // At the least the last one, which nobody took back.
        expect(used).toBeGreaterThan(0);
        expect(used).toBeLessThanOrEqual(resets + 1);
        expect(warnings).toEqual([]);
      });
    },
  );

  test('12. "every offset 0–0xfff × width × read/write → IGN or as specified"', async () => {
    await withGuest(victimDevice(), async ({ script, hands, victim, warnings, run }) => {
      const step = isEmulated ? 3 : 1;
      const wrong: (() => string | undefined)[] = [];
      const expectRead = (offset: number, size: 1 | 2 | 4, expected: number): void => {
        const answer = script.read(hands.base + offset, size);
        wrong.push(() =>
          answer() === expected ? undefined : `${size} bytes at 0x${offset.toString(16)}: ${answer()}`,
        );
      };
      for (let offset = 0; offset < 0x1000; offset += step)
        for (const size of [1, 2, 4] as const) {
          if (offset + size > 0x1000) continue;
          const isRegister = size === 4 && offset % 4 === 0 && offset < 0x100;
          if (!isRegister) {
            const config = Array.from({ length: size }, (_, i) => victim.offer.config[offset - 0x100 + i] ?? 0);
            const expected = offset < 0x100 ? 0 : config.reduce((sum, byte, i) => sum + byte * 256 ** i, 0);
            expectRead(offset, size, expected);
          } else script.read(hands.base + offset, size);
        }
      for (let offset = 0; offset < 0x1000; offset += step)
        for (const size of [1, 2, 4] as const) if (offset + size <= 0x1000) hands.write(offset, 0xffff_ffff, size);
      expectRead(REG.MagicValue, 4, 0x7472_6976);
      expectRead(REG.Status, 4, 0);
      expectRead(REG.Config, 4, 0x0403_0201);
      useDevice(script, hands, 0x14_0000);
      await run();
      expect(wrong.map((it) => it()).filter((it) => it !== undefined)).toEqual([]);
      expect(victim.heads).toHaveLength(1);
      expect(warnings).toEqual([]);
    });
  });

  test.each([
    ['at once', throwing(), 'RangeError: a bug'],
    ['in a promise of its own', rejecting(), 'RangeError: a bug'],
    ['in a timer, and says so', failing(), 'RangeError: a bug'],
    ['because its host part answers twice, later', answeringTwice(), 'Error: chain 0 was given back twice'],
  ] as const)(
    '32. "a device that throws → the VM ends with a named reason; other VMs of the process live": %s',
    async (_when, broken, error) => {
      await withGuest(victimDevice(), async ({ run }) => {
        await using vm = await createVm({ ...machine(), virtio: [() => broken] });
        const script = new Script(vm.memory);
        useDevice(script, script.hands(0, broken.offer), 0x10_0000, READ_SECTOR);
        script.end();
        await vm.start();
        expect(await vm.outcome).toMatchObject({
          kind: 'failed',
          failure: 'device-failed',
          message: `device broken failed: ${error}`,
        });
        await run();
      });
    },
  );
});
