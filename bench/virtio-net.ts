// What the device side of virtio-net costs per frame: the driver is played in memory, the backend answers at once.
// VIRTIO 1.2 §5.1.6. No VM, no exits; the driver's part is one store of avail.idx for each batch.
import type { NetBackend, NetLink } from '../src/devices/backend/net-backend.js';
import { threadCpuNanoseconds } from '../src/kvm/host-thread.js';
import { NetDevice } from '../src/devices/virtio/net.js';
import { NET_HEADER } from '../src/devices/virtio/net-header.js';
import { MockMachine, type MockQueue } from '../test/support/virtqueue-driver.js';
import type { BenchOptions } from './main.js';
import { formatMachine, machineInfo } from './machine.js';
import { formatSpread, formatTable, spread } from './spread.js';
import { writeFileSync } from 'node:fs';

/** A frame of Ethernet's largest usual packet; and what segmentation offload hands over at once. */
const FRAME = 1514;
const LARGE_FRAME = 65_226;
/** Chains of a kick, of a ring of 256. */
const BATCH = 64;
const MAC = Uint8Array.of(0x52, 0x54, 0, 0, 0, 1);

export interface NetCase {
  readonly name: string;
  /** Bytes of a frame. */
  readonly bytes: number;
  /** @returns nanoseconds of processor time per frame, over so many batches */
  measure(batches: number): Promise<number>;
}

/** Takes everything, keeps nothing. */
class Sink implements NetBackend {
  link: NetLink | undefined;
  declare setOffloads?: () => void;
  frames = 0;
  open(link: NetLink): void {
    this.link = link;
  }
  send(): void {
    this.frames++;
  }
  close(): void {}
}

interface Rig {
  readonly machine: MockMachine;
  readonly device: NetDevice;
  readonly sink: Sink;
  readonly queues: readonly MockQueue[];
}

/** Every descriptor is a chain of its own with a buffer of `length` bytes; the rings are filled once and for all. */
async function rig(index: number, length: number, hasOffloads: boolean): Promise<Rig> {
  const sink = new Sink();
  if (hasOffloads) sink.setOffloads = () => undefined;
  const device = new NetDevice({ name: 'net0', mac: MAC, backend: sink });
  await device.open();
  const machine = new MockMachine(device);
  const queues = await machine.start();
  const queue = queues[index] as MockQueue;
  const buffers = 0x40_0000;
  for (let i = 0; i < queue.size; i++) {
    // All buffers of large frames lie in the same bytes: the ring would not fit into the mock's RAM.
    const gpa = buffers + (length > FRAME * 2 ? 0 : i * 2048);
    queue.setDescriptor(i, gpa, length, index === 0 ? 2 : 0);
    machine.memory.writeU16(queue.avail + 4 + 2 * i, i);
    if (index === 1) machine.memory.fill(gpa, NET_HEADER);
  }
  return { machine, device, sink, queues };
}

function transmitCase(name: string, bytes: number, hasOffloads: boolean): NetCase {
  return {
    name,
    bytes,
    async measure(batches) {
      const { machine, device, sink, queues } = await rig(1, NET_HEADER + bytes, hasOffloads);
      const queue = queues[1] as MockQueue;
      const start = threadCpuNanoseconds();
      for (let i = 0; i < batches; i++) {
        queue.setAvailIndex(queue.availIndex + BATCH);
        device.notify(1);
      }
      const nanoseconds = Number(threadCpuNanoseconds() - start);
      if (sink.frames !== batches * BATCH) throw new Error(`${sink.frames} frames instead of ${batches * BATCH}`);
      await machine.close();
      return nanoseconds / sink.frames;
    },
  };
}

function receiveCase(name: string, bytes: number): NetCase {
  return {
    name,
    bytes,
    async measure(batches) {
      const { machine, device, sink, queues } = await rig(0, NET_HEADER + bytes, false);
      const queue = queues[0] as MockQueue;
      const frame = new Uint8Array(bytes);
      let taken = 0;
      const start = threadCpuNanoseconds();
      for (let i = 0; i < batches; i++) {
        queue.setAvailIndex(queue.availIndex + BATCH);
        device.notify(0);
        for (let n = 0; n < BATCH; n++) if (sink.link?.receive(frame) === true) taken++;
        // The device shows the driver what came at the end of the turn.
        await Promise.resolve();
      }
      const nanoseconds = Number(threadCpuNanoseconds() - start);
      if (taken !== batches * BATCH) throw new Error(`${taken} frames instead of ${batches * BATCH}`);
      await machine.close();
      return nanoseconds / taken;
    },
  };
}

export const netCases: readonly NetCase[] = [
  transmitCase('net: send 1514 bytes', FRAME, false),
  transmitCase('net: send 1514 bytes, offloads', FRAME, true),
  transmitCase('net: send 64 KiB, offloads', LARGE_FRAME, true),
  receiveCase('net: receive 1514 bytes', FRAME),
  receiveCase('net: receive 64 KiB', LARGE_FRAME),
];

/** `npm run bench -- virtio-net` */
export async function benchNet({ rounds, json }: Pick<BenchOptions, 'rounds' | 'json'>): Promise<void> {
  const machine = machineInfo();
  const samples = new Map<NetCase, number[]>(netCases.map((row) => [row, []]));
  const batches = ({ bytes }: NetCase): number => (bytes > FRAME ? 200 : 5000);
  for (const row of netCases) await row.measure(batches(row));
  for (let round = 0; round < rounds; round++)
    for (const [row, of] of samples) of.push(await row.measure(batches(row)));
  const results = [...samples].map(([{ name, bytes }, of]) => ({ name, bytes, nanoseconds: spread(of) }));
  const table = results.map(({ name, bytes, nanoseconds }) => [
    name,
    formatSpread(nanoseconds, 0),
    ((bytes * 8) / nanoseconds.median).toFixed(1),
  ]);
  process.stdout.write(`${formatMachine(machine)}\n${formatTable([['case', 'ns per frame', 'Gbit/s'], ...table])}\n`);
  if (json !== undefined) writeFileSync(json, `${JSON.stringify({ machine, results }, undefined, 2)}\n`);
}
