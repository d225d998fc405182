// The console with a driver that does not play by the rules, a reader that stops and a guest that does not read.
// Hostile cases 1, 2, 10, 16 and 25 to 27; NR is DEVICE_NEEDS_RESET, and it works after the reset.
import { createHash, randomBytes } from 'node:crypto';
import { describe, expect, test } from 'vitest';
import { DESC, STATUS } from '../../../../src/devices/virtio/abi.js';
import { VirtioConsole } from '../../../../src/devices/virtio/console.js';
import type { Virtqueue } from '../../../../src/devices/virtio/device.js';
import { SerialInput, SerialOutput } from '../../../../src/machine/serial-streams.js';
import { ConsoleRig } from '../../../support/console-rig.js';
import { memoryInUse } from '../../../support/memory-use.js';
import { REG } from '../../../support/virtqueue-driver.js';

const MIB = 1 << 20;
/** What a turn of the event loop may bring: its budget and one piece more. */
const TURN = MIB + (64 << 10);

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/** Prints `total` bytes in chains of `length` and takes them back, without an interrupt or a wait in between. */
async function flood(rig: ConsoleRig, total: number, length: number): Promise<number> {
  const data = new Uint8Array(length).fill(0x2e);
  let printed = 0;
  let waiting = 0;
  while (printed < total || waiting > 0) {
    for (; waiting < 64 && printed < total; waiting++, printed += length) rig.print(data, [], false);
    rig.transmitting.kick();
    await turn();
    waiting -= rig.takePrinted().length;
  }
  return printed;
}

describe('Case 25: "1 GiB printed with the reader stopped → memory grows by at most 16 MiB; no vCPU stalls unless so configured; lost bytes counted"', () => {
  // 64 MiB stands for the gigabyte: four times what may be kept.
  for (const [name, total, length] of [
    ['in large chains', 64 * MIB, 128 << 10],
    ['in chains of a page', 64 * MIB, 4096],
  ] as const)
    test(`drop, ${name}`, async () => {
      const rig = await ConsoleRig.start({ collects: false });
      const output = new SerialOutput(rig.device, 'drop');
      const before = await memoryInUse();
      expect(await flood(rig, total, length)).toBe(total);
      expect((await memoryInUse()) - before).toBeLessThan(16);
      expect(rig.machine.back.report().counters).toMatchObject({ bytesOut: total });
      output.end();
      let read = 0;
      for await (const bytes of output) read += (bytes as Buffer).length;
      expect(read).toBeGreaterThanOrEqual(MIB);
      expect(read + output.dropped).toBe(total);
      await rig.close();
    });

  test('one byte a turn, so that nothing can be put together', async () => {
    const rig = await ConsoleRig.start({ collects: false });
    const output = new SerialOutput(rig.device, 'drop');
    const before = await memoryInUse();
    for (let i = 0; i < 200_000; i++) {
      rig.print(Uint8Array.of(i), [], false);
      rig.device.drain();
      rig.takePrinted();
    }
    expect((await memoryInUse()) - before).toBeLessThan(16);
    output.end();
    let read = 0;
    for await (const bytes of output) for (const byte of bytes as Buffer) if (byte === (read & 0xff)) read++;
    expect([read, output.dropped]).toEqual([200_000, 0]);
    await rig.close();
  });

  test('wait: the guest is stalled and nothing is lost', async () => {
    const rig = await ConsoleRig.start({ collects: false });
    const output = new SerialOutput(rig.device, 'wait');
    const sent = createHash('sha256');
    const got = createHash('sha256');
    const before = await memoryInUse();
    let printed = 0;
    let waiting = 0;
    // Until all buffers are with the device, and it gives none back.
    for (let idle = 0; idle < 5; idle++) {
      for (; waiting < 64; waiting++, printed++) {
        const block = randomBytes(4096);
        rig.print(block);
        sent.update(block);
      }
      await turn();
      const returned = rig.takePrinted().length;
      waiting -= returned;
      if (returned > 0) idle = 0;
    }
    expect((await memoryInUse()) - before).toBeLessThan(16);
    expect(printed * 4096).toBeLessThan(3 * MIB);
    const sum = { read: 0 };
    output.on('data', (bytes: Buffer) => {
      got.update(bytes);
      sum.read += bytes.length;
    });
    while (sum.read < printed * 4096) await turn();
    expect(rig.takePrinted()).toHaveLength(64);
    expect([output.dropped, got.digest('hex')]).toEqual([0, sent.digest('hex')]);
    await rig.close();
  });
});

