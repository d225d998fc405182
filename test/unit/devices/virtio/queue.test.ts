// The device's side of the split virtqueue with a driver that keeps to the rules.
// VIRTIO 1.2 §2.7.5 (descriptors), §2.7.7 and §2.7.10 (notification suppression), §2.7.8 (used ring).
import { describe, expect, test } from 'vitest';
import { AVAIL_NO_INTERRUPT, FEATURE, INTERRUPT, USED_NO_NOTIFY } from '../../../../src/devices/virtio/abi.js';
import type { DescriptorChain, Virtqueue } from '../../../../src/devices/virtio/device.js';
import { TestDevice } from '../../../support/test-device.js';
import { MockMachine, REG, type MockQueue } from '../../../support/virtqueue-driver.js';

const FLAGS_ONLY = [FEATURE.RING_EVENT_IDX];
const DATA = 0x20_0000;

interface Kit {
  readonly device: TestDevice;
  readonly machine: MockMachine;
  readonly queue: MockQueue;
  /** The device's side of it. */
  readonly back: Virtqueue;
}

async function start(without: readonly number[] = [], size = 8): Promise<Kit> {
  const device = new TestDevice({ queueSizes: [size] });
  const machine = new MockMachine(device);
  const [queue] = await machine.start(without);
  const back = device.link?.queue(0);
  if (queue === undefined || back === undefined) throw new Error('no queue');
  return { device, machine, queue, back };
}

const out = (gpa: number, length: number) => ({ gpa, length });
const into = (gpa: number, length: number) => ({ gpa, length, writable: true });

function bytesOf(chain: DescriptorChain): string {
  const bytes = new Uint8Array(chain.readable.bytes);
  chain.readable.copyTo(bytes);
  return Buffer.from(bytes).toString();
}

describe('a chain', () => {
  test.each([
    [
      'direct',
      (queue: MockQueue) => queue.build([out(DATA, 3), out(DATA + 16, 2), into(DATA + 32, 4), into(DATA + 64, 4)]),
    ],
    [
      'through an indirect table',
      (queue: MockQueue) =>
        queue.buildIndirect(DATA + 0x801, [out(DATA, 3), out(DATA + 16, 2), into(DATA + 32, 4), into(DATA + 64, 4)]),
    ],
    [
      '"zero or more normal chained descriptors followed by a single descriptor with VIRTQ_DESC_F_INDIRECT"',
      (queue: MockQueue) => {
        const head = queue.build([out(DATA, 3), out(0, 0)]);
        const table = queue.buildIndirect(DATA + 0x800, [out(DATA + 16, 2), into(DATA + 32, 4), into(DATA + 64, 4)]);
        queue.setDescriptor(head, DATA, 3, 1, table);
        return head;
      },
    ],
    [
      'the same; "The device MUST ignore the write-only flag … in the descriptor that refers to an indirect table"',
      (queue: MockQueue) => {
        const head = queue.buildIndirect(DATA + 0x800, [out(DATA, 5), into(DATA + 32, 4), into(DATA + 64, 4)]);
        queue.setDescriptor(head, DATA + 0x800, 48, 4 | 2);
        return head;
      },
    ],
  ])('%s: readable and writable parts, in order, and back with its length', async (_, build) => {
    const { machine, queue, device } = await start();
    machine.memory.write(DATA, Buffer.from('abc'));
    machine.memory.write(DATA + 16, Buffer.from('de'));
    if (_.startsWith('the same')) machine.memory.write(DATA, Buffer.from('abcde'));
    const seen: string[] = [];
    device.onChain = (chain) => seen.push(`${bytesOf(chain)} ${chain.readable.count}/${chain.writable.bytes}`);
    const head = build(queue);
    queue.publish(head);
    queue.kick();
    await machine.settle();
    expect(seen).toEqual([_.startsWith('the same') ? 'abcde 1/8' : 'abcde 2/8']);
    expect(queue.takeUsed()).toEqual({ id: head, length: 5 });
    expect(Buffer.from(machine.memory.read(DATA + 32, 4)).toString()).toBe('abcd');
    expect(Buffer.from(machine.memory.read(DATA + 64, 4)).toString()).toBe('e\0\0\0');
  });

  test('as long as the queue, directly and indirectly; "with an indirect table a queue holds as many as it has entries"', async () => {
    const { machine, queue, device } = await start();
    const buffers = Array.from({ length: 8 }, (_, i) => out(DATA + 64 * i, 8));
    const seen: number[] = [];
    device.onChain = (chain) => seen.push(chain.readable.count);
    queue.add(buffers);
    await machine.settle();
    expect(queue.takeUsed()).toBeDefined();
    for (let i = 0; i < 8; i++) queue.publish(queue.buildIndirect(DATA + 0x1000 * (i + 1), buffers));
    queue.kick();
    await machine.settle();
    expect(seen).toEqual(Array.from({ length: 9 }, () => 8));
  });

  test('buffers without bytes are no part of it', async () => {
    const { machine, queue, device } = await start();
    const seen: number[] = [];
    device.onChain = ({ readable, writable }) => seen.push(readable.count, writable.count);
    queue.add([out(DATA, 0), out(DATA, 4), into(DATA, 0), into(DATA + 16, 4)]);
    queue.add([out(DATA, 0)]);
    await machine.settle();
    expect(seen).toEqual([1, 1, 0, 0]);
    expect(queue.takeUsed()?.length).toBe(4);
    expect(queue.takeUsed()?.length).toBe(0);
    expect(machine.warnings).toEqual([]);
  });
});

