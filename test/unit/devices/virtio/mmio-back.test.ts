// The owner's half of the transport: resets and withdrawn queues with I/O in flight, turns, the end of a machine.
// VIRTIO 1.2 §2.4 (device reset), §2.1.2 (DEVICE_NEEDS_RESET), §2.5 (configuration space); hostile cases 10 and 16.
import { describe, expect, test, vi } from 'vitest';
import { INTERRUPT, STATUS } from '../../../../src/devices/virtio/abi.js';
import { REQUEST } from '../../../../src/devices/virtio/block-request.js';
import { BlockRig, MemoryDisk } from '../../../support/block-rig.js';
import { TestDevice } from '../../../support/test-device.js';
import { DRIVING, MockMachine, REG, type MockQueue } from '../../../support/virtqueue-driver.js';

const DATA = 0x20_0000;
const BUFFERS = [
  { gpa: DATA, length: 4 },
  { gpa: DATA + 64, length: 4, writable: true },
];

interface Kit {
  readonly device: TestDevice;
  readonly machine: MockMachine;
  readonly queues: readonly MockQueue[];
  readonly queue: MockQueue;
}

async function start(queueSizes = [8]): Promise<Kit> {
  const device = new TestDevice({ queueSizes });
  const machine = new MockMachine(device);
  const queues = await machine.start();
  return { device, machine, queues, queue: queues[0] as MockQueue };
}

/** Has the promise settled once the event loop has turned? */
async function isSettled(machine: MockMachine, promise: Promise<unknown>): Promise<boolean> {
  let settled = false;
  void promise.then(() => (settled = true));
  await machine.settle();
  return settled;
}

describe('16. reset with I/O in flight', () => {
  test('Status := 0 is answered when every chain is back; none of them is written into a ring', async () => {
    const { device, machine, queue } = await start();
    device.holds = true;
    for (let i = 0; i < 3; i++) queue.add(BUFFERS);
    await machine.settle();
    machine.write(REG.Status, 0);
    await machine.settle();
    expect(machine.status).toBe(DRIVING);
    expect(device.calls.at(-1)).toBe('cancel');
    const rings = machine.memory.read(queue.desc, 0x1000);
    device.finish(2);
    await machine.settle();
    expect(machine.status).toBe(DRIVING);
    device.finish(1);
    await machine.settle();
    expect(machine.status).toBe(0);
    expect(Buffer.compare(machine.memory.read(queue.desc, 0x1000), rings)).toBe(0);
    expect([machine.interrupts, machine.read(REG.InterruptStatus)]).toEqual([0, 0]);
    expect(machine.back.report()).toMatchObject({ resets: 1, chains: 3, needsReset: 0 });
  });

  test('QueueReady := 0 waits for the chains of its queue, and the others go on', async () => {
    const { device, machine, queues } = await start([8, 8]);
    const [first, second] = queues as [MockQueue, MockQueue];
    device.holds = true;
    first.add(BUFFERS);
    await machine.settle();
    device.holds = false;
    machine.write(REG.QueueSel, 0);
    machine.write(REG.QueueReady, 0);
    await machine.settle();
    expect(machine.read(REG.QueueReady)).toBe(0);
    const { REQUESTS, ANSWERS } = machine.state.fields;
    expect([REQUESTS.get(), ANSWERS.get()]).toEqual([1, 0]);
    expect(device.calls.at(-1)).toBe('cancel 0');
    second.add(BUFFERS);
    await machine.settle();
    expect(second.usedIndex).toBe(1);
    device.finish();
    await machine.settle();
    expect(ANSWERS.get()).toBe(1);
    expect(first.usedIndex).toBe(0);
    first.kick();
    await machine.settle();
    expect(device.heads).toHaveLength(2);
  });

  test('a reset while a queue is being withdrawn, and another reset meanwhile: one after the other', async () => {
    const { device, machine, queues } = await start([8, 8]);
    device.holds = true;
    for (const queue of queues) queue.add(BUFFERS);
    await machine.settle();
    machine.write(REG.QueueSel, 1);
    machine.write(REG.QueueReady, 0);
    await machine.settle();
    machine.write(REG.Status, 0);
    machine.write(REG.Status, 0);
    await machine.settle();
    device.finish();
    await machine.settle();
    const { REQUESTS, ANSWERS, RESET } = machine.state.fields;
    expect([machine.status, REQUESTS.get(), ANSWERS.get(), RESET.get()]).toEqual([0, 3, 3, 0]);
    await machine.start();
    expect(device.calls.filter((call) => call === 'activate')).toHaveLength(2);
  });

  test('the counts of requests wrap at 2^32', async () => {
    const { machine, device, queue } = await start();
    machine.state.fields.REQUESTS.set(0xffff_ffff);
    machine.state.fields.ANSWERS.set(0xffff_ffff);
    device.holds = true;
    queue.add(BUFFERS);
    await machine.settle();
    machine.write(REG.Status, 0);
    await machine.settle();
    expect(machine.state.fields.ANSWERS.get()).toBe(0xffff_ffff);
    device.finish();
    await machine.settle();
    expect([machine.state.fields.ANSWERS.get(), machine.status]).toEqual([0, 0]);
  });

  test('1,000 resets, with chains held at each', async () => {
    const { machine, device } = await start();
    for (let i = 0; i < 1000; i++) {
      machine.write(REG.Status, 0);
      await machine.settle(2);
      const [queue] = (await machine.start()) as [MockQueue];
      device.holds = i % 3 !== 0;
      for (let n = 0; n < i % 4; n++) queue.add(BUFFERS);
      await machine.settle(1);
      machine.write(REG.Status, 0);
      await machine.settle(1);
      device.finish();
      await machine.settle(2);
      if (machine.status !== 0) throw new Error(`reset ${i} did not end`);
    }
    expect(machine.warnings).toEqual([]);
  });

  test('a reset that meets a DRIVER_OK of another vCPU is a reset: both ways of Status := 0 end at 0 and inactive', async () => {
    const device = new TestDevice();
    const machine = new MockMachine(device);
    machine.negotiate();
    const queue = machine.addQueue(0, 8);
    // Between the look at Status and the clearing of the fields, the other vCPU finishes its set-up.
    const { Status } = machine.state.fields;
    const get = Status.get.bind(Status);
    let looks = 0;
    Object.assign(Status, {
      get: () => {
        const value = get();
        if (looks++ > 0) return value;
        Status.set(DRIVING);
        machine.control.signal();
        machine.control.ring();
        return value;
      },
    });
    machine.write(REG.Status, 0);
    Object.assign(Status, { get });
    await machine.settle();
    expect(machine.status).toBe(0);
    queue.add(BUFFERS);
    await machine.settle();
    expect(queue.usedIndex).toBe(0);
  });

  test('nothing that waits for its turn outlives the reset', async () => {
    const { machine, device, queue } = await start();
    const head = queue.build(BUFFERS);
    device.onChain = () => queue.publish(head);
    queue.add(BUFFERS);
    await machine.settle();
    expect(device.heads.length).toBeGreaterThan(200);
    machine.write(REG.Status, 0);
    await machine.settle();
    const count = device.heads.length;
    await machine.settle();
    expect(machine.status).toBe(0);
    expect(device.heads).toHaveLength(count);
  });
});

