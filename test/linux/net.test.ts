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
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { echoNetwork } from '../../examples/echo-network.js';
import type { VmConfig } from '../../src/index.js';
import { GuestSession } from '../support/guest-session.js';
import { noKvm } from '../support/kvm.js';
import { BOOT_MS, emulatesKernelCode, guestConfig, PREPARE_MS } from '../support/linux.js';
import { addWayOut, enterOwnNetwork, ip, noNetns, WAY_OUT } from '../support/netns.js';
import { programsMissing } from '../support/programs.js';
import { amount } from '../support/soak.js';

const MIB = 2 ** 20;
/** Where kernel code is emulated a packet costs the guest a hundred thousand instructions' time. */
const BYTES = emulatesKernelCode() ? amount(2 * MIB, 8 * MIB) : 8 * MIB;
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

const withAddress = (address: string): Partial<VmConfig> => ({
  cmdline: `${guest.cmdline ?? ''} microvisor.ip=eth0:${address}/24`,
});

const PINGED = /3 packets transmitted, 3 packets received/;
/** A file that the guest serves: its checksum first. */
const SERVE = `mkdir -p /tmp/www; dd if=/dev/urandom of=/tmp/www/blob bs=1M count=${BYTES / MIB} 2>/dev/null; echo sum $(sha256sum /tmp/www/blob)`;

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

  for (const cpus of [1, 2]) {
    test(
      `user, ${cpus} vCPU: "DHCP, ping of the gateway, an HTTP transfer of 8 MiB … with equal checksum, and one back through a forward"`,
      async () => {
        // wget again: passt resets a connection whose guest leaves it for some seconds, as on a busy, emulated host it may.
        const pcap = join(folder, `user${cpus}.pcap`);
        const { server, port } = await listen(
          createHttpServer((_, response) => response.end(blob)),
          '127.0.0.1',
        );
        const forward = 18_000 + cpus;
        const session = await GuestSession.start(
          { ...guest, cpus, nets: [{ backend: { kind: 'user', forwards: [{ host: forward, guest: 80 }] }, pcap }] },
          `ip -4 addr show eth0; ping -c 3 -W 10 ${WAY_OUT.gateway};
           for i in 1 2 3; do wget -q -O /tmp/down http://${WAY_OUT.gateway}:${port}/ && break; done;
           echo down $(sha256sum /tmp/down); rm /tmp/down;
           ${SERVE}; httpd -p 80 -h /tmp/www; echo serving; read line`,
        );
        await session.expect(/serving\n/);
        server.close();
        expect(session.output).toContain(`inet ${WAY_OUT.guest}/24`);
        expect(session.output).toMatch(PINGED);
        expect(session.output).toContain(`down ${sha256(blob)}`);
        const response = await fetchAll('127.0.0.1', forward, 'GET /blob HTTP/1.0\r\n\r\n');
        const body = response.subarray(response.indexOf('\r\n\r\n') + 4);
        const [, sum] = await session.expect(/^sum (\w+)/m);
        expect(body).toHaveLength(BYTES);
        expect(sha256(body)).toBe(sum);
        session.say('done');
        await session.end();
        const dump = execFileSync('tcpdump', ['-n', '-r', pcap], {
          encoding: 'utf8',
          stdio: ['ignore', 'pipe', 'ignore'],
        });
        expect(dump).toMatch(/BOOTP\/DHCP, Request from/);
        expect(dump).toContain(`${WAY_OUT.guest} > ${WAY_OUT.gateway}: ICMP echo request`);
        expect(dump).toContain(`${WAY_OUT.gateway} > ${WAY_OUT.guest}: ICMP echo reply`);
        const [net] = session.vm.report().virtio;
        expect(net?.counters).toMatchObject({ malformed: 0, captureLost: 0, passtStarts: 1 });
      },
      NET_MS * cpus,
    );

    test(
      `tap, ${cpus} vCPU: "ping both ways, and 8 MiB by TCP"`,
      async () => {
        const sending = await listen(
          createServer((socket) => void socket.on('error', () => undefined).end(blob)),
          '10.78.0.1',
        );
        const session = await GuestSession.start(
          { ...guest, cpus, ...withAddress('10.78.0.2'), nets: [{ backend: { kind: 'tap', name: 'cable0' } }] },
          `ping -c 3 -W 10 10.78.0.1; echo pinged; read line;
           echo down $(nc 10.78.0.1 ${sending.port} </dev/null | sha256sum);
           ${SERVE}; nc -l -p 99 </tmp/www/blob >/dev/null & sleep 1; echo serving; read line; wait`,
        );
        await session.expect(/pinged\n/);
        expect(session.output).toMatch(PINGED);
        expect(await hostPing('10.78.0.2')).toMatch(PINGED);
        session.say('go on');
        await session.expect(/serving\n/);
        sending.server.close();
        expect(session.output).toContain(`down ${sha256(blob)}`);
        const received = await fetchAll('10.78.0.2', 99);
        const [, sum] = await session.expect(/^sum (\w+)/m);
        expect(received).toHaveLength(BYTES);
        expect(sha256(received)).toBe(sum);
        session.say('done');
        await session.end();
        const [net] = session.vm.report().virtio;
        expect(net?.counters).toMatchObject({ malformed: 0, tapLost: 0 });
        // Segments larger than a packet, both ways: what the offloads are for.
        const { framesSent = 0, framesReceived = 0 } = net?.counters ?? {};
        expect(framesSent + framesReceived).toBeLessThan((2 * BYTES) / 1460);
      },
      NET_MS * cpus,
    );

    test(
      `switch, ${cpus} vCPU: "two VMs in one process ping each other"`,
      async () => {
        const nets = [{ backend: { kind: 'switch', name: 'lan' } as const, lockMac: true }];
        const start = (own: string, other: string): Promise<GuestSession> =>
          GuestSession.start(
            { ...guest, cpus, ...withAddress(own), nets },
            `until ping -c 1 -W 2 ${other} >/dev/null; do :; done; ping -c 3 -W 10 ${other}; echo pinged; read line`,
          );
        const sessions = [await start('10.79.0.1', '10.79.0.2'), await start('10.79.0.2', '10.79.0.1')];
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
      2 * NET_MS * cpus,
    );
  }

  test(
    'examples/echo-network.ts: a ping is answered, by the guest itself',
    async () => {
      const session = await GuestSession.start(
        { ...guest, ...withAddress('10.80.0.1'), nets: [{ backend: echoNetwork(), mac: '52:54:00:00:00:01' }] },
        `cat /sys/class/net/eth0/address; arp -s 10.80.0.2 02:00:00:00:00:02; ping -c 3 -W 10 10.80.0.2`,
      );
      await session.end();
      expect(session.output).toMatch(PINGED);
      expect(session.output).toMatch(/^52:54:00:00:00:01$/m);
    },
    NET_MS,
  );

  test(
    'case 29: the TAP is deleted and comes back: the guest sees its cable out and in, and the network works again',
    async () => {
      ip('tuntap add dev cable1 mode tap');
      ip('addr add 10.81.0.1/24 dev cable1');
      ip('link set cable1 up');
      const session = await GuestSession.start(
        { ...guest, ...withAddress('10.81.0.2'), nets: [{ backend: { kind: 'tap', name: 'cable1' } }] },
        `echo carrier $(cat /sys/class/net/eth0/carrier);
         read line; until [ "$(cat /sys/class/net/eth0/carrier)" = 0 ]; do sleep 1; done; echo out;
         until [ "$(cat /sys/class/net/eth0/carrier)" = 1 ]; do sleep 1; done; echo in;
         until ping -c 1 -W 2 10.81.0.1 >/dev/null; do :; done; ping -c 3 -W 10 10.81.0.1`,
      );
      await session.expect(/carrier 1\n/);
      ip('link del cable1');
      session.say('gone');
      await session.expect(/^out$/m);
      ip('tuntap add dev cable1 mode tap');
      ip('addr add 10.81.0.1/24 dev cable1');
      ip('link set cable1 up');
      await session.expect(/^in$/m);
      await session.end();
      expect(session.output).toMatch(PINGED);
      ip('link del cable1');
    },
    NET_MS,
  );
});

test.skipIf(skipped !== undefined)('nothing of this has touched the machine’s own network', () => {
  expect(readFileSync('/proc/1/net/dev', 'utf8')).not.toMatch(/cable0|wayout/);
});