describe("the order of completion is the device's", () => {
  test('chains go back in any order, each once, and a second push of one throws', async () => {
    const { machine, queue, device, back } = await start();
    device.holds = true;
    const heads = [0, 1, 2].map((i) => queue.add([into(DATA + 64 * i, 16)]));
    await machine.settle();
    expect(device.heads).toEqual(heads);
    const [a, b, c] = device.held.map(({ chain }) => chain) as [DescriptorChain, DescriptorChain, DescriptorChain];
    for (const [chain, length] of [
      [c, 3],
      [a, 1],
      [b, 2],
    ] as const)
      back.push(chain, length);
    expect(queue.takeUsed()).toBeUndefined();
    back.flush();
    expect([queue.takeUsed(), queue.takeUsed(), queue.takeUsed(), queue.takeUsed()]).toEqual([
      { id: heads[2], length: 3 },
      { id: heads[0], length: 1 },
      { id: heads[1], length: 2 },
      undefined,
    ]);
    expect(() => back.push(c, 0)).toThrow(`chain ${c.head} was given back twice`);
  });

  test('what was taken too early can be put back, and comes again', async () => {
    const { machine, queue, device, back } = await start();
    device.holds = true;
    const heads = [0, 1].map((i) => queue.add([into(DATA + 64 * i, 16)]));
    await machine.settle();
    const [a, b] = device.held.splice(0).map(({ chain }) => chain) as [DescriptorChain, DescriptorChain];
    back.unpop(b);
    back.unpop(a);
    expect(back.inFlight).toBe(0);
    expect([back.pop()?.head, back.pop()?.head, back.pop()]).toEqual([...heads, undefined]);
  });
});

describe('the wrap of the 16-bit indices', () => {
  test.each([1, 2, 8, 256])('200,000 chains through a queue of %i: "a genuine wrap at 65535 → works"', async (size) => {
    for (const without of [[], FLAGS_ONLY]) {
      const { machine, queue, back } = await start(without, size);
      let done = 0;
      for (let n = 0; n < 100_000;) {
        const batch = 1 + (n % Math.min(size, 7));
        for (let i = 0; i < batch; i++) queue.publish(queue.build([into(DATA, 1)]));
        for (let chain = back.pop(); chain !== undefined; chain = back.pop()) back.push(chain, 1);
        back.flush();
        while (queue.takeUsed() !== undefined) done++;
        n += batch;
        if (done !== n) throw new Error(`${done} of ${n} chains came back`);
      }
      expect(queue.availIndex).toBe(done & 0xffff);
      expect(queue.usedIndex).toBe(done & 0xffff);
      expect(machine.warnings).toEqual([]);
    }
  });
});

