// READMEs on a terminal: "README rendered plainly".
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { GUESTS } from '../../../guests/ladder/build.js';
import { LESSONS } from '../../../guests/ladder/lessons.js';
import { renderMarkdown } from '../../../guests/ladder/render.js';

const plain = (text: string, columns = 80): string => renderMarkdown(text, { columns, colour: false });

describe('renderMarkdown', () => {
  it('leaves no marks of Markdown where there is no colour', () => {
    expect(plain('# A heading\n\n**Read** [vmm.ts](vmm.ts), _not_ `guest.S`.\n')).toBe(
      'A heading\n\nRead vmm.ts, not guest.S.\n',
    );
  });

  it('fills paragraphs up to the width, and lists under their numbers', () => {
    expect(plain('one two\nthree four five\n\n1. six seven\n   eight nine\n2. ten\n', 14)).toBe(
      'one two three\nfour five\n\n1. six seven\n   eight nine\n2. ten\n',
    );
  });

  it('keeps code and tables as they are', () => {
    expect(plain('Say:\n\n```sh\nnpm  ci\n\nls\n```\n\n| a | b |\n| - | - |\n')).toBe(
      'Say:\n\n    npm  ci\n    \n    ls\n\n| a | b |\n| - | - |\n',
    );
  });

  it('marks headings, bold and code by escape sequences, which take no room', () => {
    const text = renderMarkdown('# A\n\n**bold** `code` x\n', { columns: 10, colour: true });
    expect(text).toBe('\u001B[4m\u001B[1mA\u001B[0m\u001B[0m\n\n\u001B[1mbold\u001B[0m \u001B[2mcode\u001B[0m\nx\n');
  });
});

describe('the READMEs of the lessons', () => {
  it.each(LESSONS)('$name says how to run it, its idea, its exercise, and the specification', (lesson) => {
    const text = readFileSync(join(GUESTS, lesson.name, 'README.md'), 'utf8');
    const number = Number(lesson.name.slice(0, 2));
    expect(text).toMatch(new RegExp(`^# Lesson ${number}: .+\n\n\`npx microvisor lesson ${number}\`\n`));
    expect(text).toContain('**The idea: ');
    expect(text).toContain(`**Exercise** [${lesson.exercise}](${lesson.exercise}): `);
    expect(text).toContain(`\`npx microvisor lesson ${number} --work DIR\``);
    expect(text).toContain('**Specification** ');
    const shown = plain(text);
    expect(shown).not.toMatch(/\*\*|`|\]\(/);
    expect(Math.max(...shown.split('\n').map((line) => line.length))).toBeLessThanOrEqual(80);
  });
});
