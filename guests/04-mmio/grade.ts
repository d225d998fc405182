// Grades exercise 4: a driver that polls a sensor. The sensor itself is here, and keeps book.
// KVM API 5 (struct kvm_run, member mmio).
import { RegisterTable } from 'microvisor';
import type { Exam } from '../ladder/lesson.js';
import { describeEnd, ENTRY, hex } from '../ladder/rig.js';

const SENSOR = 0xd0000;
const SUM = 0x2000;
const READY = 1 << 0;
const END = 1 << 1;
/** How many reads of STATUS say "not yet" before each sample. */
const DELAYS = [0, 3, 1, 2];
const SAMPLES = [1000, 70_000, 3, 250_000_000];

export function gradeMmio(exam: Exam): void {
  const guest = exam.guest(ENTRY);
  const left = [...SAMPLES];
  let delay = 2;
  let polls = 0;
  let early = 0;
  const isReady = (): boolean => left.length > 0 && delay === 0;
  const sensor = new RegisterTable('sensor', [
    {
      offset: 0x0,
      name: 'STATUS',
      size: 4,
      read() {
        polls++;
        if (left.length === 0) return END;
        if (isReady()) return READY;
        delay--;
        return 0;
      },
    },
    {
      offset: 0x4,
      name: 'DATA',
      size: 4,
      read() {
        if (!isReady()) {
          early++;
          return 0xffff_ffff;
        }
        delay = DELAYS[SAMPLES.length - left.length] ?? 1;
        return left.shift() ?? 0;
      },
    },
  ]);
  const run = exam.run({ guest, mmio: [{ base: SENSOR, length: 8, handler: sensor }] });
  exam.check('it halts', run.stop.kind === 'hlt', () => ({
    observed: `${describeEnd(run)}; STATUS was read ${polls} times, and ${left.length} of ${SAMPLES.length} samples are left.`,
    missing: 'the way out: END (bit 1 of STATUS) says that there are no more samples.',
  }));
  exam.check('STATUS is asked', polls > 0, () => ({
    observed: `The guest halted and never read STATUS at ${hex(SENSOR)}.`,
    missing: 'polling: mov eax, es:[STATUS], and a look at READY, before each sample.',
  }));
  exam.check('DATA is read only when READY is set', early === 0, () => ({
    observed: `DATA was read ${early} times while READY was 0.`,
    missing: 'a new look at STATUS after each sample: the next one takes its time.',
  }));
  exam.check('every sample is read', left.length === 0, () => ({
    observed: `${SAMPLES.length - left.length} of ${SAMPLES.length} samples were read.`,
    missing: 'the rest: after a sample go back to STATUS, until END is set.',
  }));
  const sum = run.memory.readU32(SUM);
  const wanted = SAMPLES.reduce((total, sample) => total + sample);
  exam.check(`the sum lies at ${hex(SUM)}`, sum === wanted, () => ({
    observed: `At ${hex(SUM)} lies ${sum}; the samples add up to ${wanted}.`,
    missing: 'the sum in 32 bits, stored once, at the end: mov [SUM], ebx.',
  }));
}
