// How much memory the process has in use, with the garbage gone: for tests that say what may be kept.
import { setTimeout } from 'node:timers/promises';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

const MIB = 1 << 20;
/** Buffers are freed by a thread of the collector's, some time after it found them. */
const ATTEMPTS = 5;

/** MiB of objects and of their buffers. */
export async function memoryInUse(): Promise<number> {
  setFlagsFromString('--expose-gc');
  const collect = runInNewContext('gc') as () => void;
  let least = Infinity;
  for (let i = 0; i < ATTEMPTS; i++) {
    collect();
    await setTimeout(10);
    const { heapUsed, external } = process.memoryUsage();
    least = Math.min(least, (heapUsed + external) / MIB);
  }
  return least;
}
