// A disk on a host that fails, as its driver sees it. Shared list of hostile cases, 20 and 28.
import { mkdtempSync, readFileSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { constants, tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { openDisk, type DiskHost, type DiskOptions } from '../../../../src/devices/backend/disk.js';
import { overlayLayout } from '../../../../src/devices/backend/overlay-format.js';
import { ANSWER } from '../../../../src/devices/virtio/block-request.js';
import { GuestMemory } from '../../../../src/memory/guest-memory.js';
import { BlockRig, MemoryDisk } from '../../../support/block-rig.js';
import { DISK_FAULTS } from '../../../support/disk-faults.js';
import { memoryInUse } from '../../../support/memory-use.js';
import { REG } from '../../../support/virtqueue-driver.js';

const PIECE = 4096;

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'microvisor-faults-'));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

async function rigOf(options: DiskOptions, host?: DiskHost): Promise<BlockRig> {
  const memory = GuestMemory.create(16 << 20);
  return BlockRig.start({ backend: await openDisk(options, memory, host) }, { memory });
}

describe('28. "backing file truncated, EIO, ENOSPC, file-size limit → IOERR; writes work again when there is space"', () => {
  for (const [name, isPossible, arrange] of DISK_FAULTS)
    it.skipIf(!isPossible)(`${name}: "memory stays bounded, and it works again when the cause is gone"`, async () => {
      const fault = await arrange(folder);
      const rig = await rigOf(fault.disk);
      const other = await BlockRig.start({ backend: new MemoryDisk(1 << 16) });
      const written = new Uint8Array(PIECE).fill(0x5a);
      const ask = async (): Promise<number> => {
        rig.recycle();
        const { sector } = fault;
        return (await (fault.request === 'read' ? rig.read(sector, PIECE) : rig.write(sector, written))).status;
      };
      try {
        if (fault.request === 'read') expect(await ask()).toBe(ANSWER.OK);
        await fault.begin();
        expect(await ask()).toBe(ANSWER.IOERR);
        const before = await memoryInUse();
        for (let i = 0; i < 500; i++) expect(await ask()).toBe(ANSWER.IOERR);
        expect((await memoryInUse()) - before).toBeLessThan(16);
        expect((await other.read(0, 512)).status).toBe(ANSWER.OK);
        expect(rig.machine.warnings[0]).toMatch(/^disk0: a (read|write) of 4096 bytes at \d+ failed: E[A-Z]+ /);
        await fault.end();
        expect(await ask()).toBe(ANSWER.OK);
        expect((await rig.flush()).status).toBe(ANSWER.OK);
        if (fault.request === 'write') expect((await rig.read(fault.sector, PIECE)).data).toEqual(written);
        expect(rig.machine.back.report()).toMatchObject({ needsReset: 0, dropped: 0 });
      } finally {
        await rig.close();
        await other.close();
        await fault.remove();
      }
    });
});

describe('an overlay on a host that fails', () => {
  const SAME_BOOT = 'one start of the host'.padEnd(36);
  const written = (value: number): Uint8Array => new Uint8Array(PIECE).fill(value);

  function base(name: string): string {
    const path = join(folder, name);
    writeFileSync(path, '');
    truncateSync(path, 1 << 20);
    return path;
  }

  it('"an acknowledged write survives the end of the process": also one that failed before, for want of room for its map', async () => {
    const path = base('full.base');
    const overlay = join(folder, 'full.overlay');
    const { liveOffset, dataOffset } = overlayLayout(1 << 20);
    let isFull = false;
    const host: DiskHost = {
      bootId: () => Promise.resolve(SAME_BOOT),
      start: async (file, memory, bytes) => {
        const started = await file.start(memory, bytes);
        const write = started.write.bind(started);
        started.write = (position, vector, done) => {
          const isMap = file.path === overlay && position >= liveOffset && position < dataOffset;
          if (isFull && isMap) queueMicrotask(() => done(constants.errno.ENOSPC));
          else write(position, vector, done);
        };
        return started;
      },
    };
    const rig = await rigOf({ path, overlay }, host);
    isFull = true;
    expect((await rig.write(8, written(1))).status).toBe(ANSWER.IOERR);
    isFull = false;
    expect((await rig.write(8, written(2))).status).toBe(ANSWER.OK);
    // What a killed process leaves: acknowledged, not flushed.
    const killed = readFileSync(overlay);
    await rig.close();
    writeFileSync(overlay, killed);
    const again = await rigOf({ path, overlay }, host);
    expect((await again.read(8, PIECE)).data).toEqual(written(2));
    await again.close();
  });

  it('the overlay itself is truncated under us: IOERR for what is gone, and only for that', async () => {
    const path = base('cut.base');
    const overlay = join(folder, 'cut.overlay');
    const rig = await rigOf({ path, overlay });
    expect((await rig.write(1024, written(1))).status).toBe(ANSWER.OK);
    expect((await rig.flush()).status).toBe(ANSWER.OK);
    const { size } = statSync(overlay);
    truncateSync(overlay, overlayLayout(1 << 20).dataOffset);
    expect((await rig.read(1024, PIECE)).status).toBe(ANSWER.IOERR);
    expect((await rig.read(0, PIECE)).status).toBe(ANSWER.OK);
    truncateSync(overlay, size);
    expect((await rig.write(1024, written(2))).status).toBe(ANSWER.OK);
    expect((await rig.flush()).status).toBe(ANSWER.OK);
    await rig.close();
    const again = await rigOf({ path, overlay });
    expect((await again.read(1024, PIECE)).data).toEqual(written(2));
    await again.close();
  });
});

describe('20. "the guest writes a qcow2 or vmdk header to its raw disk; reopened → still raw"', () => {
  it.each([
    ['qcow2', Uint8Array.of(0x51, 0x46, 0x49, 0xfb, 0, 0, 0, 3)],
    ['vmdk', new TextEncoder().encode('KDMV\x01\0\0\0')],
  ])('%s', async (name, magic) => {
    const path = join(folder, name);
    writeFileSync(path, '');
    truncateSync(path, 1 << 20);
    const sector = new Uint8Array(512);
    sector.set(magic);
    const first = await rigOf({ path });
    expect((await first.write(0, sector)).status).toBe(ANSWER.OK);
    expect((await first.flush()).status).toBe(ANSWER.OK);
    await first.close();
    const second = await rigOf({ path });
    expect(second.machine.read(REG.Config)).toBe(2048);
    expect((await second.read(0, 512)).data).toEqual(sector);
    expect((await second.read(2047, 512)).status).toBe(ANSWER.OK);
    await second.close();
  });
});
