// The network of a real Linux guest: user mode with passt, a TAP, a switch, and a network that a person wrote.
// Everything happens in a network namespace of this file's own.
import { execFile, execFileSync } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer as createHttpServer } from 'node:http';
import { createConnection, createServer, type AddressInfo, type Server } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { once } from 'node:events';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest';
import { echoNetwork } from '../../examples/echo-network.js';
import type { VmConfig } from '../../src/index.js';
import { countedLines } from '../support/counted-lines.js';
import { GuestSession } from '../support/guest-session.js';
import { noKvm } from '../support/kvm.js';
import { BOOT_MS, emulatesKernelCode, guestConfig, PREPARE_MS } from '../support/linux.js';
import { addWayOut, enterOwnNetwork, ip, noNetns, WAY_OUT } from '../support/netns.js';
import { programsMissing } from '../support/programs.js';
import { amount } from '../support/soak.js';

const MIB = 2 ** 20;
/** Where kernel code is emulated a packet costs the guest a hundred thousand instructions' time. */
const BYTES = emulatesKernelCode() ? amount(MIB / 2, 8 * MIB) : 8 * MIB;
const NET_MS = 2 * BOOT_MS;

const skipped = noKvm ? 'no KVM' : (noNetns ?? programsMissing('busybox', 'passt', 'tcpdump'));
const folder = mkdtempSync(join(tmpdir(), 'microvisor-net-'));
const blob = randomBytes(BYTES);
const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');
const execFileAsync = promisify(execFile);

let guest: Pick<VmConfig, 'kernel' | 'initrd' | 'cmdline'>;

async function listen<S extends Server>(server: S, host: string): Promise<{ server: S; port: number }> {
  server.listen(0, host);
  await once(server, 'listening');
  return { server, port: (server.address() as AddressInfo).port };
}

/** Busybox on the host, as a person would type it; fails when the command fails. */
async function hostPing(address: string): Promise<string> {
  return (await execFileAsync('busybox', ['ping', '-c', '3', '-W', '10', address])).stdout;
}

/** All bytes that come from `port` until it closes. */
async function fetchAll(host: string, port: number, request = ''): Promise<Buffer> {
  const socket = createConnection({ host, port });
  socket.write(request);
  const parts: Buffer[] = [];
  for await (const part of socket) parts.push(part as Buffer);
  return Buffer.concat(parts);
}

const withAddress = (address: string, card = 'eth0'): Partial<VmConfig> => ({
  cmdline: `${guest.cmdline ?? ''} microvisor.ip=${card}:${address}/24`,
});

function expectServed(bytes: Buffer): void {
  expect(bytes).toHaveLength(SERVED.bytes.length);
  expect(sha256(bytes)).toBe(sha256(SERVED.bytes));
}

const PINGED = /3 packets transmitted, 3 packets received/;
/** A file that the guest serves. */
const SERVED = countedLines(BYTES);
const SERVE = `mkdir -p /tmp/www; ${SERVED.command} >/tmp/www/blob`;

