// kill -9 of the process that has the disk: "every acknowledged write is there".
// Issue text, Power loss; overlay-format.ts (live map).
import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { openDisk } from '../../../../src/devices/backend/disk.js';
import { DiskHands, transferMemory } from '../../../support/disk-hands.js';
import { WRITER_SECTOR, writerStamp } from '../../../support/disk-writer.js';

const KILLS = 20;
const SECTORS = 2048;
const WRITER = fileURLToPath(new URL('../../../support/disk-writer.js', import.meta.url));

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'microvisor-kill-'));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** What the writer said until it was killed, `milliseconds` after its first write. */
function writeUntilKilled(parameters: readonly string[], milliseconds: number): Promise<string> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [WRITER, ...parameters], { stdio: ['ignore', 'pipe', 'inherit'] });
    let said = '';
    child.stdout.setEncoding('utf8');
    child.stdout.on('data', (text: string) => {
      if (said === '') setTimeout(() => child.kill('SIGKILL'), milliseconds);
      said += text;
    });
    child.on('error', reject);
    child.on('close', (_, signal) =>
      signal === 'SIGKILL' ? resolve(said) : reject(new Error(`the writer ended by itself: ${said.slice(-200)}`)),
    );
  });
}

describe.each([
  ['raw', false],
  ['overlay', true],
])('%s', (name, hasOverlay) => {
  it(`after ${KILLS} kills at random moments`, { timeout: 120_000 }, async () => {
    const path = join(folder, name);
    const overlay = hasOverlay ? `${path}.overlay` : '';
    const base = new Uint8Array(SECTORS * WRITER_SECTOR);
    for (let sector = 0; sector < SECTORS; sector++) base.set(writerStamp(sector, 0), sector * WRITER_SECTOR);
    writeFileSync(path, base);
    // By sector: what it may hold. The last one of the past is certain; those that had only begun may be there.
    const allowed = Array.from({ length: SECTORS }, () => new Set([0]));
    let version = 1;
    let acknowledged = 0;
    for (let kill = 0; kill < KILLS; kill++) {
      const said = await writeUntilKilled([path, overlay, `${version}`], Math.random() * 60);
      const begun = new Map<number, readonly [first: number, count: number]>();
      // The last line may be half a line.
      for (const line of said.split('\n').slice(0, -1)) {
        const [word, mark = 0, first = 0, count = 0] = line
          .split(' ')
          .map((part, i) => (i === 0 ? part : Number(part)));
        if (word === 'begin') begun.set(Number(mark), [Number(first), Number(count)]);
        if (word !== 'begin' && word !== 'done') continue;
        const [from, length] = begun.get(Number(mark)) ?? [0, 0];
        for (let sector = from; sector < from + length; sector++) {
          if (word === 'done') allowed[sector]?.clear();
          allowed[sector]?.add(Number(mark));
        }
        if (word === 'done') acknowledged++;
        version = Math.max(version, Number(mark) + 1);
      }
      // A write whose `begin` was cut off with the pipe's last bytes.
      version += 100;
      const memory = transferMemory(16 * SECTORS * WRITER_SECTOR);
      const disk = await openDisk({ path, overlay: hasOverlay ? overlay : undefined, readOnly: true }, memory);
      const content = await new DiskHands(disk, memory).content();
      await disk.close();
      for (const [sector, versions] of allowed.entries()) {
        const found = content.subarray(sector * WRITER_SECTOR, (sector + 1) * WRITER_SECTOR);
        const isOne = [...versions].some((mark) => Buffer.compare(found, writerStamp(sector, mark)) === 0);
        if (!isOne)
          throw new Error(`kill ${kill}: sector ${sector} holds none of the versions ${[...versions].join(', ')}`);
        // What is there stays there.
        const holds = new DataView(found.buffer, found.byteOffset).getUint32(4, true);
        versions.clear();
        versions.add(holds);
      }
    }
    expect(acknowledged).toBeGreaterThan(KILLS);
    if (hasOverlay) expect(Buffer.compare(readFileSync(path), base)).toBe(0);
  });
});
