// Starts and stops machines one after the other in a process of its own, and says what it held before and after.
// Started by machine.test.ts: cycles-process.js FIRST COUNT; the answer is two Held as JSON.
import { readdirSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
// By the package's own name: what a user's process loads.
import { createVm } from 'microvisor';

export interface Held {
  readonly fds: number;
  readonly threads: number;
  readonly residentMiB: number;
}

/** jmp . */
const SPIN = { name: 'spin', bytes: Uint8Array.of(0xeb, 0xfe) };

async function cycles(count: number): Promise<void> {
  for (let i = 0; i < count; i++) {
    const vm = await createVm({ kernel: SPIN, entry: 'real', cmdline: '', memoryMiB: 16 });
    await vm.start();
    await vm.stop();
  }
}

async function held(): Promise<Held> {
  // A worker's descriptors go when its thread does, a moment after its 'exit'.
  await sleep(200);
  return {
    fds: readdirSync('/proc/self/fd').length,
    threads: readdirSync('/proc/self/task').length,
    residentMiB: process.memoryUsage.rss() / 2 ** 20,
  };
}

const [first = 0, count = 0] = process.argv.slice(2).map(Number);
await cycles(first);
const before = await held();
await cycles(count);
process.stdout.write(`${JSON.stringify([before, await held()])}\n`);
