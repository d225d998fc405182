// What the device side of virtio-blk costs: the queue alone, a request with a backend that answers at once, a real file.
// VIRTIO 1.2 §2.7, §5.2. No VM, no exits; the driver is played in memory, its part is one store of avail.idx a batch.
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { BlockBackend, Done } from '../src/devices/backend/block-backend.js';
import { openDisk } from '../src/devices/backend/disk.js';
import { DESC, DEVICE_ID } from '../src/devices/virtio/abi.js';
import { VirtioBlock } from '../src/devices/virtio/block.js';
import { REQUEST } from '../src/devices/virtio/block-request.js';
import type { DeviceLink, VirtioDevice, Virtqueue } from '../src/devices/virtio/device.js';
import type { GuestVector } from '../src/devices/virtio/guest-vector.js';
import { threadCpuNanoseconds } from '../src/kvm/host-thread.js';
import { GuestMemory } from '../src/memory/guest-memory.js';
import { MockMachine, writeDescriptor, type MockQueue } from '../test/support/virtqueue-driver.js';
import type { BenchOptions } from './main.js';
import { formatMachine, machineInfo } from './machine.js';
import { formatSpread, formatTable, spread, type Spread } from './spread.js';

/** Chains of a kick when nothing else is said. */
const BATCH = 64;
const REQUEST_BYTES = 4096;
const FILE_BYTES = 64 << 20;
/** Where requests lie in the mock's RAM: 64 headers and statuses, tables, data. */
const HEADERS = 0x40_0000;
const TABLES = 0x41_0000;
const DATA = 0x50_0000;

/** Processor time per chain, in nanoseconds: of the owner's thread, and of the whole process. */
interface Cost {
  readonly owner: number;
  readonly process: number;
}

export interface BlockCase {
  readonly name: string;
  readonly batches: number;
  measure(batches: number): Promise<Cost>;
}

/** Hands every chain back at once. */
class Mirror implements VirtioDevice {
  readonly offer = {
    name: 'mirror',
    deviceId: DEVICE_ID.ENTROPY,
    features: [],
    queueSizes: [256],
    config: new Uint8Array(),
  };
  #queue: Virtqueue | undefined;
  readonly #handle = (chain: Parameters<Virtqueue['push']>[0]): void => this.#queue?.push(chain, 0);

  activate(link: DeviceLink): void {
    this.#queue = link.queue(0);
  }
  notify(): void {
    this.#queue?.each(this.#handle);
  }
  cancel(): void {
    this.#queue = undefined;
  }
  close(): void {}
}

/** Has nothing and is done with it. */
class InstantDisk implements BlockBackend {
  readonly capacityBytes = FILE_BYTES;
  readonly readOnly = false;
  readonly #done: Done[] = [];
  #count = 0;

  read(_position: number, _vector: GuestVector, done: Done): void {
    this.#done[this.#count++] = done;
  }
  write(_position: number, _vector: GuestVector, done: Done): void {
    this.#done[this.#count++] = done;
  }
  flush(done: Done): void {
    this.#done[this.#count++] = done;
  }
  discard(_position: number, _length: number, done: Done): void {
    this.#done[this.#count++] = done;
  }
  writeZeroes(_position: number, _length: number, done: Done): void {
    this.#done[this.#count++] = done;
  }
  submit(): void {
    const count = this.#count;
    this.#count = 0;
    for (let i = 0; i < count; i++) this.#done[i]?.(0);
  }
  close(): Promise<void> {
    return Promise.resolve();
  }
}

async function costOf(chains: number, run: () => Promise<void> | void): Promise<Cost> {
  const usage = process.cpuUsage();
  const start = threadCpuNanoseconds();
  await run();
  const owner = Number(threadCpuNanoseconds() - start);
  const { user, system } = process.cpuUsage(usage);
  return { owner: owner / chains, process: ((user + system) * 1000) / chains };
}

async function startQueue(machine: MockMachine): Promise<MockQueue> {
  const [queue] = await machine.start();
  if (queue === undefined) throw new Error('the device has no queue');
  return queue;
}

