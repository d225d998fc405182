// The network card, driven by a driver that plays by the rules and by one that does not.
// VIRTIO 1.2 §5.1; shared list of hostile cases, group Net.
import { describe, expect, test } from 'vitest';
import { echoNetwork } from '../../../../examples/echo-network.js';
import type { Offloads } from '../../../../src/devices/backend/net-backend.js';
import { FRAME_MAX } from '../../../../src/devices/backend/ethernet.js';
import { INTERRUPT, STATUS } from '../../../../src/devices/virtio/abi.js';
import { NET_FEATURE, NET_HEADER } from '../../../../src/devices/virtio/net-header.js';
import { frame, GUEST_MAC, KeepingBackend, NetRig } from '../../../support/net-rig.js';
import { REG } from '../../../support/virtqueue-driver.js';

const EVIL_MAC = Uint8Array.of(0x02, 0, 0, 0, 0, 0x66);

/** With a backend that checks sums and cuts segments. */
function offloading(): KeepingBackend & { taken: Offloads[] } {
  const backend = Object.assign(new KeepingBackend(), { taken: [] as Offloads[] });
  backend.setOffloads = (taken) => void backend.taken.push(taken);
  return backend;
}

describe('what is offered', () => {
  test('MAC and status lie in the configuration space; no offload without a backend for it', async () => {
    const rig = await NetRig.start(new KeepingBackend());
    const { machine } = rig;
    expect(machine.read(REG.DeviceID)).toBe(1);
    expect(Array.from({ length: 6 }, (_, i) => machine.read(REG.Config + i, 1))).toEqual([...GUEST_MAC]);
    expect(machine.read(REG.Config + 6, 2)).toBe(1);
    const bits = Object.entries(NET_FEATURE).filter(([, bit]) => (machine.offered() & (1n << BigInt(bit))) !== 0n);
    expect(bits.map(([name]) => name)).toEqual(['MAC', 'MRG_RXBUF', 'STATUS']);
    await rig.close();
  });

  test('an MTU of its own, and offloads as the driver took them', async () => {
    const backend = offloading();
    backend.mtu = 9000;
    const rig = await NetRig.start(backend, { without: [NET_FEATURE.GUEST_TSO6] });
    expect(rig.machine.read(REG.Config + 10, 2)).toBe(9000);
    expect(backend.taken).toEqual([{ checksum: true, tso4: true, tso6: false }]);
    await rig.close();
  });

  test('"VIRTIO_NET_F_GUEST_TSO4 Requires VIRTIO_NET_F_GUEST_CSUM": without it nothing comes unfinished', async () => {
    const backend = offloading();
    const rig = await NetRig.start(backend, { without: [NET_FEATURE.GUEST_CSUM] });
    expect(backend.taken).toEqual([{ checksum: false, tso4: false, tso6: false }]);
    await rig.close();
  });

  test('a backend that cannot be opened is closed, and its error is the caller’s', async () => {
    const backend = new KeepingBackend();
    backend.open = () => {
      throw new Error('no cable');
    };
    await expect(NetRig.start(backend)).rejects.toThrow('no cable');
    expect(backend.closed).toBe(1);
  });
});

