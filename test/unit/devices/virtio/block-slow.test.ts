// A disk whose file is really slow, or really broken: a file system served by a process of the test's.
// Shared list of hostile cases, 21, 28 and 30.
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { openDisk } from '../../../../src/devices/backend/disk.js';
import { ANSWER } from '../../../../src/devices/virtio/block-request.js';
import { GuestMemory } from '../../../../src/memory/guest-memory.js';
import { BlockRig } from '../../../support/block-rig.js';
import { FuseDisk } from '../../../support/fuse-disk.js';
import { amount } from '../../../support/soak.js';
import { REG } from '../../../support/virtqueue-driver.js';

const BYTES = 1 << 20;
const IN_FLIGHT = 64;
const SLOW_MS = amount(300, 5000);

function canMount(): boolean {
  if (process.getuid?.() !== 0) return false;
  try {
    execFileSync('sh', ['-c', 'grep -qw fuse /proc/filesystems && [ -c /dev/fuse ]']);
    return true;
  } catch {
    return false;
  }
}

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'microvisor-slow-'));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

async function rigOf(path: string): Promise<BlockRig> {
  const memory = GuestMemory.create(16 << 20);
  const backend = await openDisk({ path }, memory);
  return BlockRig.start({ backend }, { memory });
}

describe.skipIf(!canMount())('a file that answers when it likes', { timeout: 180_000 }, () => {
  let fuse: FuseDisk;
  let slow: BlockRig;
  beforeEach(async () => {
    fuse = await FuseDisk.mount(BYTES);
    slow = await rigOf(fuse.path);
  });
  afterEach(async () => {
    await fuse.behave({});
    await slow.close();
    await fuse.unmount();
  });

  it('reads and writes like any other', async () => {
    expect((await slow.write(8, new Uint8Array(4096).fill(0xab))).status).toBe(ANSWER.OK);
    expect((await slow.read(8, 4096)).data.every((byte) => byte === 0xab)).toBe(true);
    expect((await slow.read(0, 512)).data.every((byte) => byte === 0)).toBe(true);
  });

  it('30. "a disk that takes 5 s, with 64 requests in flight → other disks, the network and the API answer"', async () => {
    const path = join(folder, 'other');
    writeFileSync(path, '');
    truncateSync(path, BYTES);
    const other = await rigOf(path);
    await fuse.behave({ delayMs: SLOW_MS });
    const requests = Array.from({ length: IN_FLIGHT }, (_, i) =>
      i % 4 === 0 ? slow.write(i * 8, new Uint8Array(512)) : slow.read(i * 8, 512),
    );
    const all = Promise.all(requests);
    for (let i = 0; i < 40; i++) {
      expect((await other.write(i * 8, new Uint8Array(512).fill(i))).status).toBe(ANSWER.OK);
      expect((await other.read(i * 8, 512)).data[0]).toBe(i);
      other.recycle();
    }
    expect((await other.flush()).status).toBe(ANSWER.OK);
    // Node's own pool is nobody's prisoner.
    await readFile('/proc/self/stat');
    expect(slow.waiting).toBeGreaterThan(0);
    for (const { status } of await all) expect(status).toBe(ANSWER.OK);
    await other.close();
  });

  it('21. FLUSH waits for the file system’s own fsync', async () => {
    const before = await fuse.behave({ delayMs: 200 });
    await slow.write(0, new Uint8Array(512));
    const flush = slow.flush();
    await slow.machine.settle(5);
    expect((await fuse.behave({ delayMs: 200 })).syncs).toBe(before.syncs);
    expect(slow.waiting).toBe(1);
    expect((await flush).status).toBe(ANSWER.OK);
    expect((await fuse.behave({})).syncs).toBe(before.syncs + 1);
  });

  it('28. EIO: an I/O error to the guest for reads, writes and flushes; all is well when the cause is gone', async () => {
    await fuse.behave({ errno: 5 });
    expect((await slow.read(0, 512)).status).toBe(ANSWER.IOERR);
    expect((await slow.write(0, new Uint8Array(512))).status).toBe(ANSWER.IOERR);
    expect((await slow.flush()).status).toBe(ANSWER.IOERR);
    expect(slow.machine.warnings.length).toBeGreaterThan(0);
    await fuse.behave({});
    expect((await slow.write(0, new Uint8Array(512).fill(3))).status).toBe(ANSWER.OK);
    expect((await slow.flush()).status).toBe(ANSWER.OK);
    expect((await slow.read(0, 512)).data[5]).toBe(3);
  });

  it('16. a reset waits for what the host is working on', async () => {
    await fuse.behave({ delayMs: SLOW_MS });
    for (let i = 0; i < 8; i++) void slow.read(i, 512);
    await slow.machine.settle();
    const { machine } = slow;
    machine.write(REG.Status, 0);
    await machine.settle();
    expect(machine.back.report().resets).toBe(1);
    const { usedIndex } = slow.queue;
    while (machine.state.fields.RESET.get() !== 0) await new Promise((resolve) => setTimeout(resolve, 10));
    expect(slow.queue.usedIndex).toBe(usedIndex);
    expect(machine.status).toBe(0);
  });
});