describe.skipIf(skipped !== undefined)(`a guest's network${skipped === undefined ? '' : ` (${skipped})`}`, () => {
  beforeAll(async () => {
    guest = await guestConfig('small');
    enterOwnNetwork();
    addWayOut();
    // Pings of a process without privileges, which passt is: ping_group_range in icmp(7).
    writeFileSync('/proc/sys/net/ipv4/ping_group_range', '0 2147483647');
    // The gateway answers pings itself; as a destination of TCP it is this host's loopback, by passt.
    ip(`addr add ${WAY_OUT.gateway}/32 dev lo`);
    ip('tuntap add dev cable0 mode tap');
    ip('addr add 10.78.0.1/24 dev cable0');
    ip('link set cable0 up');
  }, PREPARE_MS);
  afterAll(() => rmSync(folder, { recursive: true }));

  test.each([1, 2])(
    'user: "DHCP, ping of the gateway, an HTTP transfer of 8 MiB … with equal checksum, and one back through a forward"; ' +
      'tap: "ping both ways, and 8 MiB by TCP"; %i vCPU',
    async (cpus) => {
      const pcap = join(folder, `user${cpus}.pcap`);
      const { server, port } = await listen(
        createHttpServer((_, response) => response.end(blob)),
        '127.0.0.1',
      );
      const sending = await listen(
        createServer((socket) => void socket.on('error', () => undefined).end(blob)),
        '10.78.0.1',
      );
      const forward = 18_000 + cpus;
      // wget again: passt resets a connection whose guest leaves it for some seconds, as on a busy, emulated host it may.
      const session = await GuestSession.start(
        {
          ...guest,
          cpus,
          ...withAddress('10.78.0.2', 'eth1'),
          nets: [
            { backend: { kind: 'user', forwards: [{ host: forward, guest: 80 }] }, pcap },
            { backend: { kind: 'tap', name: 'cable0' } },
          ],
        },
        // The host may be busy for longer than init waits.
        `until ip -4 addr show eth0 | grep inet; do sleep 1; done; ping -c 3 -W 10 ${WAY_OUT.gateway}; echo user pinged;
         for i in 1 2 3; do wget -q -O /tmp/down http://${WAY_OUT.gateway}:${port}/ && break; done;
         echo down $(sha256sum /tmp/down); rm /tmp/down;
         ${SERVE}; httpd -p 80 -h /tmp/www; echo serving; read line
         ping -c 3 -W 10 10.78.0.1; echo tap pinged; read line;
         echo down by tap $(nc 10.78.0.1 ${sending.port} </dev/null | sha256sum);
         nc -l -p 99 </tmp/www/blob >/dev/null & sleep 1; echo listening; read line; wait`,
      );
      onTestFinished(async () => void (await session.vm.stop()));
      await session.expect(/serving\n/);
      server.close();
      const [ofUser] = await session.expect(/[^]*user pinged\n/);
      expect(ofUser).toContain(`inet ${WAY_OUT.guest}/24`);
      expect(ofUser).toMatch(PINGED);
      expect(session.output).toContain(`down ${sha256(blob)}`);
      const response = await fetchAll('127.0.0.1', forward, 'GET /blob HTTP/1.0\r\n\r\n');
      expectServed(response.subarray(response.indexOf('\r\n\r\n') + 4));

      session.say('go on with the TAP');
      const [ofTap] = await session.expect(/serving[^]*tap pinged\n/);
      expect(ofTap).toMatch(PINGED);
      expect(await hostPing('10.78.0.2')).toMatch(PINGED);
      session.say('go on');
      await session.expect(/listening\n/);
      sending.server.close();
      expect(session.output).toContain(`down by tap ${sha256(blob)}`);
      expectServed(await fetchAll('10.78.0.2', 99));
      session.say('done');
      await session.end();

      const dump = execFileSync('tcpdump', ['-n', '-r', pcap], {
        encoding: 'utf8',
        stdio: ['ignore', 'pipe', 'ignore'],
      });
      expect(dump).toMatch(/BOOTP\/DHCP, Request from/);
      expect(dump).toContain(`${WAY_OUT.guest} > ${WAY_OUT.gateway}: ICMP echo request`);
      expect(dump).toContain(`${WAY_OUT.gateway} > ${WAY_OUT.guest}: ICMP echo reply`);
      const [user, tap] = session.vm.report().virtio;
      expect(user?.counters).toMatchObject({ malformed: 0, captureLost: 0, passtStarts: 1 });
      expect(tap?.counters).toMatchObject({ malformed: 0, tapLost: 0 });
      // Segments larger than a packet, both ways: what the offloads are for. A guest whose kernel code is emulated sends
      // and acknowledges packet by packet, so that neither side may ever have two to send in one.
      if (emulatesKernelCode()) return;
      const { largestSent, largestReceived } = tap?.counters ?? {};
      expect(largestSent).toBeGreaterThan(1514);
      expect(largestReceived).toBeGreaterThan(1514);
    },
    2 * NET_MS,
  );

  test(
    'switch: "two VMs in one process ping each other", one of them with 2 vCPUs',
    async () => {
      const nets = [{ backend: { kind: 'switch', name: 'lan' } as const, lockMac: true }];
      const start = (cpus: number, own: string, other: string): Promise<GuestSession> =>
        GuestSession.start(
          { ...guest, cpus, ...withAddress(own), nets },
          `until ping -c 1 -W 2 ${other} >/dev/null; do :; done; ping -c 3 -W 10 ${other}; echo pinged; read line`,
        );
      const sessions = [await start(1, '10.79.0.1', '10.79.0.2'), await start(2, '10.79.0.2', '10.79.0.1')];
      onTestFinished(async () => void (await Promise.all(sessions.map(({ vm }) => vm.stop()))));
      for (const session of sessions) {
        await session.expect(/pinged\n/);
        expect(session.output).toMatch(PINGED);
      }
      for (const session of sessions) session.say('done');
      for (const session of sessions) {
        await session.end();
        expect(session.vm.report().virtio[0]?.counters).toMatchObject({
          foreignMac: 0,
          malformed: 0,
          switchDropped: 0,
        });
      }
    },
    2 * NET_MS,
  );

  test(
    'examples/echo-network.ts: a ping is answered, by the guest itself; case 29: the TAP is deleted and comes back: the ' +
      'guest sees its cable out and in, and the network works again',
    async () => {
      const makeCable = (): void => {
        ip('tuntap add dev cable1 mode tap');
        ip('addr add 10.81.0.1/24 dev cable1');
        ip('link set cable1 up');
      };
      makeCable();
      const addresses = `microvisor.ip=eth0:10.80.0.1/24 microvisor.ip=eth1:10.81.0.2/24`;
      const session = await GuestSession.start(
        {
          ...guest,
          cmdline: `${guest.cmdline ?? ''} ${addresses}`,
          nets: [{ backend: echoNetwork(), mac: '52:54:00:00:00:01' }, { backend: { kind: 'tap', name: 'cable1' } }],
        },
        `cat /sys/class/net/eth0/address; arp -s 10.80.0.2 02:00:00:00:00:02; ping -c 3 -W 10 10.80.0.2;
         echo carrier $(cat /sys/class/net/eth1/carrier);
         read line; until [ "$(cat /sys/class/net/eth1/carrier)" = 0 ]; do sleep 1; done; echo out;
         until [ "$(cat /sys/class/net/eth1/carrier)" = 1 ]; do sleep 1; done; echo in;
         until ping -c 1 -W 2 10.81.0.1 >/dev/null; do :; done; ping -c 3 -W 10 10.81.0.1`,
      );
      onTestFinished(async () => void (await session.vm.stop()));
      const [ofEcho] = await session.expect(/[^]*carrier 1\n/);
      expect(ofEcho).toMatch(PINGED);
      expect(ofEcho).toMatch(/^52:54:00:00:00:01$/m);
      ip('link del cable1');
      session.say('gone');
      await session.expect(/^out$/m);
      makeCable();
      await session.expect(/^in$/m);
      await session.end();
      expect(session.output.slice(ofEcho.length)).toMatch(PINGED);
      ip('link del cable1');
    },
    2 * NET_MS,
  );
});

test.skipIf(skipped !== undefined)('nothing of this has touched the machine’s own network', () => {
  expect(readFileSync('/proc/1/net/dev', 'utf8')).not.toMatch(/cable0|wayout/);
});
