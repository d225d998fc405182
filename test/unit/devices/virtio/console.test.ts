// The console, driven by a driver that plays by the rules: configuration, output in pieces, input in any buffers.
// VIRTIO 1.2 §5.3.
import { describe, expect, test } from 'vitest';
import { FEATURE, INTERRUPT } from '../../../../src/devices/virtio/abi.js';
import { CONSOLE_FEATURE, VirtioConsole } from '../../../../src/devices/virtio/console.js';
import { ConsoleRig } from '../../../support/console-rig.js';
import { REG } from '../../../support/virtqueue-driver.js';

const KIB = 1 << 10;
/** Every byte there is, twice, and what is no UTF-8 or cut in the middle of it. */
const AWKWARD = Buffer.from([
  ...Array.from({ length: 512 }, (_, i) => i & 0xff),
  ...Buffer.from('\x1b[2J\x1b]0;title\x07\0\r\n\n'),
  0xc3,
  0x28,
  0xe2,
  0x82,
  0xf0,
  0x9f,
  0x98,
]);
const pattern = (length: number): Uint8Array => Uint8Array.from({ length }, (_, i) => (i * 31 + (i >> 8)) & 0xff);

describe('configuration', () => {
  test('a device 3 with a receiveq, a transmitq and the SIZE feature, and no other of its own', async () => {
    const { machine, device } = await ConsoleRig.start();
    expect(machine.read(REG.DeviceID)).toBe(3);
    expect(device.offer.queueSizes).toHaveLength(2);
    expect(machine.offered() & 0xff_ffffn).toBe(1n << BigInt(CONSOLE_FEATURE.SIZE));
    await machine.close();
  });

  test('"If the VIRTIO_CONSOLE_F_SIZE feature is negotiated, the driver can read the console dimensions from cols and rows"', async () => {
    const rig = await ConsoleRig.start();
    const { machine, device } = rig;
    const size = (): number[] => [machine.read(REG.Config, 2), machine.read(REG.Config + 2, 2)];
    expect(size()).toEqual([80, 25]);
    const before = machine.read(REG.ConfigGeneration);
    machine.write(REG.InterruptACK, machine.read(REG.InterruptStatus));
    const { interrupts } = machine;
    device.resize(300, 65535);
    expect(size()).toEqual([300, 65535]);
    // max_nr_ports and the rest stay.
    expect(machine.read(REG.Config + 4)).toBe(1);
    expect(machine.read(REG.ConfigGeneration)).not.toBe(before);
    expect(machine.read(REG.InterruptStatus)).toBe(INTERRUPT.CONFIGURATION_CHANGE);
    expect(machine.interrupts).toBe(interrupts + 1);
    await rig.close();
  });

  test('a size that is set before the driver is there interrupts nobody, and is there when it comes', async () => {
    const rig = await ConsoleRig.start();
    const { machine, device } = rig;
    machine.write(REG.Status, 0);
    await rig.settle();
    const { interrupts } = machine;
    device.resize(132, 43);
    expect(machine.interrupts).toBe(interrupts);
    expect(machine.read(REG.Config)).toBe((43 << 16) | 132);
    await rig.close();
  });

  test.each([
    [0, 24],
    [80, 0],
    [65536, 24],
    [80, -1],
    [80.5, 24],
    [Number.NaN, 24],
  ])('%d by %d is no size', (columns, rows) => {
    const sentence = `a terminal has 1 to 65535 columns and rows, not ${columns} by ${rows}`;
    expect(() => new VirtioConsole({ columns, rows })).toThrow(new RangeError(sentence));
    expect(() => new VirtioConsole().resize(columns, rows)).toThrow(new RangeError(sentence));
  });
});

