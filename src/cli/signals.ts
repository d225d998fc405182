// The signals that end a run: stop the VM first, then die of the same signal, as a shell expects.
// signal(7); the second signal does not wait for anything.
import { constants } from 'node:os';

const SIGNAL_ROWS = ['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGQUIT'] as const;
export type EndingSignal = (typeof SIGNAL_ROWS)[number];

/** 128+n. */
export function signalStatus(signal: NodeJS.Signals): number {
  return 128 + constants.signals[signal];
}

/**
 * Ends this process by `signal`'s default action, so that its parent sees the signal and no thread can hold it up.
 * Where the default action does not end a process (process 1 of a container), it exits with 128+n.
 */
export function dieOf(signal: NodeJS.Signals): never {
  process.removeAllListeners(signal);
  process.kill(process.pid, signal);
  process.exit(signalStatus(signal));
}

/**
 * Calls `onSignal` once, at the first signal of the table. A second one calls `onHurry` and ends the process at once.
 * @returns a function that puts the default actions back
 */
export function watchSignals(onSignal: (signal: EndingSignal) => void, onHurry: () => void): () => void {
  let first = true;
  const listeners = SIGNAL_ROWS.map((signal) => {
    const listener = (): void => {
      if (!first) {
        onHurry();
        dieOf(signal);
      }
      first = false;
      onSignal(signal);
    };
    process.on(signal, listener);
    return { signal, listener };
  });
  return () => {
    for (const { signal, listener } of listeners) process.off(signal, listener);
  };
}
