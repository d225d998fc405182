// What is seen in the console's output as it goes by: a panic's line, and the first sight of each text asked for.
// Linux kernel/panic.c, and how printk puts levels, time stamps and callers in front of a line.
import { describe, expect, it } from 'vitest';
import { ConsoleLines } from '../../../src/machine/console-lines.js';

function watch(texts: Readonly<Record<string, string>> = {}): {
  readonly lines: ConsoleLines;
  readonly seen: string[];
  readonly push: (text: string) => void;
} {
  const seen: string[] = [];
  const lines = new ConsoleLines(texts, (name) => seen.push(name));
  return { lines, seen, push: (text) => lines.push(Buffer.from(text, 'latin1')) };
}

describe('ConsoleLines', () => {
  it.each([
    ['bare', 'Kernel panic - not syncing: VFS: no root\r\n'],
    ['after a time stamp', '[    1.234567] Kernel panic - not syncing: VFS: no root\n'],
    ['with the caller', '[   12.000001][    T1] Kernel panic - not syncing: VFS: no root\n'],
    ['at its level', '<0>[    1.234567] Kernel panic - not syncing: VFS: no root\n'],
  ])('"the panic\'s line without its time stamp": %s', (_, text) => {
    const { lines, push } = watch();
    push(`Booting\n${text}---[ end`);
    expect(lines.panic).toBe('Kernel panic - not syncing: VFS: no root');
  });

  it('the first panic counts', () => {
    const { lines, push } = watch();
    push('Kernel panic - not syncing: one\nKernel panic - not syncing: two\n');
    expect(lines.panic).toBe('Kernel panic - not syncing: one');
  });

  it.each([
    ['a program that talks about it', "echo 'Kernel panic - not syncing: x'\n"],
    ['a line that has not ended', '[    1.000000] Kernel panic - not syncing: x'],
    ['no panic', 'Kernel command line: panic=1\n'],
  ])('%s is no panic', (_, text) => {
    const { lines, push } = watch();
    push(text);
    expect(lines.panic).toBeUndefined();
  });

  it('a line may come in any pieces, byte by byte too', () => {
    const { lines, push } = watch();
    for (const character of '[    0.100000] Kernel panic - not syncing: x\n') push(character);
    expect(lines.panic).toBe('Kernel panic - not syncing: x');
  });

  it('"called once a name, when a line holds its text (at once, not at the line\'s end)"', () => {
    const { seen, push } = watch({ prompt: '~ # ', init: 'Run /init' });
    push('[    1.0] Run /in');
    expect(seen).toEqual([]);
    push('it as init process\nwelcome\n/ ~ # ');
    expect(seen).toEqual(['init', 'prompt']);
    push('\n~ # Run /init\n');
    expect(seen).toEqual(['init', 'prompt']);
  });

  it('a text does not match across two lines', () => {
    const { seen, push } = watch({ both: 'ab' });
    push('a\nb');
    expect(seen).toEqual([]);
  });

  it('"what a line has beyond this is not looked at: a guest may print without a newline for ever"', () => {
    const { lines, seen, push } = watch({ near: 'near', far: 'far' });
    push(`${'x'.repeat(500)}near${'x'.repeat(1 << 20)}far`);
    expect(seen).toEqual(['near']);
    push('\nfar\nKernel panic - not syncing: y\n');
    expect(seen).toEqual(['near', 'far']);
    expect(lines.panic).toBe('Kernel panic - not syncing: y');
  });

  it('bytes that are no text do no harm', () => {
    const { lines, push } = watch();
    lines.push(Uint8Array.from([0xff, 0xfe, 0x00, 0x80, 0x0a]));
    push('Kernel panic - not syncing: z\n');
    expect(lines.panic).toBe('Kernel panic - not syncing: z');
  });
});