describe('output', () => {
  test('"escapes, NUL, invalid or split UTF-8 → byte-exact", however the driver splits them', async () => {
    const rig = await ConsoleRig.start();
    rig.print(AWKWARD);
    rig.print(AWKWARD, [1, 2, 511, 3]);
    await rig.settle();
    expect(rig.output.equals(Buffer.concat([AWKWARD, AWKWARD]))).toBe(true);
    expect(rig.takePrinted()).toEqual([0, 0]);
    expect(rig.machine.warnings).toEqual([]);
    expect(rig.machine.back.report().counters).toEqual({ bytesOut: 2 * AWKWARD.length, bytesIn: 0 });
    await rig.close();
  });

  test('through an indirect table', async () => {
    const rig = await ConsoleRig.start();
    rig.machine.memory.write(0x40_0000, Buffer.from('hello, world'));
    const head = rig.transmitting.buildIndirect(0x30_0000, [
      { gpa: 0x40_0007, length: 5 },
      { gpa: 0x40_0000, length: 7 },
    ]);
    rig.transmitting.publish(head);
    rig.transmitting.kick();
    await rig.settle();
    expect(rig.output.toString()).toBe('worldhello, ');
    await rig.close();
  });

  test('a large write comes in few events, and many small ones in one', async () => {
    const rig = await ConsoleRig.start();
    const large = pattern(256 * KIB);
    rig.print(large);
    await rig.settle();
    expect(rig.pieces).toHaveLength(4);
    expect(rig.output.equals(large)).toBe(true);
    rig.pieces.length = 0;
    rig.takePrinted();
    for (let i = 0; i < 64; i++) rig.print(Uint8Array.of(i), [], false);
    rig.transmitting.kick();
    await rig.settle();
    expect(rig.pieces).toEqual([Uint8Array.from({ length: 64 }, (_, i) => i)]);
    await rig.close();
  });

  test('the event has its own copy: the guest may use its buffer again at once', async () => {
    const rig = await ConsoleRig.start();
    rig.print('first');
    await rig.settle();
    rig.machine.memory.fill(0x40_0000, 64);
    rig.print('second');
    await rig.settle();
    expect(rig.pieces.map((piece) => Buffer.from(piece).toString())).toEqual(['first', 'second']);
    await rig.close();
  });

  test('the driver has its buffer back before the bytes are looked at, because Linux spins for it', async () => {
    const rig = await ConsoleRig.start({ collects: false });
    let returned = -1;
    rig.device.onOutput(() => (returned = rig.transmitting.usedIndex));
    rig.print('x');
    await rig.settle();
    expect(returned).toBe(1);
    await rig.close();
  });

  test.each([true, false])('while it is paused buffers stay with the device; EVENT_IDX: %s', async (eventIdx) => {
    const rig = await ConsoleRig.start({ without: eventIdx ? [] : [FEATURE.RING_EVENT_IDX] });
    rig.device.pause();
    for (let i = 0; i < 64; i++) rig.print(pattern(100 + i));
    await rig.settle();
    expect([rig.pieces.length, rig.transmitting.usedIndex, rig.device.drain()]).toEqual([0, 0, 0]);
    rig.device.resume();
    expect(rig.takePrinted()).toHaveLength(64);
    expect(rig.output).toHaveLength(64 * 100 + (64 * 63) / 2);
    rig.print('and on');
    await rig.settle();
    expect(rig.output.toString().endsWith('and on')).toBe(true);
    await rig.close();
  });

  test('a taker that pauses in the middle of a chain gets the rest later, nothing twice', async () => {
    const rig = await ConsoleRig.start({ collects: false });
    const large = pattern(200 * KIB);
    rig.device.onOutput((bytes) => {
      rig.pieces.push(bytes);
      rig.device.pause();
    });
    rig.print(large);
    for (let events = 1; events <= 4; events++) {
      await rig.settle();
      expect(rig.pieces).toHaveLength(events);
      expect(rig.transmitting.usedIndex).toBe(events === 4 ? 1 : 0);
      rig.device.resume();
    }
    expect(rig.output.equals(large)).toBe(true);
    await rig.close();
  });
});