function queueCase(name: string, buffers: number): BlockCase {
  return {
    name,
    batches: 20_000,
    async measure(batches) {
      const machine = new MockMachine(new Mirror());
      const queue = await startQueue(machine);
      for (let i = 0; i < BATCH; i++)
        for (let k = 0; k < buffers; k++)
          queue.setDescriptor(
            i * buffers + k,
            DATA + i * 4096,
            64,
            k < buffers - 1 ? DESC.NEXT : 0,
            i * buffers + k + 1,
          );
      for (let i = 0; i < queue.size; i++) machine.memory.writeU16(queue.avail + 4 + 2 * i, (i % BATCH) * buffers);
      const device = machine.back.device;
      const cost = await costOf(batches * BATCH, () => {
        for (let i = 0; i < batches; i++) {
          queue.setAvailIndex(queue.availIndex + BATCH);
          device.notify(0);
        }
      });
      const { chains } = machine.back.report();
      if (chains !== batches * BATCH) throw new Error(`${chains} chains instead of ${batches * BATCH}`);
      await machine.close();
      return cost;
    },
  };
}

interface Plan {
  readonly type: number;
  readonly batch?: number;
  readonly isIndirect?: boolean;
}

/** Writes `BATCH` requests of header, 4 KiB, status into RAM, and all entries of the avail ring. */
function layRequests(memory: GuestMemory, queue: MockQueue, { type, isIndirect = false }: Plan): void {
  const write = type === REQUEST.IN ? DESC.WRITE : 0;
  for (let i = 0; i < BATCH; i++) {
    const header = HEADERS + i * 64;
    memory.writeU32(header, type);
    const rows = [
      [header, 16, DESC.NEXT],
      [DATA + i * REQUEST_BYTES, REQUEST_BYTES, write | DESC.NEXT],
      [header + 32, 1, DESC.WRITE],
    ] as const;
    for (const [k, [gpa, length, flags]] of rows.entries())
      if (isIndirect) writeDescriptor(memory, TABLES + i * 64 + k * 16, gpa, length, flags, k + 1);
      else queue.setDescriptor(3 * i + k, gpa, length, flags, 3 * i + k + 1);
    if (isIndirect) queue.setDescriptor(3 * i, TABLES + i * 64, 48, DESC.INDIRECT);
  }
  for (let i = 0; i < queue.size; i++) memory.writeU16(queue.avail + 4 + 2 * i, 3 * (i % BATCH));
}

/** Every batch asks for other sectors. */
function aim(memory: GuestMemory, batch: number, round: number): void {
  const blocks = FILE_BYTES / REQUEST_BYTES;
  for (let i = 0; i < batch; i++) {
    const block = ((round * batch + i) * 2_654_435_761) % blocks;
    memory.writeU32(HEADERS + i * 64 + 8, block * (REQUEST_BYTES / 512));
  }
}

function requestCase(name: string, plan: Plan, open: (memory: GuestMemory) => Promise<BlockBackend>): BlockCase {
  const { batch = BATCH } = plan;
  return {
    name,
    batches: Math.round((200 * BATCH) / batch),
    async measure(batches) {
      const memory = GuestMemory.create(16 << 20);
      const device = new VirtioBlock({ name: 'disk0', id: 'bench', backend: await open(memory) });
      let wake = (): void => undefined;
      const machine = new MockMachine(device, { memory, onInterrupt: () => wake() });
      const queue = await startQueue(machine);
      layRequests(memory, queue, plan);
      const cost = await costOf(batches * batch, async () => {
        for (let i = 0; i < batches; i++) {
          aim(memory, batch, i);
          const target = (queue.availIndex + batch) & 0xffff;
          // used_event: the interrupt comes with the last one.
          memory.writeU16(queue.avail + 4 + 2 * queue.size, (target - 1) & 0xffff);
          for (let k = 0; k < batch; k++)
            memory.writeU16(queue.avail + 4 + 2 * ((queue.availIndex + k) % queue.size), 3 * k);
          queue.setAvailIndex(target);
          device.notify();
          if (queue.usedIndex !== target) await new Promise<void>((resolve) => (wake = resolve));
        }
      });
      for (let i = 0; i < batch; i++)
        if (memory.readU8(HEADERS + i * 64 + 32) !== 0) throw new Error(`${name}: a request failed`);
      await machine.close();
      return cost;
    },
  };
}

const instant = (): Promise<BlockBackend> => Promise.resolve(new InstantDisk());

export const queueCases: readonly BlockCase[] = [
  queueCase('queue: chains of 1 descriptor', 1),
  queueCase('queue: chains of 3 descriptors', 3),
];

