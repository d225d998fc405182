// Grades exercise 11: disk requests, by what reached the disk and what lies on it afterwards.
// VIRTIO 1.2 §5.2.6 (block device operation).
import { VirtioBlock } from 'microvisor';
import type { Exam } from '../ladder/lesson.js';
import { describeOutcome, runMachine } from '../ladder/machine.js';
import { recordingDisk, SECTOR, type Access } from './vmm.js';

const ENTRY = 0x10_0000;
const FROM = 5;
const TO = 2;
/** The exit status of the guest by what went wrong there. */
const ENDS: Readonly<Record<number, string>> = {
  0: 'both requests were answered with 0',
  1: 'the device did not start',
  2: 'the read was not answered with 0',
  3: 'the write was not answered with 0',
};

export async function gradeBlock(exam: Exam): Promise<void> {
  const kernel = { name: 'exercise.c', bytes: exam.guest(ENTRY) };
  const bytes = Uint8Array.from({ length: 16 * SECTOR }, (_, at) => (at * 7 + Math.floor(at / SECTOR)) & 0xff);
  const source = bytes.slice(FROM * SECTOR, (FROM + 1) * SECTOR);
  const accesses: Access[] = [];
  const warnings: string[] = [];
  const { outcome } = await runMachine(
    {
      kernel,
      entry: 'protected',
      load: ENTRY,
      memoryMiB: 2,
      virtio: [() => new VirtioBlock({ name: 'disk', id: 'exercise', backend: recordingDisk(bytes, accesses) })],
      onWarning: (message) => warnings.push(message),
    },
    exam.limitMs,
  );
  const value = outcome.kind === 'debug-exit' ? outcome.value : undefined;
  const end = value === undefined ? describeOutcome(outcome) : (ENDS[value] ?? `the guest ended with ${value}`);
  const seen = accesses.map(({ kind, sector, bytes }) => `a ${kind} of ${bytes} bytes at sector ${sector}`);
  const saw = `The disk saw ${seen.length === 0 ? 'no request' : seen.join(', then ')}; ${end}${warnings.map((text) => `; ${text}`).join('')}.`;
  const [read, write] = accesses;
  exam.check(`sector ${FROM} is read`, read?.kind === 'read' && read.sector === FROM, () => ({
    observed: saw,
    missing:
      read?.kind === 'write'
        ? 'WRITE in the flags of the data for IN: without it the device takes the buffer for data to put on the disk.'
        : 'a chain that the device can read: descriptor 0 is the header (16 bytes, NEXT), 1 the data (NEXT), 2 the status (WRITE); then submit().',
  }));
  exam.check('the whole sector is read', read?.bytes === SECTOR, () => ({
    observed: saw,
    missing: `a data descriptor of ${SECTOR} bytes.`,
  }));
  exam.check('the read is answered', value !== 2, () => ({
    observed: saw,
    missing: 'the third descriptor: the address of status, length 1, WRITE.',
  }));
  exam.check(`sector ${TO} is written`, write?.kind === 'write' && write.sector === TO, () => ({
    observed: saw,
    missing: 'for OUT: no WRITE in the flags of the data, which the device only reads then.',
  }));
  const copy = bytes.subarray(TO * SECTOR, (TO + 1) * SECTOR);
  exam.check(`sector ${TO} has what sector ${FROM} has`, Buffer.compare(copy, source) === 0, () => ({
    observed: `${saw} The first bytes of sector ${TO} are ${Buffer.from(copy.subarray(0, 8)).toString('hex')}, those of sector ${FROM} ${Buffer.from(source.subarray(0, 8)).toString('hex')}.`,
    missing: 'the same buffer for both requests: `data`, all 512 bytes.',
  }));
  exam.check('the guest says that all is well', value === 0, () => ({
    observed: saw,
    missing: 'status as the result of request().',
  }));
}