describe('10. "a kick storm … bounded CPU; event-loop lag p99 < 50 ms; the API answers"', () => {
  test('a driver that publishes as fast as the device takes gets one turn of 128 chains for each of the event loop', async () => {
    const { machine, device, queue } = await start();
    const head = queue.build(BUFFERS);
    device.onChain = () => queue.publish(head);
    queue.publish(head);
    const perTurn: number[] = [];
    for (let i = 0; i < 200; i++) {
      const before = device.heads.length;
      for (let kick = 0; kick < 10; kick++) queue.kick();
      await new Promise((resolve) => setImmediate(resolve));
      perTurn.push(device.heads.length - before);
    }
    expect(Math.max(...perTurn)).toBeLessThanOrEqual(2 * 128);
    expect(machine.status).toBe(DRIVING);
  });

  test('every queue of a device has its turn beside a flooded one', async () => {
    const { machine, device, queues } = await start([8, 8]);
    const [flooded, other] = queues as [MockQueue, MockQueue];
    const head = flooded.build(BUFFERS);
    device.onChain = (_, back) => {
      if (back === device.link?.queue(0)) flooded.publish(head);
    };
    flooded.publish(head);
    flooded.kick();
    for (let i = 1; i <= 50; i++) {
      other.add(BUFFERS);
      await machine.settle(3);
      expect(other.takeUsed()).toBeDefined();
    }
  });

  test('"kicks before DRIVER_OK, after reset, for queue 0xffffffff": the device hears nothing', async () => {
    const device = new TestDevice();
    const machine = new MockMachine(device);
    const storm = async (): Promise<void> => {
      for (let i = 0; i < 10_000; i++) for (const queue of [0, 1, 0xffff_ffff]) machine.write(REG.QueueNotify, queue);
      await machine.settle();
    };
    await storm();
    machine.negotiate();
    await storm();
    machine.addQueue(0, 8);
    await storm();
    expect(device.calls).toEqual([]);
    machine.driverOk();
    await machine.settle();
    machine.write(REG.Status, 0);
    await machine.settle();
    await storm();
    expect(device.calls).toEqual(['activate', 'notify 0', 'cancel']);
  });
});

