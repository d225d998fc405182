// The file of --console file=PATH, opened before the VM starts.
// open(2), fifo(7).
import { constants, openSync, statSync } from 'node:fs';
import { refuseFile } from './usage-error.js';

/** @returns a descriptor for writing. @throws UsageError that names the file */
export function openConsoleFile(path: string): number {
  try {
    const isFifo = statSync(path, { throwIfNoEntry: false })?.isFIFO() === true;
    // A FIFO opened for both directions does not wait for its reader (fifo(7)).
    const access = isFifo ? constants.O_RDWR : constants.O_WRONLY | constants.O_CREAT | constants.O_TRUNC;
    return openSync(path, access | constants.O_NOCTTY, 0o666);
  } catch (error) {
    throw refuseFile('--console', path, error);
  }
}