describe('transmission', () => {
  test('frames arrive whole, in order, however the driver splits them', async () => {
    const backend = new KeepingBackend();
    const rig = await NetRig.start(backend);
    const frames = [frame(60), frame(1514), frame(14), frame(FRAME_MAX)];
    rig.transmit(frames[0] as Uint8Array);
    rig.transmit(frames[1] as Uint8Array, {}, [5, 7, 1, 600]);
    rig.transmit(frames[2] as Uint8Array, {}, [12]);
    rig.transmit(frames[3] as Uint8Array, {}, [12, 40_000]);
    await rig.settle();
    expect(backend.frames).toEqual(frames);
    for (let i = 0; i < 4; i++) expect(rig.transmitting.takeUsed()).toMatchObject({ length: 0 });
    expect(rig.counter('framesSent')).toBe(4);
    await rig.close();
  });

  test('a backend without room gets the frame again, and nothing twice', async () => {
    const backend = new KeepingBackend();
    const rig = await NetRig.start(backend);
    backend.isFull = true;
    rig.transmit(frame(60));
    rig.transmit(frame(61));
    await rig.settle();
    expect(rig.transmitting.takeUsed()).toBeUndefined();
    rig.transmit(frame(62));
    await rig.settle();
    backend.isFull = false;
    backend.link?.ready();
    await rig.settle();
    expect(backend.frames.map(({ length }) => length)).toEqual([60, 61, 62]);
    await rig.close();
  });

  // Case 22: "transmit without header, of 1 byte, of more than 64 KiB, with GSO or checksum offsets outside → DROP"
  const NEEDS_CSUM = { 0: 1 };
  test.each<[string, (rig: NetRig) => void]>([
    ['without a header', (rig) => rig.transmitRaw(new Uint8Array(11))],
    ['of 1 byte', (rig) => rig.transmitRaw(Uint8Array.of(1))],
    ['of a header alone', (rig) => rig.transmitRaw(new Uint8Array(NET_HEADER))],
    ['with a frame shorter than Ethernet’s header', (rig) => rig.transmit(frame(13))],
    ['of more than 64 KiB', (rig) => rig.transmit(new Uint8Array(FRAME_MAX + 1))],
    [
      'of a device-writable buffer only',
      (rig) => rig.transmitting.add([{ gpa: 0x40_0000, length: 80, writable: true }]),
    ],
    ['with the start of its checksum outside', (rig) => rig.transmit(frame(60), { ...NEEDS_CSUM, 6: 61 })],
    ['with its checksum half outside', (rig) => rig.transmit(frame(60), { ...NEEDS_CSUM, 6: 34, 8: 25 })],
    [
      'with offsets whose sum wraps',
      (rig) => rig.transmit(frame(60), { ...NEEDS_CSUM, 6: 255, 7: 255, 8: 255, 9: 255 }),
    ],
    ['with segments of no bytes', (rig) => rig.transmit(frame(60), { ...NEEDS_CSUM, 1: 1, 6: 34, 8: 16 })],
    ['with segments but no checksum', (rig) => rig.transmit(frame(60), { 1: 1, 4: 100 })],
    ['with UFO, which is not offered', (rig) => rig.transmit(frame(60), { ...NEEDS_CSUM, 1: 3, 4: 100, 6: 34, 8: 6 })],
    [
      'with ECN, which is not offered',
      (rig) => rig.transmit(frame(60), { ...NEEDS_CSUM, 1: 0x81, 4: 100, 6: 34, 8: 16 }),
    ],
  ])('%s is dropped', async (_, send) => {
    const backend = offloading();
    const rig = await NetRig.start(backend);
    send(rig);
    rig.transmit(frame(77));
    await rig.settle();
    expect(backend.frames.map(({ length }) => length)).toEqual([NET_HEADER + 77]);
    expect(rig.transmitting.takeUsed()).toMatchObject({ length: 0 });
    expect(rig.transmitting.takeUsed()).toMatchObject({ length: 0 });
    expect(rig.counter('malformed')).toBe(1);
    expect(rig.machine.warnings).toEqual([
      expect.stringMatching(/^net0: the guest sent a frame that .*; it was dropped$/),
    ]);
    expect(rig.machine.status & STATUS.DEVICE_NEEDS_RESET).toBe(0);
    await rig.close();
  });

  test('what was not negotiated is dropped, too', async () => {
    const backend = offloading();
    const rig = await NetRig.start(backend, { without: [NET_FEATURE.CSUM, NET_FEATURE.HOST_TSO4] });
    rig.transmit(frame(60), { 0: 1, 6: 34, 8: 16 });
    rig.transmit(frame(60), { 1: 1, 4: 100 });
    await rig.settle();
    expect(backend.frames).toEqual([]);
    expect(rig.counter('malformed')).toBe(2);
    await rig.close();
  });

  test('an honest offload reaches the backend, with nothing in its header but what was checked', async () => {
    const backend = offloading();
    const rig = await NetRig.start(backend);
    // Flags that nobody offered, num_buffers, and a hint beyond the frame.
    rig.transmit(frame(200), { 0: 0xff, 1: 1, 2: 0xff, 3: 0xff, 4: 100, 6: 34, 8: 16, 10: 7 });
    rig.transmit(frame(60), { 0: 0xfe, 2: 9, 4: 9, 6: 9, 8: 9, 10: 9 });
    await rig.settle();
    expect(Array.from(backend.frames[0]?.subarray(0, NET_HEADER) ?? [])).toEqual([
      1, 1, 200, 0, 100, 0, 34, 0, 16, 0, 0, 0,
    ]);
    expect(Array.from(backend.frames[1]?.subarray(0, NET_HEADER) ?? [])).toEqual(
      Array.from({ length: NET_HEADER }, () => 0),
    );
    await rig.close();
  });

  test('case 24: "source MAC not ours while locked → DROP and counted"', async () => {
    const backend = new KeepingBackend();
    const rig = await NetRig.start(backend, { lockMac: true });
    rig.transmit(frame(60, { from: EVIL_MAC }));
    rig.transmit(frame(61));
    await rig.settle();
    expect(backend.frames.map(({ length }) => length)).toEqual([61]);
    expect(rig.counter('foreignMac')).toBe(1);
    expect(rig.machine.warnings[0]).toContain(
      'comes from 02:00:00:00:00:66 and not from its own address 52:54:00:00:00:01',
    );
    await rig.close();
    const free = await NetRig.start(new KeepingBackend());
    free.transmit(frame(60, { from: EVIL_MAC }));
    await free.settle();
    expect(free.counter('framesSent')).toBe(1);
    await free.close();
  });
});

