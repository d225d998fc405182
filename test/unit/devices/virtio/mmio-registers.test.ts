// The registers of a virtio-mmio device: every row, and every offset with every width in both directions.
// VIRTIO 1.2 §4.2.2, Table 4.1; hostile cases 12 and 13.
import { describe, expect, test } from 'vitest';
import { Bus } from '../../../../src/devices/bus.js';
import { FEATURE, STATUS } from '../../../../src/devices/virtio/abi.js';
import { MMIO_BYTES } from '../../../../src/devices/virtio/mmio-front.js';
import { TestDevice } from '../../../support/test-device.js';
import { DRIVING, MockMachine, REG } from '../../../support/virtqueue-driver.js';

const CONFIG = Uint8Array.from([0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99]);

function machineWith(queueSizes = [8, 64]): MockMachine {
  return new MockMachine(new TestDevice({ deviceId: 2, features: [0, 5, 37], queueSizes, config: CONFIG }));
}

const hex = (value: number): string => `0x${value.toString(16)}`;

/** Every field of the device, by name. */
function fields(machine: MockMachine): Readonly<Record<string, number>> {
  return Object.fromEntries(
    machine.registers.fields.map(({ device, name, field }) => [`${device}.${name}`, field.get()]),
  );
}

/** Set up as far as it goes before DRIVER_OK, so that as much as possible can be written. */
function settingUp(): MockMachine {
  const machine = machineWith();
  machine.negotiate();
  machine.write(REG.QueueSel, 1);
  return machine;
}

/** Rows that a read answers, with what a fresh device says. */
const READABLE: readonly (readonly [offset: number, value: number, name: string])[] = [
  [0x000, 0x7472_6976, 'MagicValue'],
  [0x004, 2, 'Version'],
  [0x008, 2, 'DeviceID'],
  [0x00c, 0x5253_564d, 'VendorID'],
  [
    0x010,
    ((1 << 0) | (1 << 5) | (1 << FEATURE.RING_INDIRECT_DESC) | (1 << FEATURE.RING_EVENT_IDX)) >>> 0,
    'DeviceFeatures',
  ],
  [0x034, 8, 'QueueNumMax'],
  [0x044, 0, 'QueueReady'],
  [0x060, 0, 'InterruptStatus'],
  [0x070, 0, 'Status'],
  [0x0b0, 0xffff_ffff, 'SHMLenLow'],
  [0x0b4, 0xffff_ffff, 'SHMLenHigh'],
  [0x0b8, 0xffff_ffff, 'SHMBaseLow'],
  [0x0bc, 0xffff_ffff, 'SHMBaseHigh'],
  [0x0fc, 0, 'ConfigGeneration'],
];

/** Rows that a write changes something in, and what it changes between FEATURES_OK and DRIVER_OK. */
const WRITABLE: Readonly<Record<number, readonly string[]>> = {
  [REG.DeviceFeaturesSel]: ['test0.DeviceFeaturesSel'],
  [REG.DriverFeatures]: [],
  [REG.DriverFeaturesSel]: ['test0.DriverFeaturesSel'],
  [REG.QueueSel]: ['test0.QueueSel'],
  [REG.QueueNum]: ['test0.queue1.QueueNum'],
  [REG.QueueReady]: [],
  [REG.QueueNotify]: [],
  [REG.InterruptACK]: [],
  [REG.Status]: [],
  [REG.QueueDescLow]: ['test0.queue1.QueueDescLow'],
  [REG.QueueDescHigh]: ['test0.queue1.QueueDescHigh'],
  [REG.QueueDriverLow]: ['test0.queue1.QueueDriverLow'],
  [REG.QueueDriverHigh]: ['test0.queue1.QueueDriverHigh'],
  [REG.QueueDeviceLow]: ['test0.queue1.QueueDeviceLow'],
  [REG.QueueDeviceHigh]: ['test0.queue1.QueueDeviceHigh'],
};

const WIDTHS = [1, 2, 4] as const;
const OFFSETS = Array.from({ length: MMIO_BYTES }, (_, offset) => offset);

