// What a hostile driver does to a virtqueue, and the right outcome: hostile cases 1 to 7, 9 and 11.
// VIRTIO 1.2 §2.7; NR is "DEVICE_NEEDS_RESET and a configuration interrupt, stops until status := 0, works after it".
import { describe, expect, test } from 'vitest';
import { DESC, FEATURE, INTERRUPT, STATUS } from '../../../../src/devices/virtio/abi.js';
import { GuestMemory } from '../../../../src/memory/guest-memory.js';
import { TestDevice } from '../../../support/test-device.js';
import {
  describeQueue,
  DRIVING,
  MockMachine,
  REG,
  writeDescriptor,
  type MockQueue,
  type QueuePlace,
} from '../../../support/virtqueue-driver.js';

const { NEXT, WRITE, INDIRECT } = DESC;
const SIZE = 8;
const DATA = 0x20_0000;
const TABLE = 0x30_0000;
const PAGE = 0x1_0000;
/** RAM as a machine of more than 3 GiB has it: a region below the hole, one above 4 GiB. Little of it. */
const LOW_BYTES = 4 << 20;
const HIGH = 0x1_0000_0000;
const HIGH_BYTES = 1 << 20;

declare const WebAssembly: {
  readonly Memory: new (descriptor: { initial: number; maximum: number; shared: true }) => {
    buffer: SharedArrayBuffer;
  };
};

function ram(): GuestMemory {
  const region = (base: number, bytes: number) => {
    const pages = bytes / PAGE;
    return { base, buffer: new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true }).buffer };
  };
  return GuestMemory.attach({ regions: [region(0, LOW_BYTES), region(HIGH, HIGH_BYTES)] });
}

interface Kit {
  readonly device: TestDevice;
  readonly machine: MockMachine;
  readonly queue: MockQueue;
}

async function start(without: readonly number[] = [], queueSizes = [SIZE, SIZE]): Promise<Kit> {
  const device = new TestDevice({ queueSizes });
  const machine = new MockMachine(device, { memory: ram() });
  const [queue] = (await machine.start(without)) as [MockQueue];
  return { device, machine, queue };
}

/** A chain that is right comes back from a machine that works. */
async function expectWorks({ machine, device }: Pick<Kit, 'machine' | 'device'>, queue: MockQueue): Promise<void> {
  device.holds = false;
  machine.memory.write(DATA, Buffer.from('ping'));
  machine.memory.fill(DATA + 64, 4);
  const head = queue.add([
    { gpa: DATA, length: 4 },
    { gpa: DATA + 64, length: 4, writable: true },
  ]);
  await machine.settle();
  expect(queue.takeUsed()).toEqual({ id: head, length: 4 });
  expect(Buffer.from(machine.memory.read(DATA + 64, 4)).toString()).toBe('ping');
}

/** Nothing was used, the driver was told, nothing more happens, and a reset brings the device back. */
async function expectNeedsReset({ device, machine, queue }: Kit, reason: RegExp, served = 0): Promise<void> {
  expect(machine.status).toBe(DRIVING | STATUS.DEVICE_NEEDS_RESET);
  expect(machine.read(REG.InterruptStatus) & INTERRUPT.CONFIGURATION_CHANGE).toBe(INTERRUPT.CONFIGURATION_CHANGE);
  expect(machine.interrupts).toBeGreaterThanOrEqual(1);
  expect(machine.warnings.filter((line) => reason.test(line))).toHaveLength(1);
  expect(machine.back.report().needsReset).toBe(1);
  expect(device.heads).toHaveLength(served);
  const quiet = [machine.interrupts, queue.usedIndex, device.heads.length];
  for (let i = 0; i < 10; i++) queue.kick();
  machine.write(REG.QueueNotify, 1);
  await machine.settle();
  expect([machine.interrupts, queue.usedIndex, device.heads.length]).toEqual(quiet);
  machine.write(REG.Status, 0);
  await machine.settle();
  expect(machine.status, 'the reset must return').toBe(0);
  const [fresh] = (await machine.start()) as [MockQueue];
  await expectWorks({ device, machine }, fresh);
  expect(machine.status).toBe(DRIVING);
}

