// The watchdog's thread: waits for a guest to run, then for its end or the time limit, whichever comes first.
// Our own; see watchdog.ts.
import { workerData } from 'node:worker_threads';
import { kick } from 'microvisor';
import type { WatchdogCells } from './watchdog.js';

const { sequence, order } = workerData as WatchdogCells;

for (;;) {
  const seen = Atomics.load(sequence, 0);
  const isRunning = seen % 2 !== 0;
  const [token = 0, limitMs = 0] = order;
  const waited = Atomics.wait(sequence, 0, seen, isRunning ? limitMs : Infinity);
  if (waited !== 'timed-out') continue;
  kick(token);
  Atomics.wait(sequence, 0, seen);
}