describe('virtio-mmio registers', () => {
  test.each(READABLE.map(([offset, value, name]) => ({ at: hex(offset), offset, value, name })))(
    '$name at $at',
    ({ offset, value, name }) => {
      const machine = machineWith();
      expect(machine.read(offset)).toBe(value);
      expect(machine.front.registerName(offset, false)).toBe(name);
    },
  );

  test('features come in halves; "DeviceFeaturesSel … Otherwise" there are none', () => {
    const machine = machineWith();
    for (const [half, value] of [
      [1, (1 << (37 - 32)) | (1 << (FEATURE.VERSION_1 - 32))],
      [2, 0],
      [0xffff_ffff, 0],
    ] as const) {
      machine.write(REG.DeviceFeaturesSel, half);
      expect(machine.read(REG.DeviceFeatures)).toBe(value);
    }
  });

  test('"QueueNumMax … zero (0x0) if the queue is not available"', () => {
    const machine = machineWith();
    for (const [queue, max] of [
      [0, 8],
      [1, 64],
      [2, 0],
      [0x8000_0000, 0],
      [0xffff_ffff, 0],
    ] as const) {
      machine.write(REG.QueueSel, queue);
      expect(machine.read(REG.QueueNumMax)).toBe(max);
      expect(machine.read(REG.QueueReady)).toBe(0);
      machine.write(REG.QueueReady, 1);
      machine.write(REG.QueueReady, 0);
    }
  });

  test('12. every offset, read with 1, 2 and 4 bytes: a register as a whole and aligned, else 0', () => {
    const machine = machineWith();
    const rows = new Map(READABLE.map(([offset, value]) => [offset, value]));
    const before = fields(machine);
    const wrong: string[] = [];
    for (const offset of OFFSETS)
      for (const width of WIDTHS) {
        const config = Array.from(
          { length: width },
          (_, i) => BigInt(CONFIG[offset - 0x100 + i] ?? 0) << BigInt(8 * i),
        );
        const expected =
          offset >= 0x100 ? Number(config.reduce((a, b) => a | b)) : width === 4 ? (rows.get(offset) ?? 0) : 0;
        if (machine.read(offset, width) !== expected) wrong.push(`${width} bytes at ${hex(offset)}`);
      }
    expect(wrong).toEqual([]);
    expect(fields(machine)).toEqual(before);
  });

  test.each(['ffffffff', '1', '0', '5a5a5a5a'])(
    '12 and 13. every offset, written 0x%s with 1, 2 and 4 bytes: only a register as a whole and aligned changes',
    async (digits) => {
      const value = Number.parseInt(digits, 16);
      let machine = settingUp();
      const rung = [0, 0];
      const replace = (): void => {
        for (const [i, bell] of machine.doorbells.entries()) rung[i] = (rung[i] ?? 0) + bell.signals;
        machine = settingUp();
      };
      for (const offset of OFFSETS)
        for (const width of WIDTHS) {
          const before = fields(machine);
          machine.write(offset, value, width);
          const after = fields(machine);
          const changed = Object.keys(after).filter((name) => after[name] !== before[name]);
          const isRegister = width === 4 && offset in WRITABLE;
          const allowed = isRegister ? (WRITABLE[offset] ?? []) : [];
          // Status := 0 is a reset, 0xffffffff and 1 are not taken, 0x5a has only bits that change nothing or are refused.
          const isReset = isRegister && offset === REG.Status && value === 0;
          const where = `${width} bytes at ${hex(offset)}`;
          if (isReset) expect(after['test0.Status'], where).toBe(0);
          else if (changed.length > 0) expect(allowed, where).toEqual(expect.arrayContaining(changed));
          if (changed.length > 0) replace();
        }
      for (const [i, byte] of CONFIG.entries()) expect(machine.read(0x100 + i, 1)).toBe(byte);
      replace();
      expect(rung).toEqual([value === 0 ? 1 : 0, value === 1 ? 1 : 0]);
      await machine.settle();
      expect(machine.back.report().chains).toBe(0);
    },
  );

  test('12. 8 bytes are two registers, and an access across the end of the window is one of bytes', () => {
    const machine = machineWith();
    const bus = Bus.mmio();
    bus.attach(0xd000_0000, MMIO_BYTES, machine.front);
    bus.attach(0xd000_1000, MMIO_BYTES, machineWith().front);
    expect(bus.read(0xd000_0ffe, 4)).toBe(0);
    bus.write(0xd000_0ffe, 4, 0xffff_ffff);
    expect(bus.read(0xd000_0000 + REG.QueueDescLow, 4)).toBe(0);
  });

  test('13. "configuration space beyond its end", and with a device that has none', () => {
    const machine = machineWith();
    expect(machine.read(0x108, 4)).toBe(0x99);
    expect(machine.read(0x107, 2)).toBe(0x9988);
    expect(machine.read(0x109, 1)).toBe(0);
    for (const width of WIDTHS) machine.write(0x100, 0xffff_ffff, width);
    expect(machine.read(0x100, 4)).toBe(0x4433_2211);
    const bare = new MockMachine(new TestDevice());
    expect(bare.read(0x100, 4)).toBe(0);
    expect(bare.read(0xffc, 4)).toBe(0);
  });

  test('InterruptACK clears the bits that it names and no other', async () => {
    const machine = machineWith();
    await machine.start();
    machine.state.fields.InterruptStatus.set(3);
    machine.write(REG.InterruptACK, 2);
    expect(machine.read(REG.InterruptStatus)).toBe(1);
    machine.write(REG.InterruptACK, 0xffff_fffc);
    expect(machine.read(REG.InterruptStatus)).toBe(1);
    machine.write(REG.InterruptACK, 1);
    expect(machine.read(REG.InterruptStatus)).toBe(0);
  });

  test('QueueNotify rings for the queues that there are, and for no other', async () => {
    const machine = machineWith();
    for (const queue of [0, 1, 2, 3, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff]) machine.write(REG.QueueNotify, queue);
    expect(machine.doorbells.map((bell) => bell.signals)).toEqual([1, 1]);
    await machine.settle();
    expect((machine.back.device as TestDevice).calls).toEqual([]);
  });

  test('14. "queue registers written after DRIVER_OK → IGN"; before FEATURES_OK, too', async () => {
    const names = [REG.QueueNum, 0x80, 0x84, 0x90, 0x94, 0xa0, 0xa4];
    const machine = machineWith();
    const writeAll = (): void => {
      for (const queue of [0, 1]) {
        machine.write(REG.QueueSel, queue);
        for (const register of names) machine.write(register, 4);
        machine.write(REG.QueueReady, 1);
      }
    };
    const queueFields = (): unknown => machine.state.queues.map((queue) => Object.values(queue).map((it) => it.get()));
    const zero = queueFields();
    writeAll();
    machine.write(REG.Status, STATUS.ACKNOWLEDGE);
    writeAll();
    machine.write(REG.Status, STATUS.ACKNOWLEDGE | STATUS.DRIVER);
    writeAll();
    expect(queueFields()).toEqual(zero);
    await machine.start();
    const started = queueFields();
    writeAll();
    expect(queueFields()).toEqual(started);
    // One that was withdrawn stays so: without VIRTIO_F_RING_RESET only a reset brings it back.
    machine.write(REG.QueueSel, 0);
    machine.write(REG.QueueReady, 0);
    await machine.settle();
    writeAll();
    machine.write(REG.QueueSel, 0);
    expect(machine.read(REG.QueueReady)).toBe(0);
    machine.write(REG.Status, DRIVING | STATUS.FAILED);
    writeAll();
    expect(machine.read(REG.QueueReady)).toBe(1);
  });

  test('14. the registers of a queue that is ready do not change before DRIVER_OK either', () => {
    const machine = machineWith();
    machine.negotiate();
    const queue = machine.addQueue(0, 8);
    machine.write(REG.QueueNum, 4);
    machine.write(REG.QueueDescLow, 0x1000);
    const [fieldsOfQueue] = machine.state.queues;
    expect(fieldsOfQueue?.QueueNum.get()).toBe(8);
    expect(fieldsOfQueue?.QueueDescLow.get()).toBe(queue.desc);
    // "QueueReady … 2" is neither of the two values that it has.
    machine.write(REG.QueueReady, 2);
    expect(machine.read(REG.QueueReady)).toBe(1);
    machine.write(REG.QueueReady, 0);
    machine.write(REG.QueueNum, 4);
    expect(fieldsOfQueue?.QueueNum.get()).toBe(4);
  });
});