describe('reception', () => {
  const give = (backend: KeepingBackend, length: number): boolean | undefined => backend.link?.receive(frame(length));

  test('a frame in one buffer: a header of zeros but num_buffers 1', async () => {
    const backend = new KeepingBackend();
    const rig = await NetRig.start(backend);
    rig.offer();
    await rig.settle();
    expect(give(backend, 60)).toBe(true);
    await rig.settle();
    const got = rig.takeFrame();
    expect([...(got?.header ?? [])]).toEqual([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]);
    expect([...(got?.body ?? [])]).toEqual([...frame(60)]);
    expect(rig.machine.read(REG.InterruptStatus) & INTERRUPT.USED_BUFFER).toBe(INTERRUPT.USED_BUFFER);
    await rig.close();
  });

  test.each([5, 12, 13, 100, 1600])('a frame of 5000 bytes through merged buffers of %d', async (size) => {
    const backend = new KeepingBackend();
    const rig = await NetRig.start(backend);
    for (let i = 0; i < 240; i++) rig.offer(size);
    await rig.settle();
    const length = Math.min(5000, 239 * size - NET_HEADER);
    expect(give(backend, length)).toBe(true);
    await rig.settle();
    if (size >= NET_HEADER) {
      const got = rig.takeFrame();
      expect(got?.buffers).toBe(Math.ceil((NET_HEADER + length) / size));
      expect(Buffer.compare(got?.body ?? Buffer.alloc(0), frame(length))).toBe(0);
    } else {
      expect(rig.receiving.usedIndex).toBe(Math.ceil((NET_HEADER + length) / size));
    }
    await rig.close();
  });

  test('one interrupt for the frames of one turn', async () => {
    const backend = new KeepingBackend();
    const rig = await NetRig.start(backend);
    for (let i = 0; i < 10; i++) rig.offer();
    await rig.settle();
    const before = rig.machine.interrupts;
    for (let i = 0; i < 10; i++) give(backend, 60);
    await rig.settle();
    expect(rig.machine.interrupts - before).toBe(1);
    for (let i = 0; i < 10; i++) expect(rig.takeFrame()?.body.length).toBe(60);
    await rig.close();
  });

  test('without VIRTIO_NET_F_MRG_RXBUF a buffer holds a frame or goes back', async () => {
    const backend = new KeepingBackend();
    const rig = await NetRig.start(backend, { without: [NET_FEATURE.MRG_RXBUF] });
    rig.offer(100);
    rig.offer(1526);
    await rig.settle();
    expect(give(backend, 1514)).toBe(true);
    await rig.settle();
    expect(rig.receiving.takeUsed()).toMatchObject({ length: 0 });
    expect(rig.takeFrame()?.body.length).toBe(1514);
    expect(rig.counter('uselessBuffers')).toBe(1);
    await rig.close();
  });

  describe('case 23: "receive ring empty, too short, read-only, under a flood → recovers within 1 s"', () => {
    const flood = (backend: KeepingBackend): void => {
      for (let i = 0; i < 10_000; i++) give(backend, 1514);
    };

    test('empty', async () => {
      const backend = new KeepingBackend();
      const rig = await NetRig.start(backend);
      flood(backend);
      expect(give(backend, 60)).toBe(false);
      rig.offer();
      await rig.settle();
      expect(backend.resumed).toBe(1);
      expect(give(backend, 60)).toBe(true);
      await rig.settle();
      expect(rig.takeFrame()?.body.length).toBe(60);
      await rig.close();
    });

    test('too short: what is there is kept and filled when there is enough', async () => {
      const backend = new KeepingBackend();
      const rig = await NetRig.start(backend);
      for (let i = 0; i < 3; i++) rig.offer(64);
      await rig.settle();
      flood(backend);
      rig.offer(1600);
      await rig.settle();
      expect(give(backend, 1514)).toBe(true);
      await rig.settle();
      expect(rig.takeFrame()).toMatchObject({ buffers: 4 });
      await rig.close();
    });

    test('a whole ring too short for the frame: the frame is dropped, smaller ones pass', async () => {
      const backend = new KeepingBackend();
      const rig = await NetRig.start(backend);
      for (let i = 0; i < 256; i++) rig.offer(16);
      await rig.settle();
      expect(give(backend, 5000)).toBe(true);
      expect(rig.counter('unfit')).toBe(1);
      expect(give(backend, 1514)).toBe(true);
      await rig.settle();
      expect(rig.takeFrame()?.body.length).toBe(1514);
      await rig.close();
    });

    test('read-only buffers go back, and the next good one is used', async () => {
      const backend = new KeepingBackend();
      const rig = await NetRig.start(backend);
      for (let i = 0; i < 200; i++) rig.offer(1600, false);
      await rig.settle();
      flood(backend);
      await rig.settle();
      expect(rig.counter('uselessBuffers')).toBe(200);
      for (let i = 0; i < 200; i++) expect(rig.receiving.takeUsed()).toMatchObject({ length: 0 });
      rig.offer();
      await rig.settle();
      expect(give(backend, 60)).toBe(true);
      await rig.settle();
      expect(rig.takeFrame()?.body.length).toBe(60);
      await rig.close();
    });

    test('buffers outside RAM between good ones: none is lost, none completed twice', async () => {
      const backend = new KeepingBackend();
      const rig = await NetRig.start(backend);
      rig.offer(64);
      rig.receiving.add([{ gpa: 0xf000_0000, length: 1600, writable: true }]);
      rig.offer(64);
      await rig.settle();
      expect(give(backend, 1000)).toBe(false);
      await rig.settle();
      expect(rig.receiving.takeUsed()).toMatchObject({ length: 0 });
      rig.offer(1600);
      await rig.settle();
      expect(give(backend, 1000)).toBe(true);
      await rig.settle();
      expect(rig.takeFrame()).toMatchObject({ buffers: 3 });
      expect(rig.receiving.usedIndex).toBe(4);
      await rig.close();
    });
  });

  test('a backend may hand back the very bytes that it is given', async () => {
    const backend = new KeepingBackend();
    backend.send = (bytes) => backend.link?.receive(bytes) ?? true;
    const rig = await NetRig.start(backend);
    // Buffers at all alignments, beside frames at all alignments.
    for (let i = 0; i < 32; i++) {
      rig.offer(1600 + (i % 8));
      rig.transmit(frame(1514), {}, i < 16 ? [] : [3]);
      await rig.settle();
      expect(Buffer.compare(rig.takeFrame()?.body ?? Buffer.alloc(0), frame(1514))).toBe(0);
    }
    await rig.close();
  });

  test('what is no frame is dropped and counted: shorter than its header, or longer than any', async () => {
    const backend = new KeepingBackend();
    const rig = await NetRig.start(backend);
    for (let i = 0; i < 100; i++) rig.offer();
    await rig.settle();
    for (const length of [0, 1, 13, FRAME_MAX + 1]) expect(give(backend, length)).toBe(true);
    await rig.settle();
    expect(rig.receiving.takeUsed()).toBeUndefined();
    expect(rig.counter('unfit')).toBe(4);
    await rig.close();
  });

  test('buffers of a driver that went are not the next one’s', async () => {
    const backend = new KeepingBackend();
    const rig = await NetRig.start(backend);
    rig.offer(64);
    await rig.settle();
    expect(give(backend, 1514)).toBe(false);
    rig.machine.write(REG.Status, 0);
    await rig.settle();
    await rig.machine.start();
    expect(give(backend, 14)).toBe(false);
    await rig.close();
  });

  test('before a driver is there, and after it went, frames are dropped and counted, and nobody waits', async () => {
    const backend = new KeepingBackend();
    const rig = await NetRig.start(backend);
    rig.offer(64);
    await rig.settle();
    expect(give(backend, 1514)).toBe(false);
    const written = rig.machine.memory.read(0x80_0000, 64);
    rig.machine.write(REG.Status, 0);
    await rig.settle();
    expect(rig.machine.status).toBe(0);
    expect(backend.resumed).toBe(1);
    expect(give(backend, 60)).toBe(true);
    await rig.settle();
    expect(rig.counter('noDriver')).toBe(1);
    expect(rig.machine.memory.read(0x80_0000, 64)).toEqual(written);
    await rig.close();
  });

  test('a broken ring needs a reset; the backend waits for it', async () => {
    const backend = new KeepingBackend();
    const rig = await NetRig.start(backend);
    rig.receiving.publish(999);
    rig.receiving.kick();
    await rig.settle();
    expect(give(backend, 60)).toBe(false);
    expect(rig.machine.status & STATUS.DEVICE_NEEDS_RESET).not.toBe(0);
    rig.machine.write(REG.Status, 0);
    await rig.settle();
    await rig.machine.start();
    expect(backend.resumed).toBe(1);
    await rig.close();
    expect(backend.closed).toBe(1);
  });
});