test('a reset while it is paused forgets what was printed before, and the device works again', async () => {
  const rig = await ConsoleRig.start();
  rig.device.pause();
  rig.print('before');
  rig.machine.write(REG.Status, 0);
  await rig.settle();
  expect(rig.machine.status).toBe(0);
  rig.device.resume();
  const [, transmitting] = await rig.machine.start();
  rig.machine.memory.write(0x40_0000, Buffer.from('after'));
  transmitting?.add([{ gpa: 0x40_0000, length: 5 }]);
  await rig.settle();
  expect(rig.output.toString()).toBe('after');
  await rig.close();
});

describe('input', () => {
  test('byte-exact into buffers of any length', async () => {
    const rig = await ConsoleRig.start();
    for (const length of [1, 3, 500, 4096]) rig.offer(length);
    await rig.settle();
    expect(rig.device.write(AWKWARD)).toBe(AWKWARD.length);
    const inputs = rig.takeInput();
    expect(inputs.map(({ length }) => length)).toEqual([1, 3, 500, AWKWARD.length - 504]);
    expect(Buffer.concat(inputs).equals(AWKWARD)).toBe(true);
    expect(rig.machine.read(REG.InterruptStatus) & INTERRUPT.USED_BUFFER).toBe(INTERRUPT.USED_BUFFER);
    await rig.close();
  });

  test('what does not fit is refused, and asked for when the driver gives buffers again', async () => {
    const rig = await ConsoleRig.start();
    let asked = 0;
    rig.device.onWritable(() => asked++);
    rig.offer(4);
    await rig.settle();
    expect(asked).toBe(0);
    expect(rig.device.write(Buffer.from('abcdef'))).toBe(4);
    expect(rig.device.write(Buffer.from('ef'))).toBe(0);
    await rig.settle();
    expect(asked).toBe(0);
    rig.offer(16);
    await rig.settle();
    expect(asked).toBe(1);
    expect(rig.device.write(Buffer.from('ef'))).toBe(2);
    rig.offer(16);
    await rig.settle();
    expect(asked).toBe(1);
    expect(rig.takeInput().join('')).toBe('abcdef');
    await rig.close();
  });

  test('what is written before there is a driver, or while it is reset, waits for it', async () => {
    expect(new VirtioConsole().write(Buffer.from('early'))).toBe(0);
    const rig = await ConsoleRig.start();
    rig.machine.write(REG.Status, 0);
    await rig.settle();
    let asked = 0;
    rig.device.onWritable(() => asked++);
    expect(rig.device.write(Buffer.from('early'))).toBe(0);
    const [receiving] = await rig.machine.start();
    expect(asked).toBe(1);
    expect(rig.device.write(Buffer.from('early'))).toBe(0);
    receiving?.add([{ gpa: 0xc0_0000, length: 64, writable: true }]);
    await rig.settle();
    expect(asked).toBe(2);
    expect(rig.device.write(Buffer.from('early'))).toBe(5);
    expect(Buffer.from(rig.machine.memory.read(0xc0_0000, 5)).toString()).toBe('early');
    await rig.close();
  });
});

describe('the end', () => {
  test('close delivers what is left, though its taker is behind, and nothing after it', async () => {
    const rig = await ConsoleRig.start({ collects: false });
    rig.device.onOutput((bytes) => {
      rig.pieces.push(bytes);
      rig.device.pause();
    });
    rig.device.pause();
    const last = pattern(300 * KIB);
    rig.print(last);
    rig.print('the end');
    await rig.settle();
    rig.device.close();
    expect(rig.output.equals(Buffer.concat([last, Buffer.from('the end')]))).toBe(true);
    expect(rig.device.lostBytes).toBe(0);
    rig.print('after it');
    await rig.settle();
    rig.device.resume();
    expect([rig.device.drain(), rig.device.write(Buffer.from('x'))]).toEqual([0, 0]);
    await rig.close();
    expect(rig.output).toHaveLength(300 * KIB + 7);
  });
});
