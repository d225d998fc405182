// The console device with the mock driver: bytes both ways, back-pressure, size, and what a hostile guest sends.
// VIRTIO 1.2 §5.3; hostile cases 25 to 27.
import { afterEach, describe, expect, it } from 'vitest';
import { VirtioConsole } from '../../../../src/devices/virtio/console.js';
import { MockMachine, REG, type MockQueue } from '../../../support/virtqueue-driver.js';

const BUFFERS = 0x40_0000;

let machine: MockMachine;
afterEach(async () => machine.close());

async function start(device = new VirtioConsole()) {
  machine = new MockMachine(device);
  const chunks: Uint8Array[] = [];
  device.onOutput((bytes) => chunks.push(bytes));
  const [receive, transmit] = (await machine.start()) as [MockQueue, MockQueue];
  return { device, receive, transmit, output: () => Buffer.concat(chunks) };
}

describe('console output', () => {
  it('27: "escapes, NUL, invalid or split UTF-8 → byte-exact"', async () => {
    const { transmit, output } = await start();
    const bytes = Uint8Array.from({ length: 600 }, (_, i) => i);
    machine.memory.write(BUFFERS, bytes);
    // Cut in the middle of everything.
    transmit.add([
      { gpa: BUFFERS, length: 1 },
      { gpa: BUFFERS + 1, length: 298 },
    ]);
    transmit.add([{ gpa: BUFFERS + 299, length: 301 }]);
    await machine.settle();
    expect(output()).toEqual(Buffer.from(bytes));
    expect([transmit.takeUsed()?.length, transmit.takeUsed()?.length]).toEqual([0, 0]);
  });

  it('25: while nobody takes the output, buffers stay with the device and nothing is held in memory', async () => {
    const { device, transmit, output } = await start();
    device.pause();
    for (let i = 0; i < 10; i++) transmit.add([{ gpa: BUFFERS, length: 100 }]);
    await machine.settle();
    expect(output()).toHaveLength(0);
    expect(transmit.usedIndex).toBe(0);
    device.resume();
    await machine.settle();
    expect(output()).toHaveLength(1000);
    expect(transmit.usedIndex).toBe(10);
  });

  it('a pause in the middle of a chain keeps the rest for later', async () => {
    const { device, transmit } = await start();
    let taken = 0;
    device.onOutput((bytes) => {
      taken += bytes.length;
      device.pause();
    });
    transmit.add(Array.from({ length: 4 }, (_, i) => ({ gpa: BUFFERS + i * 0x1_0000, length: 0x1_0000 })));
    await machine.settle();
    expect(taken).toBe(0x1_0000);
    expect(transmit.usedIndex).toBe(0);
    for (let i = 0; i < 3; i++) device.resume();
    await machine.settle();
    expect(taken).toBe(0x4_0000);
    expect(transmit.usedIndex).toBe(1);
  });

  it('a reset in the middle of a chain forgets it, and the device works again', async () => {
    const { device, transmit } = await start();
    device.pause();
    transmit.add([{ gpa: BUFFERS, length: 10 }]);
    machine.write(REG.Status, 0);
    await machine.settle();
    expect(machine.status).toBe(0);
    device.resume();
    const again: Uint8Array[] = [];
    device.onOutput((bytes) => again.push(bytes));
    const [, second] = await machine.start();
    second?.add([{ gpa: BUFFERS, length: 3 }]);
    await machine.settle();
    expect(Buffer.concat(again)).toHaveLength(3);
  });

  it('what is left when the machine ends is delivered, and what is beyond the limit is counted', async () => {
    const { device, transmit, output } = await start();
    device.pause();
    // One chain that names the same 8 MiB three times.
    transmit.add(Array.from({ length: 3 }, () => ({ gpa: BUFFERS, length: 8 << 20 })));
    await machine.settle();
    device.close();
    expect(output()).toHaveLength(16 << 20);
    expect(device.lostBytes).toBe(8 << 20);
  });
});

describe('console input', () => {
  it('26: "1 GiB of input with the guest not reading → back-pressure"', async () => {
    const { device, receive } = await start();
    let room = 0;
    device.onWritable(() => room++);
    expect(device.write(new Uint8Array(100))).toBe(0);
    receive.add([{ gpa: BUFFERS, length: 60, writable: true }]);
    await machine.settle();
    expect(room).toBe(1);
    expect(device.write(Uint8Array.from({ length: 100 }, (_, i) => i))).toBe(60);
    expect(receive.takeUsed()?.length).toBe(60);
    expect(machine.memory.read(BUFFERS, 60)).toEqual(Uint8Array.from({ length: 60 }, (_, i) => i));
  });

  it('before the driver is there nothing is accepted', async () => {
    const device = new VirtioConsole();
    machine = new MockMachine(device);
    expect(device.write(Uint8Array.of(1))).toBe(0);
  });
});

describe('console size', () => {
  it('"cols, rows": in the configuration space, with a configuration change notification', async () => {
    const { device } = await start(new VirtioConsole({ columns: 100, rows: 30 }));
    expect([machine.read(REG.Config, 2), machine.read(REG.Config + 2, 2)]).toEqual([100, 30]);
    const generation = machine.read(REG.ConfigGeneration);
    device.resize(132, 43);
    expect([machine.read(REG.Config, 2), machine.read(REG.Config + 2, 2)]).toEqual([132, 43]);
    expect(machine.read(REG.ConfigGeneration)).not.toBe(generation);
    expect(machine.read(REG.InterruptStatus) & 2).toBe(2);
  });

  it.each([
    [0, 24],
    [80, 65_536],
    [80.5, 24],
  ])('refuses %f by %f', async (columns, rows) => {
    const { device } = await start();
    expect(() => device.resize(columns, rows)).toThrow(/a terminal has 1 to 65535 columns and rows/);
  });
});
