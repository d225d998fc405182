// The page of `microvisor trace FILE --explore`: open until the process is told to end.
// The page is web/explore-recording.ts.
import { basename } from 'node:path';
import type { TraceFile } from '../machine/trace/trace-format.js';
import { exploreRecording } from '../web/explore-recording.js';
import { parseNumber } from './numbers.js';
import { NUMBER_ROWS } from './run-options.js';
import { say } from './sentence.js';
import { signalStatus, watchSignals, type EndingSignal } from './signals.js';
import { UsageError } from './usage-error.js';

interface PageOptions {
  readonly chrome?: string;
  readonly json?: true;
  readonly explore?: string | true;
}

/** @throws UsageError for a port that cannot be had */
export async function showRecording(
  file: TraceFile,
  path: string,
  { chrome, json, explore = true }: PageOptions,
): Promise<{ readonly signal: EndingSignal; readonly status: number }> {
  if (chrome !== undefined || json === true)
    throw new UsageError('--explore', 'shows a page instead of --json or --chrome; leave one of them out');
  const port = explore === true ? 0 : parseNumber(NUMBER_ROWS.explore, explore);
  const ended = new Promise<EndingSignal>((resolve) => watchSignals(resolve, () => undefined));
  await using explorer = await exploreRecording(file, basename(path), port).catch((error: Error) => {
    throw new UsageError('--explore', error.message);
  });
  say(`the explorer is at ${explorer.url} (Ctrl-C ends it)`);
  const signal = await ended;
  return { signal, status: signalStatus(signal) };
}
