// Power loss under a real Linux: what ext4 wrote, cut at 200 moments, is repaired by its journal and has what was fsynced.
// Issue text, Power loss; test/support/recording-file.ts says what a loss may do.
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { openDisk, type DiskHost, type DiskOptions } from '../../src/devices/backend/disk.js';
import { VirtioBlock } from '../../src/devices/virtio/block.js';
import type { VirtioDevice } from '../../src/devices/virtio/device.js';
import { createVm, type GuestMemory, type VmConfig } from '../../src/index.js';
import { DiskHands, transferMemory } from '../support/disk-hands.js';
import { noKvm } from '../support/kvm.js';
import { BOOT_MS, emulatesKernelCode, guestConfig, PREPARE_MS } from '../support/linux.js';
import { amount, isSoak } from '../support/soak.js';
import { Moments, randomOf, RecordingFile } from '../support/recording-file.js';

const MIB = 2 ** 20;
const IMAGE_BYTES = 8 * MIB;
/** On the emulated host a check of a file system takes a second. */
const CUTS = isSoak || process.env['MICROVISOR_HOST'] !== 'svm' ? 200 : 20;
/**
 * What a disk writes whole or not at all: the host's page cache writes pages. ext4 itself cannot stand less than a block:
 * its superblock, two sectors, is written in place and past the journal, with a checksum.
 */
const ATOM = 4096;
/** Files that the guest writes and fsyncs on each disk: where kernel code is emulated each takes it some seconds. */
const FILES = emulatesKernelCode() ? amount(8, 24) : 24;
const env = { PATH: `${process.env['PATH'] ?? ''}:/sbin:/usr/sbin` };

let folder: string;
let guest: Pick<VmConfig, 'kernel' | 'initrd' | 'cmdline'>;
beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'microvisor-ext4-'));
  if (!noKvm) guest = await guestConfig('small');
}, PREPARE_MS);
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const run = (program: string, ...words: string[]): Buffer => execFileSync(program, words, { env, stdio: 'pipe' });

/** What e2fsck says when it ends with a status above `allowed`. */
function complaint(allowed: number, ...words: string[]): string | undefined {
  try {
    run('e2fsck', ...words);
    return undefined;
  } catch (error) {
    const { status, stdout, stderr } = error as { status: number; stdout: Buffer; stderr: Buffer };
    return status <= allowed
      ? undefined
      : `e2fsck ${words[0]}: status ${status}: ${stdout.toString()}${stderr.toString()}`;
  }
}

interface Disk {
  readonly name: string;
  readonly options: DiskOptions;
  readonly files: Map<string, RecordingFile>;
}

/** A file that a guest has fsynced, and when it said so. */
interface Kept {
  readonly disk: string;
  readonly file: string;
  readonly moment: number;
}

/** What the guest writes into file `f5`, as `seq` of these numbers. */
const FIRST = (index: number): number => index * 1000 + 1;
const LAST = (index: number): number => index * 1000 + 100 + ((index * 3001) % 9000);

function contentOf(file: string): Buffer {
  const index = Number(file.slice(1));
  const count = LAST(index) - FIRST(index) + 1;
  return Buffer.from(Array.from({ length: count }, (_, i) => `${FIRST(index) + i}\n`).join(''));
}

/** Journal and blocks as small as they get, so that the journal comes around. */
function ext4(name: string): string {
  const path = join(folder, name);
  writeFileSync(path, '');
  truncateSync(path, IMAGE_BYTES);
  run('mke2fs', '-q', '-F', '-t', 'ext4', '-b', '1024', '-J', 'size=1', path);
  return path;
}

function recordingHost(files: Map<string, RecordingFile>, moments: Moments): DiskHost {
  return {
    bootId: () => Promise.resolve('the boot before the power went'),
    start: async (file, _, bytes) => {
      const content = new Uint8Array(bytes);
      await file.handle.read(content, 0, bytes, 0);
      const recording = new RecordingFile(file.path, content, moments);
      await file.handle.close();
      files.set(file.path, recording);
      return recording;
    },
  };
}

/** Each file is on the disk before its line is said; meanwhile others are written, renamed and removed without a sync. */
const SCRIPT = `
  for d in vda vdb; do
    (i=0; while [ ! -e /tmp/end ]; do i=$((i+1)); seq $i $((i + i * 150 % 2000)) >/mnt/$d/loose$((i % 7));
      mv /mnt/$d/loose$((i % 7)) /mnt/$d/moved$((i % 5)); rm -f /mnt/$d/moved$((i % 3)); done) &
  done
  i=0
  while [ $i -lt ${FILES} ]; do
    for d in vda vdb; do
      seq $((i * 1000 + 1)) $((i * 1000 + 100 + i * 3001 % 9000)) | dd of=/mnt/$d/f$i bs=64k conv=fsync 2>/dev/null
      echo "kept $d f$i"
    done
    i=$((i+1))
  done
  touch /tmp/end; wait`;

