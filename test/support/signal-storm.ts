// A process that sends a signal to every thread of another one, again and again, until it is ended or the other is gone.
// tgkill(2). Arguments: process id, signal, pause between two rounds in milliseconds.
import { readdirSync } from 'node:fs';
import koffi from 'koffi';

const [pid = 0, signal = 0, pause = 1] = process.argv.slice(2).map(Number);
const tgkill = koffi.load(null).func('int tgkill(int tgid, int tid, int sig)') as (...args: number[]) => number;
const clock = new Int32Array(new SharedArrayBuffer(4));

/** Threads come and go: one that is gone meanwhile is no error. */
function storm(): void {
  for (let round = 0, threads: number[] = []; ; round++) {
    if (round % 20 === 0) threads = readdirSync(`/proc/${pid}/task`).map(Number);
    for (const thread of threads) tgkill(pid, thread, signal);
    if (round === 0) process.send?.('raging');
    Atomics.wait(clock, 0, 0, pause);
  }
}

try {
  storm();
} catch {
  process.exit(0);
}
