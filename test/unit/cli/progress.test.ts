// "a progress bar on stderr when it is a terminal, else lines at steps".
import { describe, expect, test } from 'vitest';
import { ProgressDisplay, progressLine } from '../../../src/cli/progress.js';

function output(isTTY: boolean): { isTTY: boolean; columns: number; text: string; write(text: string): void } {
  return {
    isTTY,
    columns: 60,
    text: '',
    write(text) {
      this.text += text;
    },
  };
}

describe('progress', () => {
  test('a terminal sees one line that redraws itself and is gone at the end', () => {
    const terminal = output(true);
    const display = new ProgressDisplay(terminal, 'preparing');
    display.update({ stage: 'kernel', fraction: 0.25, detail: 'compiling' });
    display.update({ stage: 'kernel', fraction: 0.25, detail: 'compiling' });
    display.update({ stage: 'initramfs', fraction: 1 });
    display.close();
    expect(terminal.text.split('\r\x1b[K')).toEqual([
      '',
      'preparing [######..................] 25 %  kernel: compilin',
      'preparing [########################]100 %  initramfs',
      '',
    ]);
    expect(terminal.text).not.toContain('\n');
  });

  test('a line fits the terminal, whatever the detail', () => {
    const line = progressLine('preparing', { stage: 'kernel', fraction: 0.5, detail: 'x'.repeat(500) }, 60);
    expect(line).toHaveLength(59);
    expect(line).toContain('[############............]');
  });

  test('a log gets one line a step', () => {
    const log = output(false);
    const display = new ProgressDisplay(log, 'preparing');
    display.update({ stage: 'kernel', fraction: 0.1, detail: 'a.c' });
    display.update({ stage: 'kernel', fraction: 0.2, detail: 'b.c' });
    display.update({ stage: 'initramfs', fraction: 0.9 });
    display.close();
    expect(log.text).toBe('preparing: kernel\npreparing: initramfs\n');
  });
});