describe('DEVICE_NEEDS_RESET', () => {
  test('of a device that asks for it: chains in flight go nowhere, and the reset waits for them', async () => {
    const { machine, device, queue } = await start();
    device.holds = true;
    queue.add(BUFFERS);
    await machine.settle();
    device.link?.needsReset('the request has no status byte');
    expect(machine.status).toBe(DRIVING | STATUS.DEVICE_NEEDS_RESET);
    expect(machine.read(REG.InterruptStatus)).toBe(INTERRUPT.CONFIGURATION_CHANGE);
    expect(machine.interrupts).toBe(1);
    expect(machine.warnings).toEqual([
      "test0: the guest's driver broke the rules of its queue (the request has no status byte); the device waits for a reset",
    ]);
    machine.write(REG.Status, 0);
    await machine.settle();
    expect(machine.status).not.toBe(0);
    device.finish();
    await machine.settle();
    expect(queue.usedIndex).toBe(0);
    expect(machine.status).toBe(0);
  });

  test('a link that is no longer valid says nothing any more', async () => {
    const { machine, device } = await start();
    const { link } = device;
    machine.write(REG.Status, 0);
    await machine.settle();
    link?.needsReset('too late');
    expect(machine.status).toBe(0);
    expect(link?.queue(0)).toBeUndefined();
    await machine.start();
    link?.needsReset('much too late');
    expect(machine.status).toBe(DRIVING);
    expect(machine.interrupts).toBe(0);
  });
});

describe('the configuration space', () => {
  test('"reads … of the same generation" see no mixture, at whatever moment of a change another vCPU reads', async () => {
    const device = new TestDevice({ config: new Uint8Array(16) });
    const machine = new MockMachine(device);
    await machine.start();
    const mixtures: unknown[] = [];
    let reads = 0;
    const look = (): void => {
      const before = machine.read(REG.ConfigGeneration);
      const words = [0, 4, 8, 12].map((offset) => machine.read(REG.Config + offset));
      reads++;
      if (machine.read(REG.ConfigGeneration) === before && new Set(words).size > 1) mixtures.push({ before, words });
    };
    const hook = vi.spyOn(Uint8Array.prototype, 'set').mockImplementation(function (
      this: Uint8Array,
      source: ArrayLike<number>,
      offset = 0,
    ) {
      for (let i = 0; i < source.length; i++) {
        this[offset + i] = source[i] ?? 0;
        look();
      }
    });
    try {
      for (let value = 1; value <= 5; value++) {
        device.host?.setConfig(0, new Uint8Array(16).fill(value));
        look();
        expect(machine.read(REG.Config + 12)).toBe(value * 0x0101_0101);
      }
    } finally {
      hook.mockRestore();
    }
    expect(reads).toBeGreaterThan(5 * 16);
    expect(mixtures).toEqual([]);
  });

  test('a change of a part keeps the rest, counts a generation, and tells the driver of an active device', async () => {
    const device = new TestDevice({ config: Uint8Array.from([1, 2, 3, 4]) });
    const machine = new MockMachine(device);
    device.host?.setConfig(1, Uint8Array.of(9));
    expect([machine.read(REG.Config), machine.interrupts]).toEqual([0x0403_0901, 0]);
    const generation = machine.read(REG.ConfigGeneration);
    expect(generation).not.toBe(0);
    await machine.start();
    device.host?.setConfig(3, Uint8Array.of(8));
    expect(machine.read(REG.Config)).toBe(0x0803_0901);
    expect(machine.read(REG.ConfigGeneration)).not.toBe(generation);
    expect([machine.interrupts, machine.read(REG.InterruptStatus)]).toEqual([1, INTERRUPT.CONFIGURATION_CHANGE]);
    expect(() => device.host?.setConfig(4, Uint8Array.of(1))).toThrow('test0: its configuration space has 4 bytes');
  });

  test('it survives a reset, and the generation goes on', async () => {
    const device = new TestDevice({ config: Uint8Array.of(1) });
    const machine = new MockMachine(device);
    await machine.start();
    device.host?.setConfig(0, Uint8Array.of(2));
    const generation = machine.read(REG.ConfigGeneration);
    machine.write(REG.Status, 0);
    await machine.settle();
    expect([machine.read(REG.Config, 1), machine.read(REG.ConfigGeneration)]).toEqual([2, generation]);
  });
});