/** The chain came back with length 0 and was counted; the device did not see it, and goes on. */
async function expectDropped({ device, machine, queue }: Kit, head: number): Promise<void> {
  expect(queue.takeUsed()).toEqual({ id: head, length: 0 });
  expect(device.heads).toEqual([]);
  expect(machine.back.report().dropped).toBe(1);
  expect(machine.status).toBe(DRIVING);
  await expectWorks({ device, machine }, queue);
}

async function publish({ machine, queue }: Kit, head: number): Promise<void> {
  queue.publish(head);
  queue.kick();
  await machine.settle();
}

describe('1. "`next` ≥ queue size; a descriptor that points at itself; a chain longer than the queue → NR"', () => {
  test.each<[string, (queue: MockQueue) => number, RegExp]>([
    [
      'next is the queue size',
      (queue) => (queue.setDescriptor(0, DATA, 4, NEXT, SIZE), 0),
      /a descriptor index is not below the queue size/,
    ],
    [
      'next is 65535',
      (queue) => (queue.setDescriptor(0, DATA, 4, NEXT, 0xffff), 0),
      /a descriptor index is not below the queue size/,
    ],
    ['the head is the queue size', () => SIZE, /a descriptor index is not below the queue size/],
    ['the head is 65535', () => 0xffff, /a descriptor index is not below the queue size/],
    [
      'a descriptor that points at itself',
      (queue) => (queue.setDescriptor(3, DATA, 4, NEXT, 3), 3),
      /a chain is longer than the queue/,
    ],
    [
      'a ring of all descriptors',
      (queue) => {
        for (let i = 0; i < SIZE; i++) queue.setDescriptor(i, DATA, 4, NEXT | WRITE, (i + 1) % SIZE);
        return 5;
      },
      /a chain is longer than the queue/,
    ],
    [
      'an indirect table longer than the queue',
      (queue) =>
        queue.buildIndirect(
          TABLE,
          Array.from({ length: SIZE + 1 }, () => ({ gpa: DATA, length: 4 })),
        ),
      /a chain is longer than the queue/,
    ],
    [
      'a descriptor of an indirect table that points at itself',
      (queue) => {
        const head = queue.buildIndirect(TABLE, [{ gpa: DATA, length: 4 }]);
        writeDescriptor(queue.machine.memory, TABLE, DATA, 4, NEXT, 0);
        return head;
      },
      /a chain is longer than the queue/,
    ],
  ])('%s', async (_, build, reason) => {
    const kit = await start();
    await publish(kit, build(kit.queue));
    await expectNeedsReset(kit, reason);
  });
});

describe('2. "buffer beyond RAM, in the hole below 4 GiB, in MMIO, straddling the end of a region → NR (data only: DROP)"', () => {
  const buffers: readonly (readonly [string, number, number])[] = [
    ['beyond RAM', HIGH + HIGH_BYTES, 1],
    ['far beyond', 2 ** 52, 4096],
    ['in the hole', 0xc000_0000, 16],
    ['in MMIO', 0xd000_0000, 4],
    ['the LAPIC', 0xfee0_0000, 4096],
    ['straddling the end of the first region', LOW_BYTES - 8, 9],
    ['straddling the end of RAM', HIGH + HIGH_BYTES - 1, 2],
    ['straddling the beginning of a region', HIGH - 4, 8],
    ['nearly all of 4 GiB', 0, 0xffff_f000],
  ];
  test.each(buffers)('data %s: dropped, in both directions and indirectly', async (_, gpa, length) => {
    for (const writable of [false, true])
      for (const indirect of [false, true]) {
        const kit = await start();
        const { queue, machine } = kit;
        const chain = [
          { gpa: DATA, length: 4, writable: false },
          { gpa, length, writable },
          { gpa: DATA + 64, length: 4, writable: true },
        ];
        const head = indirect ? queue.buildIndirect(TABLE, chain) : queue.build(chain);
        machine.memory.fill(DATA + 64, 4, 0x5a);
        await publish(kit, head);
        expect(machine.memory.readU32(DATA + 64)).toBe(0x5a5a_5a5a);
        await expectDropped(kit, head);
      }
  });

  test('the last byte of a region is RAM', async () => {
    const kit = await start();
    const { device, machine, queue } = kit;
    machine.memory.writeU8(HIGH + HIGH_BYTES - 1, 0x77);
    const head = queue.add([
      { gpa: HIGH + HIGH_BYTES - 1, length: 1 },
      { gpa: LOW_BYTES - 1, length: 1, writable: true },
    ]);
    await machine.settle();
    expect(device.heads).toEqual([head]);
    expect(machine.memory.readU8(LOW_BYTES - 1)).toBe(0x77);
  });

  test('"DROP … counted", without end: a queue full of such chains again and again leaves turns to others', async () => {
    const { machine, queue, device } = await start();
    const head = queue.build([{ gpa: HIGH - 4, length: 8 }]);
    let published = 0;
    // Another vCPU publishes as fast as the device takes: each interrupt is followed by the next chain.
    const back = machine.back;
    for (let turn = 0; turn < 50; turn++) {
      for (let i = 0; i < SIZE; i++, published++) queue.publish(head);
      queue.kick();
      await machine.settle(2);
      while (queue.takeUsed() !== undefined);
    }
    expect(back.report().dropped).toBe(published);
    expect(device.heads).toEqual([]);
    expect(machine.status).toBe(DRIVING);
  });
});