export const instantCases: readonly BlockCase[] = [
  requestCase('block: read 4 KiB, backend at once', { type: REQUEST.IN }, instant),
  requestCase('block: write 4 KiB, backend at once', { type: REQUEST.OUT }, instant),
  requestCase('block: read 4 KiB, indirect, backend at once', { type: REQUEST.IN, isIndirect: true }, instant),
].map((row) => ({ ...row, batches: 5000 }));

export function fileCases(folder: string): readonly BlockCase[] {
  const path = join(folder, 'disk');
  const overlay = join(folder, 'overlay');
  writeFileSync(path, new Uint8Array(FILE_BYTES).fill(0x5a));
  const raw = (memory: GuestMemory): Promise<BlockBackend> => openDisk({ path }, memory);
  const copy = (memory: GuestMemory): Promise<BlockBackend> => openDisk({ path, overlay }, memory);
  return [
    ...[1, 16, 64].flatMap((batch) => [
      requestCase(`raw file: read 4 KiB, ${batch} in flight`, { type: REQUEST.IN, batch }, raw),
      requestCase(`raw file: write 4 KiB, ${batch} in flight`, { type: REQUEST.OUT, batch }, raw),
    ]),
    requestCase('overlay: read 4 KiB, 16 in flight', { type: REQUEST.IN, batch: 16 }, copy),
    requestCase('overlay: write 4 KiB, 16 in flight', { type: REQUEST.OUT, batch: 16 }, copy),
  ];
}

interface Way {
  readonly name: string;
  /** @returns nanoseconds per request: of all threads, of the one that asks */
  measure(): { readonly cpu: number; readonly owner: number };
}

/** The ways to transfer, in C and without a queue: what the I/O engine was chosen by. */
function ways(folder: string): readonly Way[] {
  const program = join(folder, 'ways');
  const source = fileURLToPath(new URL('../../bench/virtio-block-ways.c', import.meta.url));
  execFileSync('cc', ['-O2', '-pthread', '-o', program, source]);
  return ['read', 'write'].flatMap((operation) =>
    [1, 16].flatMap((depth) =>
      ['inline', 'thread', 'uring'].map((way) => ({
        name: `${operation} 4 KiB, ${depth} at a time: ${way}`,
        measure: () =>
          JSON.parse(
            execFileSync(program, [join(folder, 'disk'), operation, `${depth}`, '20000', way]).toString(),
          ) as ReturnType<Way['measure']>,
      })),
    ),
  );
}

interface Figure {
  readonly name: string;
  readonly owner: Spread;
  readonly process: Spread;
}

/** `npm run bench -- virtio-block` */
export async function benchBlock({ rounds, json }: Pick<BenchOptions, 'rounds' | 'json'>): Promise<void> {
  const machine = machineInfo();
  const folder = mkdtempSync(join(tmpdir(), 'microvisor-bench-'));
  const samples = new Map<string, Cost[]>();
  const keep = (name: string, cost: Cost): void => void samples.set(name, [...(samples.get(name) ?? []), cost]);
  try {
    const cases = [...queueCases, ...instantCases, ...fileCases(folder)];
    const c = ways(folder);
    for (const row of cases) await row.measure(row.batches);
    for (let round = 0; round < rounds; round++) {
      process.stderr.write(`virtio-block: round ${round + 1} of ${rounds}\n`);
      for (const row of cases) keep(row.name, await row.measure(row.batches));
      for (const way of c) {
        const { cpu, owner } = way.measure();
        keep(`C: ${way.name}`, { owner, process: cpu });
      }
    }
  } finally {
    rmSync(folder, { recursive: true });
  }
  const results: Figure[] = [...samples].map(([name, of]) => ({
    name,
    owner: spread(of.map(({ owner }) => owner)),
    process: spread(of.map((cost) => cost.process)),
  }));
  const table = results.map(({ name, owner, process: all }) => [
    name,
    formatSpread(owner, 0),
    formatSpread(all, 0),
    (1e3 / owner.median).toFixed(2),
  ]);
  const heading = ['case', 'owner, ns', 'all threads, ns', 'million/s of an owner'];
  process.stdout.write(
    `${formatMachine(machine)}\nCPU time; median (min–max) of ${rounds}\n\n${formatTable([heading, ...table])}\n`,
  );
  if (json !== undefined) writeFileSync(json, `${JSON.stringify({ machine, results }, undefined, 2)}\n`);
}