describe('32. "a device that throws → the VM ends with a named reason"', () => {
  test.each(['activate', 'notify', 'cancel'] as const)(
    'in %s: said once, nothing more is asked of it, and it can be closed',
    async (method) => {
      const failures: string[] = [];
      const device = new TestDevice();
      const machine = new MockMachine(device, { onFailure: (message) => failures.push(message) });
      if (method === 'cancel') await machine.start();
      Object.assign(device, {
        [method]: () => {
          throw new RangeError('a bug');
        },
      });
      device.holds = true;
      if (method === 'cancel') machine.write(REG.Status, 0);
      else {
        const [queue] = (await machine.start()) as [MockQueue];
        queue.add(BUFFERS);
      }
      await machine.settle();
      expect(failures).toEqual(['device test0 failed: RangeError: a bug']);
      const { length } = device.calls;
      machine.write(REG.QueueNotify, 0);
      machine.write(REG.Status, 0);
      await machine.settle();
      expect(failures).toHaveLength(1);
      await machine.back.close();
      expect(device.calls.slice(length)).toEqual(['close']);
    },
  );
});

describe('32. an error that nobody of the transport called for', () => {
  /** A machine whose disk answers when the test says so, and what it says when it ends. */
  async function heldDisk(): Promise<{ disk: MemoryDisk; rig: BlockRig; failures: string[] }> {
    const failures: string[] = [];
    const disk = new MemoryDisk(4096);
    disk.isHeld = true;
    const rig = await BlockRig.start({ backend: disk }, { onFailure: (message) => failures.push(message) });
    return { disk, rig, failures };
  }

  test('in the answer of a disk: the machine ends by the name of the device, and the disk is closed', async () => {
    const { disk, rig, failures } = await heldDisk();
    void rig.request({ type: REQUEST.IN, in: 512 });
    await rig.machine.settle();
    const [answer] = disk.held;
    answer?.();
    // Twice the same answer: what the queue throws is not the caller's to catch.
    answer?.();
    expect(failures).toEqual(['device disk0 failed: Error: chain 0 was given back twice']);
    await rig.machine.back.close();
    expect(disk.closed).toBe(1);
  });

  test('in a promise of a device', async () => {
    const failures: string[] = [];
    const device = new TestDevice();
    device.notify = () => Promise.reject(new RangeError('a bug'));
    const machine = new MockMachine(device, { onFailure: (message) => failures.push(message) });
    await machine.start();
    await machine.settle();
    expect(failures).toEqual(['device test0 failed: RangeError: a bug']);
    await machine.back.close();
  });

  test('a device that cannot be closed, or never is: a line, and the machine comes to its end', async () => {
    const device = new TestDevice();
    const machine = new MockMachine(device, { onFailure: () => undefined });
    await machine.start();
    device.close = () => Promise.reject(new Error('still busy'));
    await machine.back.close();
    expect(machine.warnings).toEqual(['test0: it could not be closed: Error: still busy']);

    const endless = new TestDevice();
    const other = new MockMachine(endless, { onFailure: () => undefined });
    await other.start();
    endless.close = () => new Promise<void>(() => undefined);
    endless.host?.fail(new Error('a bug'));
    await other.back.close();
  });
});

describe('the end of a machine', () => {
  test('close waits for the chains in flight, then closes the device, once', async () => {
    const { machine, device, queue } = await start();
    device.holds = true;
    queue.add(BUFFERS);
    await machine.settle();
    const closed = machine.back.close();
    const again = machine.back.close();
    expect(await isSettled(machine, closed)).toBe(false);
    expect(await isSettled(machine, again)).toBe(false);
    expect(device.calls).not.toContain('close');
    device.finish();
    await Promise.all([closed, again]);
    expect(device.calls.filter((call) => call === 'close')).toHaveLength(1);
  });

  test.each(['Status', 'QueueReady'] as const)('also for those that a %s := 0 waits for already', async (register) => {
    const { machine, device, queue } = await start();
    device.holds = true;
    queue.add(BUFFERS);
    await machine.settle();
    machine.write(REG.QueueSel, 0);
    machine.write(REG[register], 0);
    await machine.settle();
    const closed = machine.back.close();
    expect(await isSettled(machine, closed)).toBe(false);
    device.finish();
    await closed;
    expect(device.calls.at(-1)).toBe('close');
  });

  test('after it nothing reaches the device', async () => {
    const { machine, device, queue } = await start();
    await machine.back.close();
    const { length } = device.calls;
    queue.add(BUFFERS);
    machine.write(REG.Status, 0);
    machine.control.signal();
    await machine.settle();
    expect(device.calls).toHaveLength(length);
  });
});