describe('interrupts', () => {
  test('order: "store used.idx, then load used_event, then or InterruptStatus, then signal the irqfd"', async () => {
    const device = new TestDevice();
    const seen: unknown[] = [];
    const machine: MockMachine = new MockMachine(device, {
      onInterrupt: () =>
        seen.push({ usedIndex: machine.memory.readU16(queue.used + 2), status: machine.read(REG.InterruptStatus) }),
    });
    const [queue] = (await machine.start()) as [MockQueue];
    queue.add([into(DATA, 4)]);
    await machine.settle();
    expect(seen).toEqual([{ usedIndex: 1, status: INTERRUPT.USED_BUFFER }]);
  });

  test('used_event that the driver stores as soon as it can see used.idx is honoured: the load comes after the store', async () => {
    const { machine, queue, back } = await start();
    queue.publish(queue.build([into(DATA, 4)]));
    const chain = back.pop() as DescriptorChain;
    machine.memory.writeU16(queue.avail + 4 + 2 * queue.size, 77);
    back.push(chain, 0);
    // Between store and load: the driver sees the index, and asks for the interrupt of exactly this entry.
    const store = Atomics.store;
    let isPatched = false;
    Atomics.store = ((array: Uint16Array<SharedArrayBuffer>, index: number, value: number) => {
      const result = store(array, index, value);
      if (array instanceof Uint16Array && queue.usedIndex === 1 && !isPatched) {
        isPatched = true;
        machine.memory.writeU16(queue.avail + 4 + 2 * queue.size, 0);
      }
      return result;
    }) as typeof Atomics.store;
    try {
      back.flush();
    } finally {
      Atomics.store = store;
    }
    expect(isPatched).toBe(true);
    expect(machine.interrupts).toBe(1);
  });

  test('the pulse is "never skipped because a bit was set already"', async () => {
    const { machine, queue } = await start();
    for (let i = 1; i <= 3; i++) {
      queue.add([into(DATA, 4)]);
      await machine.settle();
      queue.takeUsed();
      expect(machine.interrupts).toBe(i);
      expect(machine.read(REG.InterruptStatus)).toBe(INTERRUPT.USED_BUFFER);
    }
  });

  test('one for a batch', async () => {
    const { machine, queue, device } = await start();
    device.holds = true;
    for (let i = 0; i < 8; i++) queue.add([into(DATA, 4)]);
    await machine.settle();
    device.finish();
    expect(machine.interrupts).toBe(1);
    expect(queue.usedIndex).toBe(8);
  });

  test('VIRTQ_AVAIL_F_NO_INTERRUPT: "the device SHOULD NOT send a notification"; later it does', async () => {
    const { machine, queue, device } = await start(FLAGS_ONLY);
    machine.memory.writeU16(queue.avail, AVAIL_NO_INTERRUPT);
    queue.add([into(DATA, 4)]);
    await machine.settle();
    expect([queue.usedIndex, machine.interrupts]).toEqual([1, 0]);
    device.holds = true;
    queue.add([into(DATA, 4)]);
    await machine.settle();
    machine.memory.writeU16(queue.avail, 0);
    device.finish();
    expect([queue.usedIndex, machine.interrupts]).toEqual([2, 1]);
  });

  test('with EVENT_IDX "the device MUST ignore the lower bit" of the flags, and without it used_event', async () => {
    const withIndex = await start();
    withIndex.machine.memory.writeU16(withIndex.queue.avail, AVAIL_NO_INTERRUPT);
    withIndex.queue.add([into(DATA, 4)]);
    await withIndex.machine.settle();
    expect(withIndex.machine.interrupts).toBe(1);
    const withFlags = await start(FLAGS_ONLY);
    withFlags.machine.memory.writeU16(withFlags.queue.avail + 4 + 2 * 8, 1000);
    withFlags.queue.add([into(DATA, 4)]);
    await withFlags.machine.settle();
    expect(withFlags.machine.interrupts).toBe(1);
  });

  // Used entries 0 to 4 published at once, from an index before and after the wrap.
  test.each([0, 65533])(
    'EVENT_IDX from index %i: one notification when used_event is among the entries, else none',
    async (first) => {
      for (const [event, expected] of [
        [first, 1],
        [first + 2, 1],
        [first + 4, 1],
        [first + 5, 0],
        [first - 1, 0],
        [first + 0x8000, 0],
      ] as const) {
        const { machine, queue, back } = await start();
        for (let n = 0; n < first; n++) {
          queue.publish(queue.build([into(DATA, 1)]));
          back.push(back.pop() as DescriptorChain, 0);
          back.flush();
          queue.takeUsed();
        }
        const before = machine.interrupts;
        for (let n = 0; n < 5; n++) queue.publish(queue.build([into(DATA, 1)]));
        for (let chain = back.pop(); chain !== undefined; chain = back.pop()) back.push(chain, 0);
        machine.memory.writeU16(queue.avail + 4 + 2 * queue.size, event & 0xffff);
        back.flush();
        expect(machine.interrupts - before, `used_event ${event}`).toBe(expected);
      }
    },
  );
});

