// One tier of the exit benchmark in a process of its own: makes the VM, then answers lines `COUNT STAMPED` with
// `CPU_NS WALL_NS PREEMPTIONS P50_NS P99_NS`, as bench/reference.c does. The vCPU is on the main thread or on a worker.
import { readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { Worker } from 'node:worker_threads';
import { ClosureBack } from '../../src/devices/closure-back.js';
import { allocateMailboxes } from '../../src/devices/closure-mailbox.js';
import { RegisterFile } from '../../src/devices/register-file.js';
import { EventFd } from '../../src/kvm/event-fd.js';
import { kick } from '../../src/kvm/kick.js';
import { GUEST, OP } from './guest.js';
import { Rig, type Answers, type Batch, type RigOptions } from './rig.js';

export interface SubjectOptions extends RigOptions {
  readonly thread: 'main' | 'worker';
  /** The guest's accesses go to closures on the main thread. */
  readonly closure: boolean;
}

/** What a worker starts with; the numbers are descriptors that it duplicates. */
export interface SubjectWorkerData extends RigOptions {
  readonly answers: Answers;
  readonly closure: { readonly registers: SharedArrayBuffer; readonly bell: number } | undefined;
}

export interface FromSubjectWorker {
  readonly ready?: { readonly token: number; readonly irq: number };
  readonly batch?: Batch;
}

type Run = (count: number, stamped: boolean) => Promise<Batch>;

/** Between two interrupts or kicks the guest gets back to where it waits; as PAUSE_NS in bench/reference.c. */
const PAUSE_MS = 0.2;

const options = JSON.parse(process.argv[2] ?? '') as SubjectOptions;
const guest = readFileSync(process.argv[3] ?? '');
const run = options.thread === 'main' ? onMain() : await onWorker();
for await (const line of createInterface({ input: process.stdin })) {
  const [count = 0, stamped = 0] = line.split(' ').map(Number);
  const { cpu, wall, preemptions, p50, p99 } = await run(count, stamped === 1);
  process.stdout.write(`${cpu} ${wall} ${preemptions} ${p50} ${p99}\n`);
}
process.exit(0);

function onMain(): Run {
  const rig = new Rig({ ...options, guest });
  return (count, stamped) => Promise.resolve(rig.batch(count, stamped));
}

async function onWorker(): Promise<Run> {
  const answers: Answers = {
    times: new BigInt64Array(new SharedArrayBuffer(8)),
    count: new Int32Array(new SharedArrayBuffer(4)),
  };
  const data: SubjectWorkerData = {
    ...options,
    guest,
    answers,
    closure: options.closure ? serveClosures() : undefined,
  };
  const worker = new Worker(new URL('./subject-worker.js', import.meta.url), {
    workerData: data,
    // As the vCPU threads of a machine have it.
    resourceLimits: { maxYoungGenerationSizeMb: 2, maxOldGenerationSizeMb: 128 },
  });
  worker.once('error', (error) => {
    process.stderr.write(`${error.stack ?? String(error)}\n`);
    process.exit(1);
  });
  const next = <K extends keyof FromSubjectWorker>(key: K): Promise<NonNullable<FromSubjectWorker[K]>> =>
    new Promise((resolve) =>
      worker.once('message', (message: FromSubjectWorker) =>
        resolve(message[key] as NonNullable<FromSubjectWorker[K]>),
      ),
    );
  const { token, irq } = await next('ready');
  const request = requestOf(options.op, token, irq);
  return async (count, stamped) => {
    worker.postMessage({ count, stamped });
    const latencies = request === undefined ? undefined : ask(request, Math.min(count, GUEST.mostStamps), answers);
    const batch = await next('batch');
    return latencies === undefined ? batch : { ...batch, ...latencies };
  };
}

/** How this thread asks for the vCPU's attention, in the loops that wait for that. */
function requestOf(op: number, token: number, irq: number): (() => void) | undefined {
  if (op === OP.spin) return () => void kick(token);
  if (op !== OP.waitHalted && op !== OP.waitSpinning) return undefined;
  const line = EventFd.adopt(irq);
  return () => line.signal();
}

function ask(request: () => void, count: number, { times, count: answered }: Answers): Pick<Batch, 'p50' | 'p99'> {
  const pause = new Int32Array(new SharedArrayBuffer(4));
  const latencies: number[] = [];
  for (let i = 0; i < count; i++) {
    Atomics.wait(pause, 0, 0, PAUSE_MS);
    const before = Atomics.load(answered, 0);
    const from = process.hrtime.bigint();
    request();
    Atomics.wait(answered, 0, before);
    latencies.push(Number((times[0] as bigint) - from));
  }
  latencies.sort((a, b) => a - b);
  const at = (p: number): number => latencies[Math.floor(count * p)] ?? Number.NaN;
  return { p50: at(0.5), p99: at(0.99) };
}

function serveClosures(): SubjectWorkerData['closure'] {
  const registers = RegisterFile.create();
  const mailboxes = allocateMailboxes(registers, 1);
  const bell = EventFd.create();
  let sum = 0;
  const device = {
    name: 'closure',
    read: () => GUEST.port,
    write: (_offset: number, _size: number, value: number) => {
      sum = (sum + value) | 0;
    },
  };
  const onFailure = (message: string): void => {
    throw new Error(message);
  };
  void new ClosureBack([device], { mailboxes, bell, onFailure });
  return { registers: registers.share(), bell: bell.fd };
}
