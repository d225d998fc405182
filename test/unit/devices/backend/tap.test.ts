// A TAP with the real kernel at the other end of the cable, in a network namespace of this file's own.
// Linux Documentation/networking/tuntap.rst; hostile cases, Host faults 29.
import { once } from 'node:events';
import { createSocket } from 'node:dgram';
import { beforeAll, describe, expect, test } from 'vitest';
import { TapBackend } from '../../../../src/devices/backend/tap.js';
import { NET_FEATURE } from '../../../../src/devices/virtio/net-header.js';
import { REG } from '../../../support/virtqueue-driver.js';
import { enterOwnNetwork, ip, noNetns } from '../../../support/netns.js';
import { GUEST_MAC, NetRig } from '../../../support/net-rig.js';
import { idleShare } from '../../../support/processes.js';

const GUEST_IP = [10, 78, 0, 2];
const HOST_IP = [10, 78, 0, 1];

async function until(what: string, holds: () => boolean, milliseconds = 20_000): Promise<void> {
  for (const end = performance.now() + milliseconds; !holds();) {
    if (performance.now() > end) throw new Error(`${what}: not within ${milliseconds} ms`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

const isLinkUp = (rig: NetRig): boolean => rig.machine.read(REG.Config + 6, 2) === 1;

/** An ARP request of the guest for the host's address. */
function arpRequest(): Uint8Array {
  const bytes = Buffer.alloc(42);
  bytes.fill(255, 0, 6);
  bytes.set(GUEST_MAC, 6);
  bytes.set([8, 6, 0, 1, 8, 0, 6, 4, 0, 1, ...GUEST_MAC, ...GUEST_IP, 0, 0, 0, 0, 0, 0, ...HOST_IP], 12);
  return bytes;
}

/** UDP from the guest to the host's port 9, with the checksum left to the device when `isPartial`. */
function udp(payload: Buffer, hostMac: Uint8Array): Uint8Array {
  const header = Buffer.alloc(42);
  header.set(hostMac, 0);
  header.set(GUEST_MAC, 6);
  header.set([8, 0, 0x45, 0], 12);
  header.writeUInt16BE(28 + payload.length, 16);
  header.set([64, 17], 22);
  header.set([...GUEST_IP, ...HOST_IP], 26);
  header.writeUInt16BE(sum16([header.subarray(14, 34)]), 24);
  header.writeUInt16BE(7, 34);
  header.writeUInt16BE(9, 36);
  header.writeUInt16BE(8 + payload.length, 38);
  // The sum of the pseudo header, uncomplemented: what CHECKSUM_PARTIAL has in the field.
  const pseudo = Buffer.from([...GUEST_IP, ...HOST_IP, 0, 17, 0, 0]);
  pseudo.writeUInt16BE(8 + payload.length, 10);
  header.writeUInt16BE(~sum16([pseudo]) & 0xffff, 40);
  return Buffer.concat([header, payload]);
}

function sum16(parts: readonly Buffer[]): number {
  let sum = 0;
  const bytes = Buffer.concat(parts);
  for (let at = 0; at < bytes.length; at += 2) sum += bytes.readUInt16BE(at);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  return ~sum & 0xffff;
}

/** The host's address on the cable, as its kernel answers. */
async function hostMac(rig: NetRig): Promise<Uint8Array> {
  let mac: Uint8Array | undefined;
  await until('the answer to the ARP request', () => {
    // An interface that has just come up says other things first, and may not answer at once.
    rig.offer();
    rig.transmit(arpRequest());
    for (let got = rig.takeFrame(); got !== undefined; got = rig.takeFrame())
      if (got.body[12] === 8 && got.body[13] === 6 && got.body[21] === 2)
        mac = Uint8Array.from(got.body.subarray(6, 12));
    return mac !== undefined;
  });
  return mac ?? new Uint8Array(6);
}

describe.skipIf(noNetns !== undefined)(`a TAP${noNetns === undefined ? '' : ` (${noNetns})`}`, () => {
  beforeAll(() => {
    enterOwnNetwork();
    ip('tuntap add dev cable0 mode tap');
    ip('addr add 10.78.0.1/24 dev cable0');
    ip('link set cable0 up');
  });

  test('that exists is used: the host answers an ARP request, and takes a datagram whose sum is left to it', async () => {
    const rig = await NetRig.start(await TapBackend.create('cable0'));
    expect(rig.machine.offered() & (1n << BigInt(NET_FEATURE.HOST_TSO4))).not.toBe(0n);
    const mac = await hostMac(rig);
    const socket = createSocket('udp4').bind(9, '10.78.0.1');
    await once(socket, 'listening');
    // flags NEEDS_CSUM, csum_start 34, csum_offset 6.
    rig.transmit(udp(Buffer.from('hello'), mac), { 0: 1, 6: 34, 8: 6 });
    const [message] = (await once(socket, 'message')) as [Buffer];
    expect(message.toString()).toBe('hello');
    // And back: the guest took GUEST_CSUM, so the kernel leaves the sum to it.
    rig.offer();
    socket.send('hello yourself', 7, '10.78.0.2');
    let answer: Buffer | undefined;
    await until('the datagram', () => {
      rig.offer();
      rig.transmit(arpReply(mac));
      for (let got = rig.takeFrame(); got !== undefined; got = rig.takeFrame())
        if (got.body[23] === 17 && Buffer.from(got.body).includes('hello yourself')) answer = Buffer.from(got.header);
      return answer !== undefined;
    });
    expect([answer?.[0], answer?.readUInt16LE(6), answer?.readUInt16LE(8), answer?.readUInt16LE(10)]).toEqual([
      1, 34, 6, 1,
    ]);
    socket.close();
    await rig.close();
  });

  test('a second user is told who has it', async () => {
    const rig = await NetRig.start(await TapBackend.create('cable0'));
    await expect(TapBackend.create('cable0')).rejects.toThrow(
      /^the TAP cable0 cannot be used: EBUSY .*; another program .* give every machine a TAP of its own$/,
    );
    await rig.close();
    await (await NetRig.start(await TapBackend.create('cable0'))).close();
  });

  test('that does not exist is made, up, and gone with its machine', async () => {
    const rig = await NetRig.start(await TapBackend.create('fresh0'));
    expect(ip('link show fresh0')).toMatch(/<.*\bUP\b.*>/);
    await rig.close();
    expect(() => ip('link show fresh0')).toThrow();
  });

  test('an interface that is no TAP is refused with what to look at', async () => {
    await expect(TapBackend.create('lo')).rejects.toThrow(
      /^the TAP lo cannot be used: EINVAL .*ip -details link show lo$/,
    );
  });

  test('an MTU of its own reaches the guest', async () => {
    ip('tuntap add dev jumbo0 mode tap');
    ip('link set jumbo0 mtu 9000 up');
    const rig = await NetRig.start(await TapBackend.create('jumbo0'));
    expect(rig.machine.read(REG.Config + 10, 2)).toBe(9000);
    await rig.close();
    ip('tuntap del dev jumbo0 mode tap');
  });

  test('case 29: "TAP gone → link down, one line, CPU below 5 %, reconnects when it is back"', async () => {
    ip('tuntap add dev lost0 mode tap');
    ip('link set lost0 up');
    const rig = await NetRig.start(await TapBackend.create('lost0'));
    ip('link del lost0');
    await until('the link is down', () => !isLinkUp(rig));
    expect(await idleShare(), '"CPU below 5 %"').toBeLessThan(0.05);
    rig.transmit(arpRequest());
    await rig.settle();
    expect(rig.transmitting.takeUsed()).toBeDefined();
    ip('tuntap add dev lost0 mode tap');
    ip('addr add 10.78.0.1/24 dev lost0');
    ip('link set lost0 up');
    await until('the link is up again', () => isLinkUp(rig));
    expect(rig.machine.warnings).toEqual(["net0: the TAP lost0 is gone; the guest's cable is out until it is back"]);
    ip('link set cable0 down');
    expect(await hostMac(rig)).toHaveLength(6);
    await rig.close();
    ip('link del lost0');
    ip('link set cable0 up');
  });

  test('case 23 with a flood from the host: the ring is empty, then it is not', async () => {
    const rig = await NetRig.start(await TapBackend.create('cable0'));
    const mac = await hostMac(rig);
    rig.transmit(arpReply(mac));
    const socket = createSocket('udp4').bind(10, '10.78.0.1');
    await once(socket, 'listening');
    for (let i = 0; i < 5000; i++) socket.send(Buffer.alloc(1400), 7, '10.78.0.2');
    await new Promise((resolve) => setTimeout(resolve, 1000));
    while (rig.receiving.takeUsed() !== undefined);
    expect(await idleShare(), 'frames without a buffer wait in the kernel').toBeLessThan(0.05);
    for (let i = 0; i < 100; i++) rig.offer();
    await until('frames again', () => rig.receiving.takeUsed() !== undefined);
    socket.close();
    await rig.close();
  });
});

/** The guest answers the host's question for its address, asked or not. */
function arpReply(mac: Uint8Array): Uint8Array {
  const bytes = Buffer.alloc(42);
  bytes.set(mac, 0);
  bytes.set(GUEST_MAC, 6);
  bytes.set([8, 6, 0, 1, 8, 0, 6, 4, 0, 2, ...GUEST_MAC, ...GUEST_IP, ...mac, ...HOST_IP], 12);
  return bytes;
}
