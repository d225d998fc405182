// A process that writes to a disk until it is killed, and says on its standard output what was acknowledged.
// Arguments: PATH [OVERLAY]. Each line: `begin VERSION SECTOR COUNT` or `done VERSION`; `ready` comes first.
import { writeSync } from 'node:fs';
import { openDisk } from '../../src/devices/backend/disk.js';
import { DiskHands, transferMemory } from './disk-hands.js';
import { randomOf } from './recording-file.js';

export const WRITER_SECTOR = 512;
const IN_FLIGHT = 8;
const COUNT_MAX = 16;

/** Versions of one sector differ, and so do sectors of one version. */
export function writerStamp(sector: number, version: number): Uint8Array {
  const bytes = new Uint8Array(WRITER_SECTOR).fill((sector * 31 + version * 7) & 0xff);
  new DataView(bytes.buffer).setUint32(0, sector, true);
  new DataView(bytes.buffer).setUint32(4, version, true);
  new DataView(bytes.buffer).setUint32(508, version, true);
  return bytes;
}

async function write([path = '', overlay, from = '1']: readonly string[]): Promise<void> {
  const memory = transferMemory(IN_FLIGHT * COUNT_MAX * WRITER_SECTOR);
  const disk = new DiskHands(
    await openDisk({ path, overlay: overlay === '' ? undefined : overlay }, memory),
    memory,
    IN_FLIGHT,
  );
  const sectors = disk.disk.capacityBytes / WRITER_SECTOR;
  const random = randomOf(Number(from));
  const busy = new Set<number>();
  let version = Number(from);
  writeSync(1, 'ready\n');
  const one = async (): Promise<never> => {
    for (;;) {
      const count = 1 + random(COUNT_MAX);
      const first = random(sectors - count);
      const mine = Array.from({ length: count }, (_, i) => first + i);
      if (mine.some((sector) => busy.has(sector))) {
        await new Promise((resolve) => setImmediate(resolve));
        continue;
      }
      for (const sector of mine) busy.add(sector);
      const mark = version++;
      const bytes = new Uint8Array(count * WRITER_SECTOR);
      for (const [i, sector] of mine.entries()) bytes.set(writerStamp(sector, mark), i * WRITER_SECTOR);
      writeSync(1, `begin ${mark} ${first} ${count}\n`);
      const errno = await disk.write(first * WRITER_SECTOR, bytes);
      if (errno !== 0) throw new Error(`a write failed: errno ${errno}`);
      writeSync(1, `done ${mark}\n`);
      for (const sector of mine) busy.delete(sector);
      if (random(50) === 0) await disk.flush();
    }
  };
  await Promise.all(Array.from({ length: IN_FLIGHT }, one));
}

if (process.argv[1]?.endsWith('disk-writer.js') === true) await write(process.argv.slice(2));
