// Grades exercise 3: a handler of port exits, through what the device and the guest got.
// KVM API 5 (struct kvm_run, member io).
import type { Exam } from '../ladder/lesson.js';
import { PORT, runWith, type Serve } from './vmm.js';

const GREETING = 'Hello from real mode, ';

export async function gradePortInput(exam: Exam): Promise<void> {
  const { serve } = await exam.module();
  exam.check('the module exports serve', typeof serve === 'function', () => ({
    observed: `serve is ${typeof serve}.`,
    missing: 'export function serve(kvmRun, io, device) { … }',
  }));
  for (const name of ['you', 'a name of twenty-nine letters']) {
    const answers = [name.length, ...Buffer.from(name)];
    let written = '';
    let reads = 0;
    const device = {
      read(port: number): number {
        if (port === PORT) reads++;
        return answers.shift() ?? 0xff;
      },
      write: (port: number, byte: number) => void (written += port === PORT ? String.fromCharCode(byte) : ''),
    };
    const { exits, stored } = runWith(serve as Serve, device);
    const letters = `a name of ${name.length} letters`;
    exam.check(`what the guest writes reaches the device (${letters})`, written.startsWith(GREETING), () => ({
      observed: `The device got ${JSON.stringify(written)}, and the guest wrote ${JSON.stringify(GREETING)} first.`,
      missing: 'device.write(port, byte) for each byte of an exit whose direction is out.',
    }));
    exam.check(`IN asks the device (${letters})`, reads > 0, () => ({
      observed: `The guest reads a port (exits with direction in: ${exits.filter(({ direction }) => direction === 'in').length}), and device.read was never called.`,
      missing: 'the direction: where kvmRun.getUint8(io.direction) is 0 the guest wants bytes, and does not give any.',
    }));
    exam.check(`REP INS takes all its bytes from the device (${letters})`, reads === 1 + name.length, () => ({
      observed: `The device has ${letters}: one byte for the length, then the letters. device.read was called ${reads} times.`,
      missing:
        'the count: an exit stands for size times count bytes. (The first answer tells the guest how many to ask for.)',
    }));
    exam.check(`the guest finds the bytes in its memory (${letters})`, stored === name, () => ({
      observed: `The guest's memory has ${JSON.stringify(stored)}, and the device said ${JSON.stringify(name)}.`,
      missing: 'kvmRun.setUint8(at, …): each byte at its own place, from data_offset on.',
    }));
    exam.check(`the device hears the name back (${letters})`, written === `${GREETING}${name}!\n`, () => ({
      observed: `The device got ${JSON.stringify(written)}.`,
      missing: 'all bytes of REP OUTS: count may be more than 1 there, too.',
    }));
  }
}
