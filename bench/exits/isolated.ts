// The parts of an exit's cost by themselves, without any KVM: in a process whose KVM does nothing.
// mitata for single functions; batches of the loop, as everywhere else, for the loop as a whole.
import { execFileSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { environment, type Workshop } from './processes.js';

export interface IsolatedCost {
  readonly id: string;
  readonly title: string;
  /** Nanoseconds of one call: median, and 99th percentile of samples of many calls. */
  readonly ns: number;
  readonly p99: number;
}

export interface HeapGrowth {
  readonly exits: number;
  /** What the heap grew by, collected bytes included: a byte an exit would be as many as there were exits. */
  readonly bytes: number;
  readonly collections: number;
}

export interface Isolated {
  readonly costs: readonly IsolatedCost[];
  /** By case. */
  readonly heap: Readonly<Record<string, HeapGrowth>>;
}

export const HEAP_EXITS = 10_000_000;

/** @param exits how many the heap's growth is looked at over */
export function measureIsolated(workshop: Workshop, exits: number): Isolated {
  const script = fileURLToPath(new URL('./isolated-process.js', import.meta.url));
  const answer = execFileSync(process.execPath, ['--expose-gc', script, String(exits), workshop.guestFile], {
    env: environment(workshop, 'null'),
    stdio: ['ignore', 'pipe', 'inherit'],
    maxBuffer: 2 ** 24,
  });
  return JSON.parse(answer.toString()) as Isolated;
}
