// Warnings that a guest can provoke, at a rate that a log survives.
// Our own: the first of a time gets through, the next one says how many were like it.

const INTERVAL_MS = 1000;

/** @param now milliseconds of a clock that does not go back */
export function limitWarnings(
  warn: (message: string) => void,
  now: () => number = () => performance.now(),
): (message: string) => void {
  let next = Number.NEGATIVE_INFINITY;
  let suppressed = 0;
  return (message) => {
    const time = now();
    if (time < next) {
      suppressed++;
      return;
    }
    next = time + INTERVAL_MS;
    warn(suppressed === 0 ? message : `${message} (${suppressed} other warnings were left out)`);
    suppressed = 0;
  };
}