describe('a chain of half a gigabyte', () => {
  function printHuge(rig: ConsoleRig): void {
    const { transmitting } = rig;
    for (let i = 0; i < 64; i++)
      transmitting.setDescriptor(i, 0x40_0000, 8 * MIB, i === 63 ? 0 : DESC.NEXT, (i + 1) % 64);
    transmitting.publish(0);
    transmitting.kick();
  }

  test('takes many turns of the event loop, whatever the doorbells; a reset ends it and the console works', async () => {
    const rig = await ConsoleRig.start({ collects: false });
    let bytes = 0;
    rig.device.onOutput((piece) => (bytes += piece.length));
    printHuge(rig);
    await turn();
    let most = 0;
    for (let i = 0; i < 20; i++) {
      const before = bytes;
      // Case 10: "a kick storm … bounded CPU"
      for (let kick = 0; kick < 1000; kick++) rig.transmitting.kick();
      await turn();
      most = Math.max(most, bytes - before);
    }
    expect(bytes).toBeGreaterThan(10 * MIB);
    expect(most).toBeLessThanOrEqual(TURN);
    // Case 16: "reset with I/O in flight"
    rig.machine.write(REG.Status, 0);
    await rig.settle();
    const atReset = bytes;
    await rig.settle();
    expect(bytes).toBe(atReset);
    const [, transmitting] = await rig.machine.start();
    rig.machine.memory.write(0x40_0000, Buffer.from('again'));
    transmitting?.add([{ gpa: 0x40_0000, length: 5 }]);
    await rig.settle();
    expect(bytes).toBe(atReset + 5);
    expect(transmitting?.takeUsed()).toEqual({ id: expect.any(Number) as number, length: 0 });
    await rig.close();
  });

  test('is given back when its queue alone is stopped', async () => {
    const rig = await ConsoleRig.start({ collects: false });
    let bytes = 0;
    rig.device.onOutput((piece) => (bytes += piece.length));
    printHuge(rig);
    await turn();
    rig.machine.write(REG.QueueSel, 1);
    rig.machine.write(REG.QueueReady, 0);
    await rig.settle();
    const atStop = bytes;
    await rig.settle();
    expect([bytes, rig.machine.read(REG.QueueReady)]).toEqual([atStop, 0]);
    await rig.close();
  });

  test('is not delivered to its end when the machine ends: what is missing is counted', async () => {
    const rig = await ConsoleRig.start({ collects: false });
    let bytes = 0;
    rig.device.onOutput((piece) => (bytes += piece.length));
    rig.device.pause();
    printHuge(rig);
    await rig.settle();
    rig.device.close();
    expect(bytes).toBeLessThanOrEqual(TURN);
    expect(bytes + rig.device.lostBytes).toBe(512 * MIB);
    await rig.close();
  });
});

describe('Case 26: "1 GiB of input with the guest not reading → back-pressure"', () => {
  test('the writer waits, and nothing is kept but what the writer holds', async () => {
    const rig = await ConsoleRig.start();
    const input = new SerialInput(rig.device);
    for (let i = 0; i < 64; i++) rig.offer(4096);
    await rig.settle();
    const before = await memoryInUse();
    let written = 0;
    const block = Buffer.alloc(64 << 10, 0x61);
    // What a stream's `pipe` does: it stops at the first false.
    while (input.write(block)) written += block.length;
    for (let i = 0; i < 20; i++) await turn();
    expect(rig.machine.back.report().counters).toMatchObject({
      bytesIn: 0 + Math.min(64 * 4096, written + block.length),
    });
    expect(written).toBeLessThan(MIB);
    expect((await memoryInUse()) - before).toBeLessThan(16);
    input.destroy();
    await rig.close();
  });

  test('and goes on when the guest reads again, byte-exact', async () => {
    const rig = await ConsoleRig.start();
    const input = new SerialInput(rig.device);
    const data = randomBytes(MIB);
    input.end(data);
    const got: Buffer[] = [];
    for (let lengths = 1; !input.writableFinished; lengths = (lengths * 7) % 4093) {
      rig.offer(lengths);
      await turn();
      got.push(...rig.takeInput());
    }
    expect(Buffer.concat(got).equals(data)).toBe(true);
    await rig.close();
  });
});

