// The guest's thread of the stream test: a driver that works by interrupts over the registers, as Linux's does.
import { createHash } from 'node:crypto';
import { parentPort, workerData } from 'node:worker_threads';
import { EventFd } from '../../../../src/kvm/event-fd.js';
import { RegisterFile } from '../../../../src/devices/register-file.js';
import { allocateUart, type UartOptions } from '../../../../src/devices/legacy/uart16550-state.js';
import { Uart16550 } from '../../../../src/devices/legacy/uart16550.js';

export interface GuestTask {
  readonly role: 'send' | 'receive';
  /** What to send, or room for what to receive. */
  readonly bytes: Uint8Array;
  readonly registers: SharedArrayBuffer;
  /** Counts the pulses of the interrupt line. */
  readonly interrupts: Int32Array;
  readonly options: UartOptions;
  /** The owner's eventfd. */
  readonly bellFd: number;
}

const task = workerData as GuestTask;
const registers = RegisterFile.attach(task.registers);
const state = allocateUart(registers, task.options);
registers.seal();
const bell = EventFd.adopt(task.bellFd);
const uart = new Uart16550(state, task.options, {
  irq: { pulse: () => void Atomics.add(task.interrupts, 0, 1) },
  owner: bell,
});
const input = (offset: number): number => uart.read(offset, 1);
const output = (offset: number, value: number): void => uart.write(offset, 1, value);

/** Edge-triggered: goes on when there was a pulse since `seen`; a lost interrupt is a failed test. */
function waitForInterrupt(seen: number): number {
  if (Atomics.wait(task.interrupts, 0, seen, 20_000) === 'timed-out') throw new Error('an interrupt was lost');
  return Atomics.load(task.interrupts, 0);
}

function send(): string {
  output(1, 0x02);
  for (let sent = 0, seen = 0; sent < task.bytes.length;) {
    seen = waitForInterrupt(seen);
    while ((input(2) & 0x0f) === 0x02) {
      if ((input(5) & 0x20) === 0) continue;
      for (const byte of task.bytes.subarray(sent, sent + 16)) output(0, byte);
      sent += 16;
    }
  }
  return 'done';
}

function receive(): string {
  output(1, 0x01);
  output(4, 0x0b);
  for (let count = 0, seen = 0; count < task.bytes.length;) {
    seen = waitForInterrupt(seen);
    while ((input(2) & 0x01) === 0) while ((input(5) & 0x01) !== 0) task.bytes[count++] = input(0);
  }
  return createHash('sha256').update(task.bytes).digest('hex');
}

output(2, 0x81);
const result = task.role === 'send' ? send() : receive();
bell.close();
parentPort?.postMessage(result);
