// Records a machine's exits to a file while it runs: empties the rings of its vCPUs many times a second.
// The rings are those of vcpu/observe; a vCPU never waits for this, so what is not read in time is lost, and counted.
import { writeSync } from 'node:fs';
import type { TraceReader } from '../../vcpu/observe/trace-reader.js';
import { encodeHeader, encodeRecords, type TraceHeader } from './trace-format.js';

/** Milliseconds between two looks. */
const PERIOD_MS = 10;

export interface TraceRecorder {
  /** Writes what is left, once the machine has ended or the recording is to. Throws what the file said, if it did. */
  finish(): { readonly exits: number; readonly lost: number };
}

/** @param fd of the file, which stays the caller's */
export function recordTrace(
  fd: number,
  readers: readonly TraceReader[],
  header: Omit<TraceHeader, 'tscKhz'>,
): TraceRecorder {
  let exits = 0;
  let failure: unknown;
  const lost = readers.map(() => 0);
  writeWhole(fd, encodeHeader({ ...header, tscKhz: readers[0]?.tscKhz ?? 1 }));
  const empty = (): void => {
    if (failure !== undefined) return;
    try {
      for (const [vcpu, reader] of readers.entries()) {
        const found = reader.read();
        const gone = reader.lost - (lost[vcpu] as number);
        lost[vcpu] = reader.lost;
        exits += found.length;
        if (found.length > 0 || gone > 0) writeWhole(fd, encodeRecords(vcpu, found, gone));
      }
    } catch (error) {
      // A full disk ends the recording, not the machine.
      failure = error;
      clearInterval(timer);
    }
  };
  const timer = setInterval(empty, PERIOD_MS);
  timer.unref();
  return {
    finish() {
      clearInterval(timer);
      empty();
      if (failure !== undefined) throw failure;
      return { exits, lost: lost.reduce((sum, count) => sum + count, 0) };
    },
  };
}

function writeWhole(fd: number, bytes: Buffer): void {
  for (let done = 0; done < bytes.length;) done += writeSync(fd, bytes, done);
}
