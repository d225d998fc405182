// Grades exercise 10: the start of a virtio device, by the device's registers as the driver left them.
// VIRTIO 1.2 §2.1 (status), §3.1.1 (driver initialization).
import type { Exam } from '../ladder/lesson.js';
import { describeOutcome, runMachine } from '../ladder/machine.js';
import { hex } from '../ladder/rig.js';

const ENTRY = 0x10_0000;
const BYTES = 32;
/** The steps, by the bit of Status that closes them. */
const STEPS = [
  {
    bit: 1,
    name: 'ACKNOWLEDGE',
    missing: 'write_register(STATUS, 0), then ACKNOWLEDGE: the driver has seen the device.',
  },
  { bit: 2, name: 'DRIVER', missing: 'write_register(STATUS, ACKNOWLEDGE | DRIVER).' },
] as const;
const FEATURES_OK = 8;
const DRIVER_OK = 4;
const NEEDS_RESET = 64;

export async function gradeEntropy(exam: Exam): Promise<void> {
  const kernel = { name: 'exercise.c', bytes: exam.guest(ENTRY) };
  const { text, outcome, vm } = await runMachine(
    { kernel, entry: 'protected', load: ENTRY, memoryMiB: 2, entropy: true, onWarning: () => undefined },
    exam.limitMs,
  );
  exam.check('the guest comes to its end', outcome.kind === 'debug-exit', () => ({
    observed: `${describeOutcome(outcome)}; it printed ${JSON.stringify(text)}.`,
    missing: 'an end by finish(0); the exercise came with it.',
  }));
  const device = vm.device('entropy').fields;
  const queue = vm.device('entropy.queue0').fields;
  const value = (fields: typeof device, name: string): number => fields[name]?.get() ?? 0;
  const status = value(device, 'Status');
  for (const { bit, name, missing } of STEPS)
    exam.check(`Status has ${name}`, (status & bit) !== 0, () => ({
      observed: `The device's Status is ${hex(status)}: bit ${hex(bit)}, ${name}, is not set.`,
      missing,
    }));
  exam.check('VERSION_1 is accepted', value(device, 'DriverFeaturesHigh') === 1, () => ({
    observed: `Of features 32 to 63 the driver accepted ${hex(value(device, 'DriverFeaturesHigh'))}.`,
    missing: 'DRIVER_FEATURES_SEL = 1, then DRIVER_FEATURES = VERSION_1_HIGH, between DRIVER and FEATURES_OK.',
  }));
  exam.check('Status has FEATURES_OK', (status & FEATURES_OK) !== 0, () => ({
    observed: `The device's Status is ${hex(status)}; features ${hex(value(device, 'DriverFeaturesLow'))} of the low 32 were accepted.`,
    missing:
      'STATUS with FEATURES_OK after the features. The device leaves the bit 0 when it was given one it did not offer.',
  }));
  for (const [register, name] of [
    ['QUEUE_NUM', 'QueueNum'],
    ['QUEUE_DESC_LOW', 'QueueDescLow'],
    ['QUEUE_DRIVER_LOW', 'QueueDriverLow'],
    ['QUEUE_DEVICE_LOW', 'QueueDeviceLow'],
    ['QUEUE_READY', 'QueueReady'],
  ] as const)
    exam.check(`${register} of queue 0 is set`, value(queue, name) !== 0, () => ({
      observed: `${name} of queue 0 is 0.`,
      missing: `write_register(${register}, …), after FEATURES_OK and before DRIVER_OK; the device ignores it elsewhere.`,
    }));
  exam.check('Status has DRIVER_OK', (status & DRIVER_OK) !== 0, () => ({
    observed: `The device's Status is ${hex(status)}.`,
    missing: 'STATUS with DRIVER_OK, at last: before it the device looks at no queue.',
  }));
  exam.check('the device is content with the queue', (status & NEEDS_RESET) === 0, () => ({
    observed: `The device's Status is ${hex(status)}: it wants a reset, and told why in the machine's report: ${JSON.stringify(vm.report().virtio)}.`,
    missing: 'the three addresses of the queue, each to its own register.',
  }));
  exam.check(
    `${BYTES} random bytes are in the buffer`,
    /^used: [0-9a-f]+\n$/.test(text) && !/ 0+\n$/.test(text),
    () => ({
      observed: `The guest printed ${JSON.stringify(text)}.`,
      missing:
        'a buffer that the device has used. Does QUEUE_DEVICE_LOW lead to queue.used, and QUEUE_DESC_LOW to queue.descriptors?',
    }),
  );
}