describe('buffers that make no sense', () => {
  test('empty and device-writable ones to print, read-only ones for input: given back with length 0', async () => {
    const rig = await ConsoleRig.start();
    rig.transmitting.add([{ gpa: 0x40_0000, length: 16, writable: true }]);
    rig.transmitting.add([{ gpa: 0x40_0000, length: 0 }]);
    rig.receiving.add([{ gpa: 0xc0_0000, length: 16 }]);
    await rig.settle();
    expect(rig.device.write(Buffer.from('input'))).toBe(0);
    expect([rig.receiving.takeUsed(), rig.takePrinted()]).toEqual([
      { id: expect.any(Number) as number, length: 0 },
      [0, 0],
    ]);
    rig.offer(16);
    await rig.settle();
    expect(rig.device.write(Buffer.from('input'))).toBe(5);
    rig.print('output');
    await rig.settle();
    expect(rig.output.toString()).toBe('output');
    await rig.close();
  });

  test('Case 2: "buffer beyond RAM … (data only: DROP)"', async () => {
    const rig = await ConsoleRig.start();
    rig.transmitting.add([{ gpa: 0x1000_0000, length: 16 }]);
    rig.receiving.add([{ gpa: 0x1000_0000, length: 16, writable: true }]);
    rig.offer(16);
    rig.print('ok');
    await rig.settle();
    expect(rig.device.write(Buffer.from('in'))).toBe(2);
    expect(rig.output.toString()).toBe('ok');
    expect(rig.machine.back.report().dropped).toBe(2);
    expect(rig.machine.status & STATUS.DEVICE_NEEDS_RESET).toBe(0);
    await rig.close();
  });

  test('Case 1: "a descriptor that points at itself" → NR; input waits until the reset', async () => {
    const rig = await ConsoleRig.start();
    rig.receiving.setDescriptor(5, 0xc0_0000, 16, DESC.NEXT | DESC.WRITE, 5);
    rig.receiving.publish(5);
    rig.receiving.kick();
    await rig.settle();
    let asked = 0;
    rig.device.onWritable(() => asked++);
    expect(rig.device.write(Buffer.from('in'))).toBe(0);
    expect(rig.machine.status & STATUS.DEVICE_NEEDS_RESET).toBe(STATUS.DEVICE_NEEDS_RESET);
    expect(rig.machine.warnings).toHaveLength(1);
    rig.machine.write(REG.Status, 0);
    await rig.settle();
    const [receiving] = await rig.machine.start();
    expect(asked).toBe(1);
    expect(rig.device.write(Buffer.from('in'))).toBe(0);
    receiving?.add([{ gpa: 0xc0_0000, length: 16, writable: true }]);
    await rig.settle();
    expect(rig.device.write(Buffer.from('in'))).toBe(2);
    await rig.close();
  });

  test('a driver that gives empty buffers as fast as they are taken holds nobody up', async () => {
    const empty = { bytes: 0, copyTo: () => 0, copyFrom: () => 0 };
    let pops = 0;
    const endless = {
      pop: () => {
        pops++;
        return { head: 0, readable: empty, writable: empty };
      },
      push: () => undefined,
      flush: () => undefined,
    } as unknown as Virtqueue;
    const device = new VirtioConsole();
    let asked = 0;
    device.onWritable(() => asked++);
    device.activate({ has: () => true, queue: () => endless, needsReset: () => undefined });
    expect(device.write(Buffer.from('x'))).toBe(0);
    expect(pops).toBeLessThan(10_000);
    await turn();
    expect(asked).toBe(1);
    pops = 0;
    device.notify(1);
    expect(pops).toBeLessThan(100_000);
    device.cancel();
    pops = 0;
    for (let i = 0; i < 5; i++) await turn();
    expect(pops).toBe(0);
    device.close();
  });
});
