// `microvisor lesson`: lists the lessons, explains and runs one, grades the student's exercise, also at each save.
// The work is that of guests/ladder; status 0, or 1 when an exercise is not passed.
import { existsSync, statSync } from 'node:fs';
import { UsageError } from './usage-error.js';
import type { DefineVerb } from './verb.js';

const AFTER_HELP = `
Without N the lessons are listed. With N alone the lesson is explained and its worked guest runs. With --work the
exercise is copied to DIR/NN-NAME/, unless it is there already, and graded: edit it, and do the same again; or let
--watch do so at each save.

  npx microvisor lesson 3
  npx microvisor lesson 3 --watch

Guests are made by GNU binutils (as, ld), two of them by gcc. Status: 0, or 1 when the exercise is not passed yet.
`;
/** Where the exercises go when nothing else is said. */
const DEFAULT_WORK = 'my-lessons';
const DEFAULT_COLUMNS = 80;

interface LessonOptions {
  readonly work?: string;
  readonly watch?: true;
}

export const define: DefineVerb = (command, { end }) => {
  command
    .argument('[N]', 'number of a lesson, or the name of its folder')
    .option('--work <DIR>', 'your own folder: copy the exercise there, and grade it')
    .option('--watch', `grade it, and again whenever you save; --work is ${DEFAULT_WORK} when it is not given`)
    .addHelpText('after', AFTER_HELP)
    .action(async (wanted: string | undefined, { work: folder, watch }: LessonOptions) => {
      const work = folder ?? (watch === true ? DEFAULT_WORK : undefined);
      const { findLesson, grade, listLessons, show } = await import('../../guests/ladder/door.js');
      const output = (text: string): void => void process.stdout.write(text);
      if (wanted === undefined) {
        if (work !== undefined)
          throw new UsageError('N', 'is missing: name the lesson to grade, as in microvisor lesson 3');
        output(`${listLessons()}\nnpx microvisor lesson 1 begins.\n`);
        return end({ status: 0 });
      }
      const lesson = findLesson(wanted);
      if (lesson === undefined)
        throw new UsageError('N', `there is no lesson ${JSON.stringify(wanted)}; microvisor lesson lists them`);
      if (work === undefined) {
        const columns = process.stdout.isTTY ? process.stdout.columns : DEFAULT_COLUMNS;
        // https://no-color.org: set and not empty means no colour.
        const colour = process.stdout.isTTY && (process.env['NO_COLOR'] ?? '') === '';
        await show(lesson, output, { columns, colour, work: DEFAULT_WORK });
        return end({ status: 0 });
      }
      checkFolder(work);
      const isPassed = await grade(lesson, {
        folder: work,
        output,
        // Nothing aborts it: Ctrl-C ends the process, whatever the guest does, for nobody here catches the signal.
        ...(watch === true ? { watch: new AbortController().signal } : {}),
      });
      end({ status: isPassed ? 0 : 1 });
    });
};

function checkFolder(path: string): void {
  if (path === '') throw new UsageError('--work', 'takes the name of a folder, not an empty text');
  if (existsSync(path) && !statSync(path).isDirectory())
    throw new UsageError('--work', `${path} is no folder; name one, which is made when it is not there`);
}