describe('3. "address + length wrapping at 2^64; a high dword that makes a JavaScript number lose precision (> 2^53) → NR"', () => {
  test.each<[string, bigint, number]>([
    ['wraps to 0', 2n ** 64n - 16n, 32],
    ['the last byte there is', 2n ** 64n - 1n, 1],
    ['2^53', 2n ** 53n, 4],
    ['2^53 + 1, which a number takes for 2^53', 2n ** 53n + 1n, 4],
    ['2^63', 2n ** 63n, 4],
    ['RAM plus 2^53', 2n ** 53n + BigInt(DATA), 4],
    ['RAM plus 2^63', 2n ** 63n + BigInt(DATA), 4],
  ])('%s', async (_, gpa, length) => {
    for (const indirect of [false, true]) {
      const kit = await start();
      const chain = [{ gpa, length, writable: true }];
      await publish(kit, indirect ? kit.queue.buildIndirect(TABLE, chain) : kit.queue.build(chain));
      await expectNeedsReset(kit, /a buffer lies beyond the end of the address space/);
    }
  });

  test('just below 2^53: not RAM, so the chain is dropped', async () => {
    const kit = await start();
    const head = kit.queue.build([{ gpa: 2n ** 53n - 1n, length: 0xffff_ffff }]);
    await publish(kit, head);
    await expectDropped(kit, head);
  });

  test('an indirect table beyond 2^53', async () => {
    const kit = await start();
    kit.queue.setDescriptor(0, 2n ** 53n + BigInt(TABLE), 16, INDIRECT);
    await publish(kit, 0);
    await expectNeedsReset(kit, /a buffer lies beyond the end of the address space/);
  });
});