describe('the link', () => {
  test('its state is in the configuration space, with an interrupt for each change', async () => {
    const backend = new KeepingBackend();
    const rig = await NetRig.start(backend);
    for (const isUp of [false, false, true]) backend.link?.setLinkUp(isUp);
    expect(rig.machine.read(REG.Config + 6, 2)).toBe(1);
    expect(rig.machine.read(REG.ConfigGeneration)).toBe(2);
    expect(rig.machine.read(REG.InterruptStatus) & INTERRUPT.CONFIGURATION_CHANGE).not.toBe(0);
    backend.link?.setLinkUp(false);
    expect(rig.machine.read(REG.Config + 6, 2)).toBe(0);
    await rig.close();
  });
});

describe('examples/echo-network.ts: "a backend is a small interface, so that a person can write one in ten lines"', () => {
  test('a ping comes back with its sender and receiver swapped', async () => {
    const rig = await NetRig.start(echoNetwork());
    rig.offer();
    const ping = frame(98);
    ping.set([10, 0, 0, 1, 10, 0, 0, 2], 26);
    rig.transmit(ping);
    await rig.settle();
    const body = rig.takeFrame()?.body ?? Buffer.alloc(0);
    expect([...body.subarray(0, 12)]).toEqual([...ping.subarray(6, 12), ...ping.subarray(0, 6)]);
    expect([...body.subarray(26, 34)]).toEqual([10, 0, 0, 2, 10, 0, 0, 1]);
    expect(Buffer.compare(body.subarray(34), ping.subarray(34))).toBe(0);
    await rig.close();
  });
});