describe('kicks that the driver may leave out', () => {
  test('avail_event is the next entry that the device waits for, and is stored when it finds none', async () => {
    const { machine, queue } = await start();
    expect(queue.availEvent).toBe(0);
    for (let n = 1; n <= 20; n++) {
      queue.add([into(DATA, 4)]);
      await machine.settle();
      queue.takeUsed();
      expect(queue.availEvent).toBe(n);
      expect(machine.memory.readU16(queue.used)).toBe(0);
    }
  });

  test('"After storing avail_event, read avail.idx again": what was published in between is found without a kick', async () => {
    for (const without of [[], FLAGS_ONLY]) {
      const { machine, queue, back } = await start(without);
      queue.publish(queue.build([into(DATA, 4)]));
      const first = back.pop() as DescriptorChain;
      const second = queue.build([into(DATA + 64, 4)]);
      const store = Atomics.store;
      let isPatched = false;
      Atomics.store = ((array: Uint16Array<SharedArrayBuffer>, index: number, value: number) => {
        // The driver publishes just before it could see what is stored here, and so does not ring.
        if (array instanceof Uint16Array && !isPatched) {
          isPatched = true;
          queue.publish(second);
        }
        return store(array, index, value);
      }) as typeof Atomics.store;
      let found: number | undefined;
      try {
        found = back.pop()?.head;
      } finally {
        Atomics.store = store;
      }
      expect(isPatched).toBe(true);
      expect(found).toBe(second);
      back.push(first, 0);
      expect(machine.warnings).toEqual([]);
    }
  });

  test('without EVENT_IDX: VIRTQ_USED_F_NO_NOTIFY while the device is at work, and not when it waits', async () => {
    const { machine, queue, device } = await start(FLAGS_ONLY);
    const flags = (): number => machine.memory.readU16(queue.used);
    const seen: number[] = [];
    device.onChain = () => seen.push(flags());
    for (let i = 0; i < 4; i++) queue.publish(queue.build([into(DATA, 4)]));
    queue.kick();
    await machine.settle();
    expect(seen).toEqual([1, 1, 1, 1].map(() => USED_NO_NOTIFY));
    expect(flags()).toBe(0);
  });

  test('activation "counts as a kick of every queue": what lies there before DRIVER_OK is taken', async () => {
    const device = new TestDevice({ queueSizes: [8, 8, 8] });
    const machine = new MockMachine(device);
    machine.negotiate();
    const first = machine.addQueue(0, 8);
    const third = machine.addQueue(2, 4);
    for (const queue of [first, third]) queue.publish(queue.build([into(DATA, 4)]));
    machine.driverOk();
    await machine.settle();
    expect(device.calls).toEqual(['activate', 'notify 0', 'notify 2']);
    expect([first.usedIndex, third.usedIndex]).toEqual([1, 1]);
    machine.write(REG.QueueNotify, 1);
    await machine.settle();
    expect(device.calls).toHaveLength(3);
  });
});
