// What a hostile driver of a disk does, by guests on the real KVM: hostile cases 18 to 20. VIRTIO 1.2 §5.2.6.
import { createHash } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { createVm } from '../../src/index.js';
import { DESC } from '../../src/devices/virtio/abi.js';
import { VirtioBlock } from '../../src/devices/virtio/block.js';
import { ANSWER, REQUEST } from '../../src/devices/virtio/block-request.js';
import { MemoryDisk } from '../support/block-rig.js';
import { noKvm } from '../support/kvm.js';
import { TestDevice } from '../support/test-device.js';
import { REG, writeDescriptor, type MockBuffer } from '../support/virtqueue-driver.js';
import { begin, DATA, layOut, machine, runScript, SIZE, useDevice, withGuest } from './hostile-guest.js';
import { Script } from './script-guest.js';

const { NEXT, WRITE, INDIRECT } = DESC;
const TABLE = 0x1a_0000;
const QUEUES = 0x10_0000;
const digest = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

describe.skipIf(noKvm)('a hostile driver of a disk', () => {
  const SECTORS = 64;
  const HEADER = DATA;
  const OUT = DATA + 0x1000;
  const IN = DATA + 0x4000;
  const STATUS_AT = DATA + 0x8000;
  const UNTOUCHED = 0xff;

  interface Row {
    readonly name: string;
    readonly type: number;
    readonly sector?: bigint;
    readonly out?: number;
    readonly in?: number;
    readonly answer: number;
  }
  const ROWS: readonly Row[] = [
    { name: 'beyond the capacity', type: REQUEST.IN, sector: BigInt(SECTORS - 1), in: 1024, answer: ANSWER.IOERR },
    { name: 'a write beyond it', type: REQUEST.OUT, sector: BigInt(SECTORS), out: 512, answer: ANSWER.IOERR },
    { name: 'sector 2^63', type: REQUEST.OUT, sector: 2n ** 63n, out: 512, answer: ANSWER.IOERR },
    { name: 'sector 2^64 - 1', type: REQUEST.OUT, sector: 2n ** 64n - 1n, out: 512, answer: ANSWER.IOERR },
    { name: '511 bytes', type: REQUEST.IN, in: 511, answer: ANSWER.IOERR },
    { name: 'a write of 513 bytes', type: REQUEST.OUT, out: 513, answer: ANSWER.IOERR },
    { name: 'no data', type: REQUEST.IN, answer: ANSWER.IOERR },
    { name: 'an unknown type', type: 99, in: 512, answer: ANSWER.UNSUPP },
    { name: 'GET_ID into 19 bytes', type: REQUEST.GET_ID, in: 19, answer: ANSWER.IOERR },
    { name: 'DISCARD with too many ranges', type: REQUEST.DISCARD, out: 17 * 16, answer: ANSWER.IOERR },
    { name: 'WRITE_ZEROES of half a range', type: REQUEST.WRITE_ZEROES, out: 8, answer: ANSWER.IOERR },
  ];

  test('18., 19. "→ IOERR or UNSUPP; bytes outside the request unchanged (hash)"', async () => {
    const backend = new MemoryDisk(SECTORS * 512);
    const before = digest(backend.bytes);
    const disk = new VirtioBlock({ name: 'disk', id: 'x', backend });
    await withGuest(disk, async ({ vm, script, hands, run }) => {
      const queue = layOut(hands, QUEUES);
      begin(hands, [queue]);
      vm.memory.fill(STATUS_AT, ROWS.length, UNTOUCHED);
      const given = ROWS.map(({ type, sector = 0n, out = 0, in: length = 0 }, i) => {
        const header = HEADER + 16 * i;
        vm.memory.writeU32(header, type);
        vm.memory.writeU64(header + 8, sector);
        const buffers: MockBuffer[] = [
          { gpa: header, length: 16 },
          ...(out === 0 ? [] : [{ gpa: OUT, length: out }]),
          ...(length === 0 ? [] : [{ gpa: IN, length, writable: true }]),
          { gpa: STATUS_AT + i, length: 1, writable: true },
        ];
        // In one queue, one after the other: the descriptors are written when it is their turn.
        const table = TABLE + 16 * SIZE * i;
        for (const [at, { gpa, length, writable }] of buffers.entries())
          writeDescriptor(
            vm.memory,
            table + 16 * at,
            gpa,
            length,
            (writable === true ? WRITE : 0) | (at === buffers.length - 1 ? 0 : NEXT),
            at === buffers.length - 1 ? 0 : at + 1,
          );
        script.add('write32', queue.desc, table);
        script.add('write32', queue.desc + 8, 16 * buffers.length);
        script.add('write32', queue.desc + 12, INDIRECT);
        script.add('write16', queue.avail + 2, i + 1);
        hands.write(REG.QueueNotify, 0);
        script.add('wait16', queue.used + 2, i + 1);
        return script.read(STATUS_AT + i, 1);
      });
      const outside = (): string => digest(vm.memory.read(IN + 1024, STATUS_AT - IN - 1024));
      const hash = outside();
      await run();
      expect(ROWS.map(({ name }, i) => [name, given[i]?.()])).toEqual(ROWS.map(({ name, answer }) => [name, answer]));
      expect(outside()).toBe(hash);
      expect(digest(backend.bytes)).toBe(before);
    });
  });

  test('18. "write to a read-only disk", "no status byte", "header split over descriptors"', async () => {
    const backend = new MemoryDisk(SECTORS * 512, true);
    const before = digest(backend.bytes);
    const disk = new VirtioBlock({ name: 'disk', id: 'x', backend });
    await withGuest(disk, async ({ vm, script, hands, run }) => {
      const queue = layOut(hands, QUEUES);
      const [refused, read] = [HEADER, HEADER + 16];
      vm.memory.writeU32(refused, REQUEST.OUT);
      vm.memory.writeU32(read, REQUEST.IN);
      vm.memory.writeU64(read + 8, 3n);
      vm.memory.fill(STATUS_AT, 16, UNTOUCHED);
      const chains: readonly (readonly MockBuffer[])[] = [
        [
          { gpa: refused, length: 16 },
          { gpa: OUT, length: 512 },
          { gpa: STATUS_AT, length: 1, writable: true },
        ],
        [{ gpa: refused, length: 16 }],
        [
          { gpa: read, length: 5 },
          { gpa: read + 5, length: 11 },
          { gpa: IN, length: 513, writable: true },
        ],
      ];
      const heads = chains.map((buffers) => queue.build(buffers));
      for (const head of heads) queue.publish(head);
      begin(hands, [queue]);
      hands.write(REG.QueueNotify, 0);
      script.add('wait16', queue.used + 2, chains.length);
      await run();
      expect(vm.memory.readU8(STATUS_AT)).toBe(ANSWER.IOERR);
      const used = heads.map(() => queue.takeUsed());
      expect(used).toContainEqual({ id: heads[1], length: 0 });
      expect(used).toContainEqual({ id: heads[2], length: 513 });
      expect(vm.memory.readU8(IN + 512)).toBe(ANSWER.OK);
      expect(digest(vm.memory.read(IN, 512))).toBe(digest(backend.bytes.subarray(3 * 512, 4 * 512)));
      expect(digest(backend.bytes)).toBe(before);
    });
  });

  test.each([
    ['qcow2', [0x51, 0x46, 0x49, 0xfb, 0, 0, 0, 3]],
    ['vmdk', [...Buffer.from('KDMV'), 1, 0, 0, 0]],
  ])('20. "the guest writes a %s … header to its raw disk; reopened → still raw"', async (_, magic) => {
    const folder = mkdtempSync(join(tmpdir(), 'raw-'));
    const path = join(folder, 'disk');
    writeFileSync(path, Buffer.alloc(SECTORS * 512, 0x11));
    /** A guest that does one request at sector 0. @returns what is at IN then, and the capacity that it saw */
    const request = async (type: number): Promise<{ readonly data: Uint8Array; readonly sectors: number }> => {
      await using vm = await createVm({ ...machine(), disks: [{ path }] });
      const script = new Script(vm.memory);
      const hands = script.hands(0, new TestDevice().offer);
      vm.memory.writeU32(HEADER, type);
      vm.memory.fill(OUT, 512, 0x22);
      vm.memory.write(OUT, Uint8Array.from(magic));
      useDevice(script, hands, QUEUES, [
        { gpa: HEADER, length: 16 },
        { gpa: type === REQUEST.OUT ? OUT : IN, length: 512, writable: type !== REQUEST.OUT },
        { gpa: STATUS_AT, length: 1, writable: true },
      ]);
      const sectors = script.read(hands.base + REG.Config);
      await runScript(vm, script);
      expect(vm.memory.readU8(STATUS_AT)).toBe(ANSWER.OK);
      return { data: vm.memory.read(IN, 512), sectors: sectors() };
    };
    try {
      await request(REQUEST.OUT);
      const { data, sectors } = await request(REQUEST.IN);
      expect([...data.subarray(0, 9)]).toEqual([...magic, 0x22]);
      expect(sectors).toBe(SECTORS);
      const file = readFileSync(path);
      expect(file).toHaveLength(SECTORS * 512);
      expect(file.subarray(512).every((byte) => byte === 0x11)).toBe(true);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
});
