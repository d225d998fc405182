// How exits grow with vCPUs of one VM and with VMs of one process: all run the same loop at the same time, each on a thread
// of its own with statistics on, as machines do.
import { execFileSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { environment, type Substrate, type Workshop } from './processes.js';

export interface GrowthPoint {
  readonly kind: 'vCPUs of a VM' | 'VMs of a process';
  readonly count: number;
  /** All together, in wall time. */
  readonly exitsPerSecond: number;
  /** Processor time of the vCPU threads for one exit, in nanoseconds. */
  readonly cpuPerExit: number;
}

/** What growth-process.ts starts with. */
export interface GrowthRequest {
  readonly kind: GrowthPoint['kind'];
  readonly count: number;
  /** Of each vCPU, in all. */
  readonly passes: number;
}

export const VCPUS = [1, 2, 3, 4] as const;
export const VMS = [1, 2, 4, 8, 16, 32, 64] as const;

/** All exits of one point together. */
const PASSES = 160_000;

/** @returns points, or the reason why there is none */
export function measureGrowth(
  workshop: Workshop,
  substrate: Substrate,
  onProgress: (words: string) => void,
): readonly GrowthPoint[] | string {
  const script = fileURLToPath(new URL('./growth-process.js', import.meta.url));
  const points: GrowthPoint[] = [];
  const requests = [
    ...VCPUS.map((count) => ({ kind: 'vCPUs of a VM', count }) as const),
    ...VMS.map((count) => ({ kind: 'VMs of a process', count }) as const),
  ];
  for (const request of requests) {
    onProgress(`${request.count} ${request.kind}`);
    const passes = Math.ceil(PASSES / request.count);
    try {
      const answer = execFileSync(
        process.execPath,
        [script, JSON.stringify({ ...request, passes }), workshop.guestFile],
        {
          env: environment(workshop, substrate),
          stdio: ['ignore', 'pipe', 'pipe'],
        },
      );
      points.push(JSON.parse(answer.toString()) as GrowthPoint);
    } catch (error) {
      return error instanceof Error ? (error.message.split('\n')[0] ?? '') : String(error);
    }
  }
  return points;
}
