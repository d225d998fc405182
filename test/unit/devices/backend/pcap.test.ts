// Capture files, read by the real tcpdump; a disk that is full is a tmpfs of the test's own.
// draft-ietf-opsawg-pcap.
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { PcapFile, recordFrames } from '../../../../src/devices/backend/pcap.js';
import { frame, KeepingBackend, NetRig } from '../../../support/net-rig.js';
import { programsMissing } from '../../../support/programs.js';

const folder = mkdtempSync(join(tmpdir(), 'microvisor-pcap-'));
afterAll(() => rmSync(folder, { recursive: true }));

const noTcpdump = programsMissing('tcpdump');

const tcpdump = (path: string): string[] =>
  execFileSync('tcpdump', ['-n', '-e', '-tt', '-r', path], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] })
    .trim()
    .split('\n')
    // A packet's first line begins with its time; dumps of unknown protocols follow.
    .filter((line) => /^\d/.test(line));

describe('a capture file', () => {
  test.skipIf(noTcpdump !== undefined)(
    '"The pcap opens in tcpdump" (needs tcpdump: apt-get install tcpdump)',
    async () => {
      const path = join(folder, 'both-ways.pcap');
      const backend = new KeepingBackend();
      const before = Date.now() / 1000;
      const rig = await NetRig.start(recordFrames(backend, path));
      for (let i = 0; i < 3; i++) rig.offer();
      await rig.settle();
      rig.transmit(frame(60));
      await rig.settle();
      backend.link?.receive(
        frame(1514, { to: rig.device.offer.config.subarray(0, 6), from: Uint8Array.of(2, 0, 0, 0, 0, 9) }),
      );
      await rig.settle();
      await rig.close();
      const lines = tcpdump(path);
      expect(lines).toHaveLength(2);
      expect(lines[0]).toMatch(/52:54:00:00:00:01 > 52:54:00:00:00:02, ethertype .*0x88b5.*length 60:/);
      expect(lines[1]).toMatch(/02:00:00:00:00:09 > 52:54:00:00:00:01, .*length 1514:/);
      for (const line of lines) {
        const at = Number(line.split(' ')[0]);
        expect(at).toBeGreaterThanOrEqual(before - 1);
        expect(at).toBeLessThanOrEqual(Date.now() / 1000 + 1);
      }
    },
  );

  test('is its owner’s alone, starts with the magic, and has no virtio header in it', async () => {
    const path = join(folder, 'offload.pcap');
    const backend = new KeepingBackend();
    backend.setOffloads = () => undefined;
    const rig = await NetRig.start(recordFrames(backend, path));
    rig.transmit(frame(60));
    await rig.settle();
    await rig.close();
    expect(statSync(path).mode & 0o777).toBe(0o600);
    const bytes = readFileSync(path);
    expect(bytes.readUInt32LE(0)).toBe(0xa1b2c3d4);
    expect([bytes.readUInt32LE(32), bytes.readUInt32LE(36)]).toEqual([60, 60]);
    expect(Buffer.compare(bytes.subarray(40), frame(60))).toBe(0);
  });

  test('what was refused is not recorded; a frame that the guest had no room for is not either', async () => {
    const path = join(folder, 'refused.pcap');
    const backend = new KeepingBackend();
    const rig = await NetRig.start(recordFrames(backend, path));
    backend.isFull = true;
    rig.transmit(frame(60));
    expect(backend.link?.receive(frame(60))).toBe(false);
    await rig.settle();
    await rig.close();
    expect(statSync(path).size).toBe(24);
  });

  test('a path that cannot be written is an error with the path, before there is a machine', async () => {
    const backend = new KeepingBackend();
    await expect(NetRig.start(recordFrames(backend, '/proc/no/such.pcap'))).rejects.toThrow(
      /^the capture file \/proc\/no\/such\.pcap cannot be written: ENOENT/,
    );
  });

  test('more than the disk takes at once is not kept without bound', async () => {
    const file = await PcapFile.create(join(folder, 'flood.pcap'), () => undefined);
    const big = frame(60_000);
    for (let i = 0; i < 200; i++) file.record(big);
    expect(file.lost).toBeGreaterThan(100);
    await file.close();
    expect(statSync(join(folder, 'flood.pcap')).size).toBe(24 + (200 - file.lost) * 60_016);
  });

  test.skipIf(process.getuid?.() !== 0)(
    'disk full: one line, the file stays readable, the frames go on (needs root)',
    async () => {
      const mount = join(folder, 'small');
      mkdirSync(mount);
      execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=64k', 'none', mount]);
      try {
        const path = join(mount, 'full.pcap');
        const backend = new KeepingBackend();
        const rig = await NetRig.start(recordFrames(backend, path));
        const send = async (): Promise<void> => {
          rig.transmit(frame(1514));
          await new Promise((resolve) => setTimeout(resolve, 2));
          while (rig.transmitting.takeUsed() !== undefined);
        };
        let sent = 0;
        for (; rig.machine.warnings.length === 0; sent++) await send();
        for (const end = sent + 20; sent < end; sent++) await send();
        await rig.settle();
        expect(backend.frames).toHaveLength(sent);
        expect(rig.machine.warnings).toEqual([expect.stringMatching(/full\.pcap cannot be written any more.*ENOSPC/)]);
        expect(rig.counter('captureLost')).toBeGreaterThan(0);
        await rig.close();
        if (noTcpdump === undefined) expect(tcpdump(path).length).toBe((statSync(path).size - 24) / (16 + 1514));
      } finally {
        execFileSync('umount', [mount]);
      }
    },
  );
});
