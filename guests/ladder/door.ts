// What the command uses of the ladder: list, explain, run, grade.
// Our own; `microvisor lesson` is src/cli/lesson.ts.
import { join } from 'node:path';
import { GUESTS } from './build.js';
import { formatGrade, gradeFile } from './exam.js';
import type { Lesson } from './lesson.js';
import { LESSONS, findLesson, lessonNumber } from './lessons.js';
import { renderMarkdown, type RenderOptions } from './render.js';
import { Watchdog } from './watchdog.js';
import { onSave, openWork, readme } from './work.js';

export { findLesson, type Lesson, type RenderOptions };

export type Output = (text: string) => void;

/** The lessons, one a line. */
export function listLessons(): string {
  const rows = LESSONS.map(
    (lesson) => `  ${String(lessonNumber(lesson)).padStart(2)}  ${title(lesson)} ${lesson.summary}`,
  );
  return `${rows.join('\n')}\n`;
}

function title({ name }: Lesson): string {
  return name.slice(3).padEnd(15);
}

export interface ShowOptions extends RenderOptions {
  /** Where the student's files go when nothing else is said. */
  readonly work: string;
}

/** Prints the lesson's README, and runs its worked guest. */
export async function show(lesson: Lesson, output: Output, options: ShowOptions): Promise<void> {
  output(renderMarkdown(readme(lesson), options));
  output(`\nIts files are in ${join(GUESTS, lesson.name)}. It runs:\n\n`);
  await lesson.run({ output });
  const number = lessonNumber(lesson);
  output(
    `\nNow your turn: npx microvisor lesson ${number} --watch copies the exercise to ${options.work}/, and grades it\n` +
      'whenever you save it; with --work DIR it goes to a folder of your choice.\n',
  );
}

export interface GradeOptions {
  /** The student's folder. */
  readonly folder: string;
  readonly output: Output;
  /** Grade again at each save, until it aborts. */
  readonly watch?: AbortSignal;
}

/** Grades the student's file, which is copied first where there is none yet. @returns whether it is passed, the last time */
export async function grade(lesson: Lesson, { folder, output, watch }: GradeOptions): Promise<boolean> {
  const { path, isNew } = openWork(lesson, folder);
  if (isNew) output(`The exercise of lesson ${lesson.name} is in ${path} now. As it is:\n\n`);
  const watchdog = new Watchdog();
  const next = LESSONS[LESSONS.indexOf(lesson) + 1];
  const onward = next === undefined ? 'It was the last one.' : `The next: npx microvisor lesson ${lessonNumber(next)}`;
  let isPassed = false;
  const once = async (): Promise<void> => {
    const result = await gradeFile(lesson, path, { watchdog });
    isPassed = result.failed === undefined;
    output(formatGrade(lesson, path, result));
    if (isPassed) output(`${onward}\n`);
  };
  if (watch === undefined) await once();
  else
    await onSave(path, watch, async () => {
      output(`\n${new Date().toTimeString().slice(0, 8)}\n`);
      await once();
      output('Waiting for you to save it; Ctrl-C ends.\n');
    });
  return isPassed;
}
