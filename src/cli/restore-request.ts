// What `microvisor restore` was asked for.
import type { RunRequest } from './run-options.js';

export const CLOCKS = ['catch-up', 'resume'] as const;

export interface RestoreRequest {
  readonly directory: string;
  readonly verify: boolean;
  readonly clock: (typeof CLOCKS)[number];
  /** How it is run; memory and processors are the snapshot's. */
  readonly run: RunRequest;
}
