// Where --report goes: checked before the VM starts, written in one piece when it has ended.
// rename(2): a reader sees the old report or the new one, never a part.
import {
  accessSync,
  closeSync,
  constants,
  openSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
  writeSync,
  type Stats,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { refuseFile, UsageError } from './usage-error.js';

export interface ReportFile {
  /** @throws Error when the host cannot write it */
  write(report: unknown): void;
}

/** Numbers beyond 2^53 (registers) go as hexadecimal texts: JSON readers would round them. */
export function toJson(value: unknown): string {
  return `${JSON.stringify(value, (_, item: unknown) => (typeof item === 'bigint' ? `0x${item.toString(16)}` : item), 2)}\n`;
}

/** @throws UsageError that names the file when it could not be written */
export function openReportFile(path: string): ReportFile {
  const stats = look(path);
  if (stats?.isDirectory() === true) throw new UsageError('--report', `${path}: it is a directory; name a file in it`);
  return stats === undefined || stats.isFile() ? replacing(path, stats) : streaming(path);
}

function look(path: string): Stats | undefined {
  try {
    return statSync(path, { throwIfNoEntry: false });
  } catch (error) {
    throw refuseFile('--report', path, error);
  }
}

// A regular file is replaced as a whole. A symbolic link stays: its target is what gets replaced.
function replacing(path: string, stats: Stats | undefined): ReportFile {
  const target = stats === undefined ? path : realpathSync(path);
  try {
    accessSync(dirname(target), constants.W_OK | constants.X_OK);
  } catch (error) {
    throw refuseFile('--report', path, error);
  }
  return {
    write(report) {
      const temporary = join(dirname(target), `.microvisor-report-${process.pid}`);
      try {
        writeFileSync(temporary, toJson(report));
        renameSync(temporary, target);
      } catch (error) {
        rmSync(temporary, { force: true });
        throw error;
      }
    },
  };
}

// /dev/stderr, a FIFO with its reader: nothing that could be replaced, and nothing that may hold us up.
function streaming(path: string): ReportFile {
  let fd: number;
  try {
    fd = openSync(path, constants.O_WRONLY | constants.O_NONBLOCK | constants.O_NOCTTY);
  } catch (error) {
    throw refuseFile('--report', path, error);
  }
  return {
    write(report) {
      let bytes = Buffer.from(toJson(report));
      while (bytes.length > 0) bytes = bytes.subarray(writeSync(fd, bytes));
      closeSync(fd);
    },
  };
}
