// The user network with the real passt, in a network namespace of this file's own.
// passt(1); hostile cases, Host faults 29.
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { PasstBackend } from '../../../../src/devices/backend/passt.js';
import { REG } from '../../../support/virtqueue-driver.js';
import { dhcpDiscover, offeredAddress } from '../../../support/dhcp.js';
import { addWayOut, enterOwnNetwork, noNetns, WAY_OUT } from '../../../support/netns.js';
import { GUEST_MAC, KeepingBackend, NetRig } from '../../../support/net-rig.js';
import { children, idleShare, killChild } from '../../../support/processes.js';
import { programPath, programsMissing } from '../../../support/programs.js';

const noPasst = noNetns ?? programsMissing('passt');

const isAlive = (pid: number): boolean =>
  existsSync(`/proc/${pid}`) && !/^State:\sZ/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));

async function until(what: string, holds: () => boolean, milliseconds = 20_000): Promise<void> {
  for (const end = performance.now() + milliseconds; !holds();) {
    if (performance.now() > end) throw new Error(`${what}: not within ${milliseconds} ms`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

/** Asks for an address, as a guest's first packet. */
async function askForAddress(rig: NetRig): Promise<string | undefined> {
  rig.offer();
  rig.transmit(dhcpDiscover(GUEST_MAC));
  let address: string | undefined;
  await until('the offer of an address', () => {
    const got = rig.takeFrame();
    if (got === undefined) return false;
    rig.offer();
    return (address = offeredAddress(got.body)) !== undefined;
  });
  return address;
}

const isLinkUp = (rig: NetRig): boolean => rig.machine.read(REG.Config + 6, 2) === 1;

const folder = mkdtempSync(join(tmpdir(), 'microvisor-passt-'));
afterAll(() => rmSync(folder, { recursive: true }));

/** In the place of passt: sends a frame every 20 ms from its start on, and answers only half a second later. */
const TALKATIVE = `#!${process.execPath}
const socket = new (require('node:net').Socket)({ fd: 3 });
const send = (frame) => socket.write(Buffer.concat([Buffer.from([0, 0, 0, frame.length]), frame]));
socket.on('close', () => process.exit(0));
socket.on('error', () => process.exit(0));
setInterval(() => send(Buffer.alloc(60, 0xff)), 20);
setTimeout(() => socket.on('data', (bytes) => {
  const answer = Buffer.from(bytes.subarray(4, 46));
  answer[21] = 2;
  answer.set([169, 254, 255, 254], 28);
  send(answer);
}), 500);
`;

describe.skipIf(noPasst !== undefined)(`passt${noPasst === undefined ? '' : ` (${noPasst})`}`, () => {
  beforeAll(() => {
    enterOwnNetwork();
  });

  test('without a way out it says so, and nothing is left', async () => {
    await expect(NetRig.start(new PasstBackend())).rejects.toThrow(
      /^the user network's passt ended at once: .*; it needs an interface with an address and a default route/,
    );
    expect(children(process.pid)).toEqual([]);
  });

  test('"guests get their address by DHCP from it"; no process is left when it is closed', async () => {
    addWayOut();
    const rig = await NetRig.start(new PasstBackend());
    expect(await askForAddress(rig)).toBe(WAY_OUT.guest);
    const [passt] = children(process.pid);
    await rig.close();
    expect(isAlive(passt ?? 0)).toBe(false);
  });

  test('"says how to install it when it is missing"', async () => {
    await expect(NetRig.start(new PasstBackend({ program: 'no-such-passt' }))).rejects.toThrow(
      'the user network needs no-such-passt, which is not installed; on Debian or Ubuntu: sudo apt-get install passt',
    );
  });

  test('what passt says last is in the error, though it comes after the news of its exit', async () => {
    const program = join(mkdtempSync(join(tmpdir(), 'microvisor-passt-')), 'passt');
    writeFileSync(program, '#!/bin/sh\n(sleep 0.3; echo "no route, no address" >&2) &\nexit 1\n', { mode: 0o755 });
    await expect(NetRig.start(new PasstBackend({ program }))).rejects.toThrow(
      /ended at once: no route, no address; it needs/,
    );
    rmSync(dirname(program), { recursive: true });
  });

  test('a forward is bound to this machine; a port that is taken is an error', async () => {
    const server = createServer().listen(18_081, '127.0.0.1');
    await once(server, 'listening');
    await expect(NetRig.start(new PasstBackend({ forwards: [{ host: 18_081, guest: 80 }] }))).rejects.toThrow(/18081/);
    server.close();
    const rig = await NetRig.start(new PasstBackend({ forwards: [{ host: 18_080, guest: 80 }] }));
    const listening = execFileSync('ip', ['-o', 'addr'], { encoding: 'utf8' });
    expect(listening).toContain(WAY_OUT.guest);
    // Local addresses in hexadecimal, little-endian: 127.0.0.1:18080.
    expect(readFileSync('/proc/thread-self/net/tcp', 'utf8')).toContain('0100007F:46A0');
    await rig.close();
  });

  test('case 29: "passt gone → link down, one line, … reconnects when it is back"', async () => {
    const rig = await NetRig.start(new PasstBackend());
    const [first = 0] = children(process.pid);
    process.kill(first, 'SIGKILL');
    await until('the link is down', () => !isLinkUp(rig));
    // What the guest sends meanwhile is lost, and its buffers come back.
    for (let i = 0; i < 50; i++) rig.transmit(dhcpDiscover(GUEST_MAC));
    await rig.settle();
    expect(rig.transmitting.usedIndex).toBe(50);
    await until('the link is up again', () => isLinkUp(rig));
    expect(rig.machine.warnings).toEqual([
      expect.stringMatching(/^net0: passt ended \(.*\); the guest's cable is out/),
    ]);
    expect(rig.counter('passtLost')).toBe(1);
    expect(await askForAddress(rig)).toBe(WAY_OUT.guest);
    await rig.close();
    expect(children(process.pid)).toEqual([]);
  });

  test('case 29: passt is gone for longer: "one line, CPU below 5 %, reconnects when it is back"', async () => {
    const program = join(folder, 'passt');
    const install = (): void => symlinkSync(programPath('passt') ?? 'passt', program);
    install();
    const rig = await NetRig.start(new PasstBackend({ program }));
    rmSync(program);
    killChild();
    await until('the link is down', () => !isLinkUp(rig));
    expect(await idleShare(), '"CPU below 5 %"').toBeLessThan(0.05);
    expect(isLinkUp(rig)).toBe(false);
    install();
    await until('the link is up again', () => isLinkUp(rig));
    expect(rig.machine.warnings).toEqual([expect.stringMatching(/the guest's cable is out until it runs again$/)]);
    expect(await askForAddress(rig)).toBe(WAY_OUT.guest);
    await rig.close();
  });

  test('"reconnects when it is back": what it sends before it is ready is lost, and stops nothing', async () => {
    const program = join(folder, 'talkative');
    writeFileSync(program, TALKATIVE);
    chmodSync(program, 0o755);
    const rig = await NetRig.start(new PasstBackend({ program }));
    // Whatever its interpreter calls its thread.
    killChild('');
    await until('the link is down', () => !isLinkUp(rig));
    await until('the next one', () => rig.counter('passtStarts') === 2);
    // A guest without room for what it says has some, before it is ready.
    await new Promise((resolve) => setTimeout(resolve, 400));
    for (let i = 0; i < 100; i++) rig.offer();
    await until('the link is up again', () => isLinkUp(rig));
    const { usedIndex } = rig.receiving;
    await until('its frames', () => rig.receiving.usedIndex > usedIndex + 3, 3000);
    await rig.close();
  });

  test('"The child never outlives us": not even when we are killed', async () => {
    const holder = spawn(
      process.execPath,
      [fileURLToPath(new URL('../../../support/passt-holder.js', import.meta.url))],
      {
        stdio: ['ignore', 'pipe', 'inherit'],
      },
    );
    const [line] = (await once(holder.stdout, 'data')) as [Buffer];
    const passt = Number(line.toString());
    expect(isAlive(passt)).toBe(true);
    holder.kill('SIGKILL');
    await until('passt ends', () => !isAlive(passt));
  });

  test('a guest without room stops the stream, and gets what was sent when it has some', async () => {
    const rig = await NetRig.start(new PasstBackend());
    for (let i = 0; i < 20; i++) rig.transmit(dhcpDiscover(GUEST_MAC));
    await new Promise((resolve) => setTimeout(resolve, 200));
    expect(rig.receiving.takeUsed()).toBeUndefined();
    for (let i = 0; i < 20; i++) rig.offer();
    await until('the offers', () => rig.receiving.usedIndex >= 20);
    await rig.close();
  });
});

test('a backend that was never opened closes', async () => {
  await new PasstBackend().close();
  expect(new KeepingBackend().closed).toBe(0);
});
