// One point of growth in a process of its own: makes the vCPUs one after the other, then lets all of them run at once.
// Started by growth.ts; the answer is a GrowthPoint as JSON.
import { readFileSync } from 'node:fs';
import { Worker } from 'node:worker_threads';
import { System } from '../../src/kvm/system.js';
import { GuestMemory } from '../../src/memory/guest-memory.js';
import type { GrowthPoint, GrowthRequest } from './growth.js';
import { MODE, OP } from './guest.js';
import { createMachine, type Batch, type SharedMachine } from './rig.js';
import type { FromSubjectWorker, SubjectWorkerData } from './subject.js';

const { kind, count, passes } = JSON.parse(process.argv[2] ?? '') as GrowthRequest;
const guest = readFileSync(process.argv[3] ?? '');
const shared = kind === 'vCPUs of a VM' ? sharedMachine() : undefined;
const workers: Worker[] = [];
// Each goes to long mode before the next one begins: the page tables are the same for all.
for (let index = 0; index < count; index++) workers.push(await start(index));
await Promise.all(workers.map((worker) => batch(worker, Math.min(passes, 5000))));
const from = process.hrtime.bigint();
const batches = await Promise.all(workers.map((worker) => batch(worker, passes)));
const wall = Number(process.hrtime.bigint() - from);
const exits = passes * count;
const point: GrowthPoint = {
  kind,
  count,
  exitsPerSecond: (exits / wall) * 1e9,
  cpuPerExit: batches.reduce((sum, { cpu }) => sum + cpu, 0) / exits,
};
process.stdout.write(`${JSON.stringify(point)}\n`);
process.exit(0);

function sharedMachine(): Omit<SharedMachine, 'index'> {
  const memory = GuestMemory.create(0xa_0000);
  const vm = createMachine(System.open(), memory, guest);
  // A VM that nothing refers to is closed by the collector, under its vCPUs.
  process.once('exit', () => vm.close());
  return { vmFd: vm.fd, memory: memory.share() };
}

async function start(index: number): Promise<Worker> {
  const data: SubjectWorkerData = {
    guest,
    op: OP.portWrite,
    mode: MODE.long,
    feature: 'none',
    statistics: true,
    trace: false,
    koffi: false,
    answers: {
      times: new BigInt64Array(new SharedArrayBuffer(8)),
      count: new Int32Array(new SharedArrayBuffer(4)),
    },
    closure: undefined,
    machine: shared === undefined ? undefined : { ...shared, index },
  };
  const worker = new Worker(new URL('./subject-worker.js', import.meta.url), {
    workerData: data,
    resourceLimits: { maxYoungGenerationSizeMb: 2, maxOldGenerationSizeMb: 128 },
  });
  worker.once('error', (error) => {
    process.stderr.write(`${error.message}\n`);
    process.exit(1);
  });
  await new Promise((resolve) => worker.once('message', resolve));
  return worker;
}

function batch(worker: Worker, passes: number): Promise<Batch> {
  worker.postMessage({ count: passes, stamped: false });
  return new Promise((resolve) =>
    worker.once('message', (message: FromSubjectWorker) => resolve(message.batch as Batch)),
  );
}
