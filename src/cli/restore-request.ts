// What `microvisor restore` was asked for.
import type { Clock } from '../machine/snapshot/apply.js';
import type { RunRequest } from './run-options.js';

export const CLOCKS = ['catch-up', 'resume', 'set'] as const satisfies readonly Clock[];

export interface RestoreRequest {
  readonly directory: string;
  readonly verify: boolean;
  readonly clock: Clock;
  /** How it is run; memory and processors are the snapshot's. */
  readonly run: RunRequest;
}