describe('4. "queue size 0, not a power of two, above the maximum; rings unaligned, outside RAM, overlapping → never activated"', () => {
  const good: QueuePlace = { size: SIZE, desc: 0x1000, avail: 0x2000, used: 0x3000 };
  test.each<[string, Partial<QueuePlace>]>([
    ['size 0', { size: 0 }],
    ['size 3', { size: 3 }],
    ['size 6', { size: 6 }],
    ['size above the maximum', { size: 16 }],
    ['size 65536', { size: 0x1_0000 }],
    ['size 2^31', { size: 0x8000_0000 }],
    ['size 2^32 - 1', { size: 0xffff_ffff }],
    ['descriptor table unaligned', { desc: 0x1008 }],
    ['avail ring unaligned', { avail: 0x2001 }],
    ['used ring unaligned', { used: 0x3002 }],
    ['descriptor table outside RAM', { desc: LOW_BYTES }],
    ['descriptor table straddling the end', { desc: LOW_BYTES - 16 * SIZE + 16 }],
    ['avail ring in the hole', { avail: 0xc000_0000 }],
    ['avail ring straddling the end', { avail: HIGH + HIGH_BYTES - 20 }],
    ['used ring in MMIO', { used: 0xd000_0000 }],
    ['used ring straddling the end', { used: LOW_BYTES - 68 }],
    ['2^53', { desc: 2n ** 53n }],
    ['2^64 - 16, which wraps into RAM', { desc: 2n ** 64n - 16n }],
    ['RAM plus 2^63', { used: 2n ** 63n + 0x3000n }],
    ['avail ring over the descriptor table', { avail: 0x1000 + 16 * SIZE - 2 }],
    ['used ring over the descriptor table', { used: 0x1000 }],
    ['used ring over the avail ring', { used: 0x2000 + 4 }],
    ['all three at one address', { avail: 0x1000, used: 0x1000 }],
  ])('%s', async (_, wrong) => {
    const device = new TestDevice({ queueSizes: [SIZE, SIZE] });
    const machine = new MockMachine(device, { memory: ram() });
    machine.negotiate();
    describeQueue(machine, 0, { ...good, ...wrong });
    expect(machine.read(REG.QueueReady)).toBe(0);
    const other = machine.addQueue(1, SIZE);
    machine.driverOk();
    machine.write(REG.QueueNotify, 0);
    await machine.settle();
    expect(device.link?.queue(0)).toBeUndefined();
    expect(device.calls).toEqual(['activate', 'notify 1']);
    await expectWorks({ device, machine }, other);
    // The driver sees that the queue is not ready, and may say it again, rightly, after a reset.
    machine.write(REG.Status, 0);
    await machine.settle();
    machine.negotiate();
    describeQueue(machine, 0, good);
    expect(machine.read(REG.QueueReady)).toBe(1);
  });

  test('parts that touch are as good as parts that do not; so is a queue in the upper region', async () => {
    for (const base of [0, HIGH + HIGH_BYTES - 224]) {
      const device = new TestDevice();
      const machine = new MockMachine(device, { memory: ram() });
      machine.negotiate();
      const queue = machine.addQueue(0, SIZE, base);
      expect(machine.read(REG.QueueReady)).toBe(1);
      machine.driverOk();
      await machine.settle();
      await expectWorks({ device, machine }, queue);
    }
  });

  test.each([
    ['the size', (machine: MockMachine) => machine.state.queues[1]?.QueueNum.set(16)],
    ['the size, to none', (machine: MockMachine) => machine.state.queues[1]?.QueueNum.set(3)],
    ['an address', (machine: MockMachine) => machine.state.queues[1]?.QueueDeviceHigh.set(0xffff_ffff)],
  ])('when another vCPU changes %s after the check: no queue is activated → NR', async (_, change) => {
    const device = new TestDevice({ queueSizes: [SIZE, SIZE] });
    const machine = new MockMachine(device, { memory: ram() });
    machine.negotiate();
    const queue = machine.addQueue(0, SIZE);
    machine.addQueue(1, SIZE);
    change(machine);
    machine.driverOk();
    await machine.settle();
    expect([device.link?.queue(0), device.link?.queue(1)]).toEqual([undefined, undefined]);
    await expectNeedsReset({ device, machine, queue }, /queue 1: /);
  });
});

describe('5. "avail index jumping by more than the size, or backwards → NR"', () => {
  test.each([
    ['by one more than the size', SIZE + 1],
    ['by 32768', 0x8000],
    ['backwards by one', -1],
    ['backwards by the size', -SIZE],
  ])('%s', async (_, jump) => {
    for (const without of [[], [FEATURE.RING_EVENT_IDX]]) {
      const kit = await start(without);
      const { queue, machine } = kit;
      queue.setAvailIndex(queue.availIndex + jump);
      queue.kick();
      await machine.settle();
      await expectNeedsReset(kit, /the avail index is further ahead than the queue is long/);
    }
  });

  test('after work was done, too; what was used before stays used', async () => {
    const kit = await start();
    await expectWorks(kit, kit.queue);
    kit.queue.setAvailIndex(kit.queue.availIndex - 1);
    kit.queue.kick();
    await kit.machine.settle();
    await expectNeedsReset(kit, /the avail index is further ahead/, 1);
  });

  test('by the size exactly is a full ring', async () => {
    const { queue, machine, device } = await start();
    for (let i = 0; i < SIZE; i++) queue.publish(queue.build([{ gpa: DATA, length: 1 }]));
    queue.kick();
    await machine.settle();
    expect(device.heads).toHaveLength(SIZE);
    expect(machine.status).toBe(DRIVING);
  });
});

