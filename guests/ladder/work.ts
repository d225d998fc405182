// The student's own folder: exercises are copied there, and never written over.
// Our own; an installed package is not a place to work in.
import { constants, copyFileSync, existsSync, mkdirSync, readFileSync, statSync, watch } from 'node:fs';
import { dirname, join } from 'node:path';
import { GUESTS } from './build.js';
import type { Lesson } from './lesson.js';

export interface WorkFile {
  /** The student's file. */
  readonly path: string;
  /** True when it has just been copied. */
  readonly isNew: boolean;
}

/** @param folder of the student; made when it is not there @throws Error that says why it cannot be used */
export function openWork(lesson: Lesson, folder: string): WorkFile {
  const path = join(folder, lesson.name, lesson.exercise);
  try {
    makeFolder(dirname(path));
    copyFileSync(join(GUESTS, lesson.name, lesson.exercise), path, constants.COPYFILE_EXCL);
    return { path, isNew: true };
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    if (code === 'EEXIST' && statSync(path, { throwIfNoEntry: false })?.isFile() === true)
      return { path, isNew: false };
    throw new Error(`the exercise cannot be copied to ${path}; use another folder (${message})`, { cause: error });
  }
}

/** Step by step: where a file system refuses a folder with ENOENT, as /proc does, Node's own recursion never ends. */
function makeFolder(path: string): void {
  if (existsSync(path)) return;
  makeFolder(dirname(path));
  mkdirSync(path);
}

/** The lesson's README. */
export function readme(lesson: Lesson): string {
  return readFileSync(join(GUESTS, lesson.name, 'README.md'), 'utf8');
}

/** Editors save in several steps. */
const SETTLE_MS = 100;

/** Calls `work` now and after each save, until `signal` aborts. A save while it works is seen afterwards. */
export async function onSave(path: string, signal: AbortSignal, work: () => Promise<void>): Promise<void> {
  let wake: () => void = () => undefined;
  // The folder, because most editors put a new file in the old one's place.
  const watcher = watch(dirname(path), () => wake());
  signal.addEventListener('abort', () => wake());
  try {
    while (!signal.aborted) {
      // Read before the work: what is saved from here on has not been looked at.
      const seen = savedAt(path);
      await work();
      const isDone = (): boolean => signal.aborted || ![undefined, seen].includes(savedAt(path));
      while (!isDone())
        await new Promise<void>((resolve) => {
          wake = resolve;
          if (isDone()) resolve();
        });
      await new Promise((resolve) => setTimeout(resolve, SETTLE_MS));
    }
  } finally {
    watcher.close();
  }
}

/** When it was saved, in milliseconds; undefined while an editor has it away. */
function savedAt(path: string): number | undefined {
  return statSync(path, { throwIfNoEntry: false })?.mtimeMs;
}
