// A virtio device that is held for a snapshot, and one that is taken up from it: no chain lost, none served twice.
// VIRTIO 1.2 §2.7.10 (available buffer notification suppression): who forgets the flag is never rung again.
import { describe, expect, test } from 'vitest';
import { FEATURE } from '../../../../src/devices/virtio/abi.js';
import { VirtioConsole } from '../../../../src/devices/virtio/console.js';
import { MmioBack } from '../../../../src/devices/virtio/mmio-back.js';
import { ConsoleRig } from '../../../support/console-rig.js';
import { FakeBell, type MockQueue } from '../../../support/virtqueue-driver.js';

const KIB = 1 << 10;

/** A second back over the same registers and RAM, as after a restore. */
function adopt({ machine }: ConsoleRig): {
  readonly back: MmioBack;
  readonly bells: readonly FakeBell[];
  readonly output: () => string;
  readonly pulses: () => number;
} {
  const device = new VirtioConsole({ columns: 80, rows: 25 });
  const pieces: Uint8Array[] = [];
  device.onOutput((bytes) => void pieces.push(bytes));
  const bells = device.offer.queueSizes.map(() => new FakeBell());
  let pulses = 0;
  const back = new MmioBack(device, machine.state, {
    memory: machine.memory,
    irq: { pulse: () => void pulses++ },
    control: new FakeBell(),
    doorbells: bells,
    warn: () => undefined,
  });
  back.adopt();
  return { back, bells, output: () => Buffer.concat(pieces).toString(), pulses: () => pulses };
}

/** As a driver asks that has just made one chain available: §2.7.10.1. */
function isKickWanted({ machine, used, size, availIndex, eventIdx }: MockQueue): boolean {
  if (!eventIdx) return (machine.memory.readU16(used) & 1) === 0;
  return machine.memory.readU16(used + 4 + 8 * size) === ((availIndex - 1) & 0xffff);
}

describe.each([
  ['with EVENT_IDX', []],
  ['without', [FEATURE.RING_EVENT_IDX]],
])('%s', (_, without) => {
  test('a held device takes no chain, and all of them when it is released', async () => {
    const rig = await ConsoleRig.start({ without });
    rig.print('before ');
    await rig.settle();
    await rig.machine.back.hold();
    rig.print('while ');
    await rig.settle();
    expect(rig.output.toString()).toBe('before ');
    rig.machine.back.release();
    await rig.settle();
    expect(rig.output.toString()).toBe('before while ');
    await rig.close();
  });

  test('another machine goes on at the next chain, and is rung for those after it', async () => {
    const rig = await ConsoleRig.start({ without });
    rig.print('one ');
    await rig.settle();
    await rig.machine.back.hold();
    rig.print('two ');
    const next = adopt(rig);
    expect(next.output()).toBe('');
    next.back.release();
    expect(next.output()).toBe('two ');
    expect(next.pulses()).toBeGreaterThan(0);
    // Only when the driver was told to ring.
    const [, transmit] = next.bells;
    rig.print('three ', [], false);
    if (isKickWanted(rig.transmitting)) transmit?.signal();
    await rig.settle();
    expect(next.output()).toBe('two three ');
    await next.back.close();
    await rig.close();
  });
});

test('a chain that was delivered in part is delivered whole before a save, and not again after it', async () => {
  const rig = await ConsoleRig.start({ collects: false });
  let bytes = 0;
  rig.device.onOutput((piece) => {
    bytes += piece.length;
    rig.device.pause();
  });
  rig.print(new Uint8Array(200 * KIB).fill(65));
  await rig.settle();
  expect(bytes).toBe(64 * KIB);
  await rig.machine.back.hold();
  expect(bytes).toBe(200 * KIB);
  const next = adopt(rig);
  next.back.release();
  expect(next.output()).toBe('');
  await next.back.close();
  await rig.close();
});