describe('6. "indirect not negotiated, nested, with NEXT, length 0, not a multiple of 16, > 2^20, table outside RAM → NR or DROP"', () => {
  test.each<[string, (queue: MockQueue) => number, RegExp, readonly number[]]>([
    [
      'not negotiated',
      (queue) => queue.buildIndirect(TABLE, [{ gpa: DATA, length: 4 }]),
      /an indirect descriptor was not negotiated/,
      [FEATURE.RING_INDIRECT_DESC],
    ],
    [
      'nested',
      (queue) => {
        queue.setDescriptor(0, TABLE, 16, INDIRECT);
        writeDescriptor(queue.machine.memory, TABLE, TABLE + 16, 16, INDIRECT, 0);
        return 0;
      },
      /an indirect table is nested/,
      [],
    ],
    [
      'a table that is its own entry',
      (queue) => {
        queue.setDescriptor(0, TABLE, 16, INDIRECT);
        writeDescriptor(queue.machine.memory, TABLE, TABLE, 16, INDIRECT, 0);
        return 0;
      },
      /an indirect table is nested/,
      [],
    ],
    [
      'the descriptor table itself as the table',
      (queue) => (queue.setDescriptor(0, queue.desc, 16 * SIZE, INDIRECT), 0),
      /an indirect table is nested/,
      [],
    ],
    [
      'with NEXT',
      (queue) => (queue.setDescriptor(0, TABLE, 16, INDIRECT | NEXT, 1), 0),
      /an indirect descriptor has the NEXT flag/,
      [],
    ],
    ...([0, 8, 15, 17, 16 * SIZE + 1, 2 ** 20 + 16, 0xffff_fff0] as const).map(
      (length): [string, (queue: MockQueue) => number, RegExp, readonly number[]] => [
        `length ${length}`,
        (queue) => (queue.setDescriptor(0, TABLE, length, INDIRECT), 0),
        /the length of an indirect table is no multiple of 16, is 0 or too large/,
        [],
      ],
    ),
    ...([LOW_BYTES, LOW_BYTES - 8, HIGH - 16, 0xd000_0000, HIGH + HIGH_BYTES - 8] as const).map(
      (gpa): [string, (queue: MockQueue) => number, RegExp, readonly number[]] => [
        `table at 0x${gpa.toString(16)}`,
        (queue) => (queue.setDescriptor(0, gpa, 16, INDIRECT), 0),
        /an indirect table lies outside RAM/,
        [],
      ],
    ),
    [
      'next beyond its table',
      (queue) => {
        queue.setDescriptor(0, TABLE, 32, INDIRECT);
        writeDescriptor(queue.machine.memory, TABLE, DATA, 4, NEXT, 2);
        return 0;
      },
      /an indirect descriptor has an index beyond its table/,
      [],
    ],
  ])('%s', async (_, build, reason, without) => {
    const kit = await start(without);
    await publish(kit, build(kit.queue));
    await expectNeedsReset(kit, reason);
  });

  test('a table of 2^20 bytes may be there, as long as the chain in it is not longer than the queue', async () => {
    const { machine, queue, device } = await start();
    queue.setDescriptor(0, TABLE - 2 ** 20, 2 ** 20, INDIRECT);
    writeDescriptor(machine.memory, TABLE - 2 ** 20, DATA, 4, NEXT, 65535);
    writeDescriptor(machine.memory, TABLE - 16, DATA, 4, WRITE, 0);
    queue.publish(0);
    queue.kick();
    await machine.settle();
    expect(device.heads).toEqual([0]);
    expect(machine.status).toBe(DRIVING);
  });
});