async function trace(disks: readonly Disk[], moments: Moments): Promise<Kept[]> {
  const factory =
    ({ name, options, files }: Disk, index: number) =>
    async (memory: GuestMemory): Promise<VirtioDevice> => {
      const backend = await openDisk(options, memory, recordingHost(files, moments));
      return new VirtioBlock({ name: `disk${index}`, id: name, backend });
    };
  const vm = await createVm({
    ...guest,
    appendQuirkOptions: true,
    virtio: disks.map(factory),
    exec: { argv: ['sh', '-c', SCRIPT] },
  });
  const { exec } = vm;
  if (exec === undefined) throw new Error('the machine has no exec channel');
  const kept: Kept[] = [];
  let rest = '';
  exec.stdin.end();
  const errors = text(exec.stderr);
  const onConsole = text(vm.console.output);
  exec.stdout.on('data', (bytes: Buffer) => {
    const lines = (rest + bytes.toString()).split('\n');
    rest = lines.pop() ?? '';
    for (const line of lines) {
      const [, disk, file] = /^kept (\w+) (\w+)$/.exec(line) ?? [];
      if (disk !== undefined && file !== undefined) kept.push({ disk, file, moment: moments.next() });
    }
  });
  await vm.start();
  expect(await vm.outcome, `${await errors}${(await onConsole).slice(-2000)}`).toEqual({ kind: 'command', status: 0 });
  return kept;
}

/** The whole disk after a loss, as one raw image. */
async function survivor(
  disk: Disk,
  cut: number,
  random: (limit: number) => number,
  isSyncing: boolean,
): Promise<string> {
  const image = join(folder, 'survivor');
  const { overlay } = disk.options;
  for (const [path, file] of disk.files) {
    const bytes = file.afterPowerLoss(cut, random, { isSyncing, atom: ATOM });
    if (path === (overlay ?? disk.options.path)) writeFileSync(overlay === undefined ? image : path, bytes);
  }
  if (overlay === undefined) return image;
  const memory = transferMemory(16 * MIB);
  const merged = await openDisk({ ...disk.options, readOnly: true }, memory);
  writeFileSync(image, await new DiskHands(merged, memory).content());
  await merged.close();
  return image;
}

/** What is wrong with the disk after a loss; undefined when nothing is. */
function damage(image: string, kept: readonly Kept[]): string | undefined {
  // Replays the journal, as a mount does; 1: something was corrected, which a journal may leave (orphaned inodes).
  const found = complaint(1, '-p', image) ?? complaint(0, '-fn', image);
  if (found !== undefined) return found;
  const out = join(folder, 'files');
  rmSync(out, { recursive: true, force: true });
  mkdirSync(out);
  const commands = join(folder, 'commands');
  writeFileSync(commands, kept.map(({ file }) => `dump /${file} ${join(out, file)}\n`).join(''));
  run('debugfs', '-f', commands, image);
  const lost = kept.find(({ file }) => {
    const path = join(out, file);
    return !existsSync(path) || !readFileSync(path).equals(contentOf(file));
  });
  return lost === undefined ? undefined : `${lost.file}, which was fsynced, is not what it was`;
}

describe.skipIf(noKvm)('power loss', () => {
  test(
    '"what was flushed is there by checksum, e2fsck passes after journal replay, and a FLUSH made a no-op fails this test"',
    async () => {
      const base = ext4('base');
      const disks: readonly Disk[] = [
        { name: 'vda', options: { path: ext4('raw') }, files: new Map() },
        { name: 'vdb', options: { path: base, overlay: join(folder, 'overlay') }, files: new Map() },
      ];
      const moments = new Moments();
      const kept = await trace(disks, moments);
      expect(kept).toHaveLength(2 * FILES);
      const random = randomOf(20_261_124);
      let withoutSync = 0;
      for (let i = 0; i < CUTS; i++) {
        const cut = 1 + random(moments.now);
        for (const disk of disks) {
          const due = kept.filter((row) => row.disk === disk.name && row.moment <= cut);
          expect(damage(await survivor(disk, cut, random, true), due), `${disk.name}, cut ${cut}`).toBeUndefined();
          // Twenty of them also as if the device had answered FLUSH without doing anything.
          if (i % (CUTS / 20) === 0 && damage(await survivor(disk, cut, random, false), due) !== undefined)
            withoutSync++;
        }
      }
      expect(withoutSync).toBeGreaterThan(4);
    },
    4 * BOOT_MS,
  );
});
