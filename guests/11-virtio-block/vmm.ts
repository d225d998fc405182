// Lesson 11: the other side of a disk. The library's device parses the requests; what the sectors are is ours to say.
// VIRTIO 1.2 §5.2 (block device); src/devices/backend/block-backend.ts (what a disk must do).
import { VirtioBlock, type BlockBackend } from 'microvisor';
import { buildLesson } from '../ladder/build.js';
import { describeOutcome, runMachine } from '../ladder/machine.js';

const ENTRY = 0x10_0000;
export const SECTOR = 512;

/** A request that reached the disk. */
export interface Access {
  readonly kind: 'read' | 'write';
  /** The first sector. */
  readonly sector: number;
  readonly bytes: number;
}

/** A disk in memory that keeps a record. The library calls it on our thread, and the guest's vCPU does not wait for it. */
export function recordingDisk(bytes: Uint8Array, accesses: Access[]): BlockBackend {
  const due: (() => void)[] = [];
  // An answer comes from `submit`, never from the call itself: requests that arrive together are answered together.
  const answer = (done: (errno: number) => void, work: () => unknown): void => {
    work();
    due.push(() => done(0));
  };
  return {
    capacityBytes: bytes.length,
    readOnly: false,
    read(at, vector, done) {
      accesses.push({ kind: 'read', sector: at / SECTOR, bytes: vector.bytes });
      answer(done, () => vector.copyFrom(bytes.subarray(at, at + vector.bytes)));
    },
    write(at, vector, done) {
      accesses.push({ kind: 'write', sector: at / SECTOR, bytes: vector.bytes });
      answer(done, () => vector.copyTo(bytes.subarray(at, at + vector.bytes)));
    },
    writeZeroes: (at, length, done) => answer(done, () => bytes.fill(0, at, at + length)),
    discard: (_at, _length, done) => answer(done, () => undefined),
    flush: (done) => answer(done, () => undefined),
    submit: () => due.splice(0).forEach((tell) => tell()),
    close: () => Promise.resolve(),
  };
}

export interface BlockResult {
  readonly text: string;
  readonly accesses: readonly Access[];
  /** What the guest wrote into sector 1. */
  readonly written: string;
}

export async function runBlock({ output }: { readonly output: (text: string) => void }): Promise<BlockResult> {
  const bytes = new Uint8Array(64 * SECTOR);
  bytes.set(Buffer.from('Hello from the first sector.\n'));
  const accesses: Access[] = [];
  const { text, outcome } = await runMachine(
    {
      kernel: { name: 'guests/11-virtio-block', bytes: buildLesson('11-virtio-block', ENTRY, 'guest.c') },
      entry: 'protected',
      load: ENTRY,
      memoryMiB: 2,
      virtio: [() => new VirtioBlock({ name: 'disk', id: 'lesson', backend: recordingDisk(bytes, accesses) })],
    },
    undefined,
    output,
  );
  if (outcome.kind !== 'debug-exit' || outcome.value !== 0)
    throw new Error(`lesson 11 ends with port 0xf4 and value 0; ${describeOutcome(outcome)}`);
  for (const { kind, sector, bytes } of accesses)
    output(`The disk had a ${kind} of ${bytes} bytes at sector ${sector}.\n`);
  const written = Buffer.from(bytes.subarray(SECTOR, bytes.indexOf(0, SECTOR))).toString();
  output(`Sector 1 says now: ${written}`);
  return { text, accesses, written };
}