describe('7. "the same head published twice, or 65,535 times; more in flight than the queue holds → bounded, no double completion"', () => {
  test('twice while it is in flight', async () => {
    const kit = await start();
    const { device, queue, machine } = kit;
    device.holds = true;
    const head = queue.build([{ gpa: DATA, length: 4, writable: true }]);
    queue.publish(head);
    queue.publish(head);
    queue.kick();
    await machine.settle();
    expect(device.heads).toEqual([head]);
    device.finish();
    await expectNeedsReset(kit, /a chain that is still in flight was made available again/, 1);
  });

  test('65,535 times, the device being fast: as often as it was published, and no more', async () => {
    const { device, queue, machine } = await start();
    const head = queue.build([{ gpa: DATA, length: 4, writable: true }]);
    let used = 0;
    for (let n = 0; n < 65_535; n++) {
      queue.publish(head);
      if (n % SIZE === SIZE - 1 || n === 65_534) {
        queue.kick();
        machine.doorbells[0]?.ring();
        while (queue.takeUsed() !== undefined) used++;
      }
    }
    expect(used).toBe(65_535);
    expect(device.heads).toHaveLength(65_535);
    expect(queue.usedIndex).toBe(65_535);
    expect(machine.status).toBe(DRIVING);
  });

  test('65,535 times, the device being slow: once', async () => {
    const kit = await start();
    const { device, queue, machine } = kit;
    device.holds = true;
    const head = queue.build([{ gpa: DATA, length: 4, writable: true }]);
    for (let n = 0; n < 65_535; n++) {
      queue.publish(head);
      if (n % SIZE === 0) {
        queue.kick();
        machine.doorbells[0]?.ring();
      }
    }
    expect(device.heads).toEqual([head]);
    device.finish();
    expect(queue.usedIndex).toBe(0);
    await expectNeedsReset(kit, /a chain that is still in flight was made available again/, 1);
  });

  test('as many in flight as the queue holds, then one more', async () => {
    const kit = await start();
    const { device, queue, machine } = kit;
    device.holds = true;
    for (let head = 0; head < SIZE; head++) {
      queue.setDescriptor(head, DATA, 4, WRITE);
      queue.publish(head);
    }
    queue.kick();
    await machine.settle();
    expect(device.held).toHaveLength(SIZE);
    queue.publish(3);
    queue.kick();
    await machine.settle();
    expect(device.held).toHaveLength(SIZE);
    device.finish();
    await expectNeedsReset(kit, /a chain that is still in flight/, SIZE);
  });

  test("a head that is in the middle of a chain in flight is the driver's own affair: each id completes once", async () => {
    const { device, queue, machine } = await start();
    device.holds = true;
    const head = queue.build([
      { gpa: DATA, length: 4 },
      { gpa: DATA + 64, length: 4, writable: true },
    ]);
    queue.publish(head);
    queue.publish(machine.memory.readU16(queue.desc + 16 * head + 14));
    queue.kick();
    await machine.settle();
    device.finish();
    expect(new Set([queue.takeUsed()?.id, queue.takeUsed()?.id]).size).toBe(2);
    expect(queue.takeUsed()).toBeUndefined();
  });
});

describe('9. "readable after writable; zero-length buffers; total length above 2^32 → DROP or NR, as the specification says"', () => {
  test('readable after writable', async () => {
    for (const indirect of [false, true]) {
      const kit = await start();
      const chain = [
        { gpa: DATA, length: 4, writable: true },
        { gpa: DATA + 64, length: 4 },
      ];
      await publish(kit, indirect ? kit.queue.buildIndirect(TABLE, chain) : kit.queue.build(chain));
      await expectNeedsReset(kit, /a device-readable buffer follows a device-writable one/);
    }
  });

  test.each([
    ['the writable one has no bytes', [DATA, 0], [DATA + 64, 4]],
    ['the readable one has no bytes', [DATA, 4], [DATA + 64, 0]],
    ['the writable one is not in RAM', [0xd000_0000, 4], [DATA + 64, 4]],
    ['the readable one is not in RAM', [DATA, 4], [0xd000_0000, 4]],
  ] as const)('readable after writable, where %s', async (_, [writable, longer], [gpa, length]) => {
    const kit = await start();
    await publish(
      kit,
      kit.queue.build([
        { gpa: writable, length: longer, writable: true },
        { gpa, length },
      ]),
    );
    await expectNeedsReset(kit, /a device-readable buffer follows a device-writable one/);
  });

  test('"The driver MUST NOT add a descriptor chain longer than 2^32 bytes in total"', async () => {
    const kit = await start();
    const half = { gpa: DATA, length: 0x8000_0000 };
    await publish(kit, kit.queue.build([half, half, { gpa: DATA, length: 1 }]));
    await expectNeedsReset(kit, /a chain has more than 2\^32 bytes/);
    const { queue } = kit;
    expect(queue.size).toBe(SIZE);
    // 2^32 exactly may be; these are not in RAM.
    const second = await start();
    const head = second.queue.build([half, half]);
    await publish(second, head);
    await expectDropped(second, head);
  });

  test('overlapping buffers of as many bytes as RAM has, several times', async () => {
    const { device, queue, machine } = await start();
    const all = { gpa: HIGH, length: HIGH_BYTES };
    const sums: number[] = [];
    device.holds = true;
    device.onChain = (chain) => sums.push(chain.readable.bytes);
    queue.add(Array.from({ length: SIZE }, () => all));
    await machine.settle();
    expect(sums).toEqual([SIZE * HIGH_BYTES]);
  });

  test('only zero-length buffers: a chain without bytes, wherever they point', async () => {
    const { device, queue, machine } = await start();
    const seen: number[] = [];
    device.onChain = ({ readable, writable }) => seen.push(readable.bytes, writable.bytes);
    queue.add([
      { gpa: 0xd000_0000, length: 0 },
      { gpa: HIGH + HIGH_BYTES, length: 0, writable: true },
    ]);
    await machine.settle();
    expect(seen).toEqual([0, 0]);
    expect(queue.takeUsed()?.length).toBe(0);
  });
});

describe('11. "EVENT_IDX values far away; a used ring laid over the descriptor table or the guest\'s page tables → the guest harms itself only"', () => {
  test('used_event far away: no interrupt, and the work is done', async () => {
    for (const event of [100, 0x7fff, 0x8000, 0xfff0]) {
      const { device, queue, machine } = await start();
      for (let n = 0; n < 3; n++) {
        queue.publish(queue.build([{ gpa: DATA, length: 1 }]));
        machine.memory.writeU16(queue.avail + 4 + 2 * SIZE, event);
        queue.kick();
        await machine.settle();
      }
      expect(machine.interrupts).toBe(0);
      expect(device.heads).toHaveLength(3);
      expect(queue.usedIndex).toBe(3);
    }
  });

  test('avail_event that the guest writes is never read', async () => {
    const { queue, machine, device } = await start();
    for (const value of [0, 0x7fff, 0xffff]) {
      machine.memory.writeU16(queue.used + 4 + 8 * SIZE, value);
      queue.add([{ gpa: DATA, length: 1 }]);
      await machine.settle();
    }
    expect(device.heads).toHaveLength(3);
    expect(queue.availEvent).toBe(3);
  });

  test('a used ring over the descriptor table is refused (case 4); one over other structures writes only its own bytes', async () => {
    const { device, queue, machine } = await start();
    // Somebody else's structures all around the used ring, as page tables would be.
    const end = queue.used + 6 + 8 * SIZE;
    machine.memory.fill(end, 4096, 0xe7);
    const before = machine.memory.read(0, queue.desc);
    for (let n = 0; n < 100; n++) {
      queue.add([{ gpa: DATA, length: 1 }]);
      await machine.settle(2);
      queue.takeUsed();
    }
    expect(device.heads).toHaveLength(100);
    expect(machine.memory.read(end, 4096).every((byte) => byte === 0xe7)).toBe(true);
    expect(Buffer.compare(machine.memory.read(0, queue.desc), before)).toBe(0);
  });

  test('a data buffer over the rings themselves: what happens then, happens to this device alone', async () => {
    const { device, queue, machine } = await start();
    machine.memory.fill(DATA, 4096, 0xff);
    for (let n = 0; n < 4; n++) {
      queue.add([
        { gpa: DATA, length: 4096 },
        { gpa: queue.desc, length: queue.used + 70 - queue.desc, writable: true },
      ]);
      await machine.settle();
    }
    expect(device.heads.length).toBeGreaterThanOrEqual(1);
    expect(machine.status & STATUS.DEVICE_NEEDS_RESET).toBe(STATUS.DEVICE_NEEDS_RESET);
    machine.write(REG.Status, 0);
    await machine.settle();
    const [fresh] = (await machine.start()) as [MockQueue];
    await expectWorks({ device, machine }, fresh);
  });
});
