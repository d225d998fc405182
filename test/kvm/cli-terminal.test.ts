// `microvisor run` on a terminal: raw mode, our keys, and the terminal given back whatever happens.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { ECHO, PRINT_FOREVER, SPIN } from '../support/flat-guests.js';
import { noKvm } from '../support/kvm.js';
import { onTerminal, type Modes } from '../support/pty.js';

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'microvisor-terminal-'));
  writeFileSync(join(folder, 'spin'), SPIN);
  writeFileSync(join(folder, 'echo'), ECHO);
  writeFileSync(join(folder, 'print'), PRINT_FOREVER);
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const guest = (name: 'spin' | 'echo' | 'print', ...more: string[]): string[] =>
  ['run', '--kernel', join(folder, name), '--entry', 'real'].concat(more);

const HINT = { wait: 'Ctrl-A h lists the keys' } as const;
const RAW: Modes = { canonical: false, echo: false, signals: false, outputProcessing: false };

describe.skipIf(noKvm)('"on the terminal in raw mode"', () => {
  test('"Ctrl-A x ends it at once", even when the guest spins: status 0, and the terminal is as it was', async () => {
    const end = await onTerminal(guest('spin'), [HINT, { raw: true }, { modes: true }, { send: '\x01x' }]);
    expect(end).toMatchObject({ status: 0, modes: [RAW] });
    expect(end.after).toEqual(end.before);
  });

  test('"Ctrl-A h lists the keys"; Ctrl-C and the other keys are the guest’s', async () => {
    const end = await onTerminal(guest('echo'), [
      HINT,
      { raw: true },
      { send: '\x01h' },
      { wait: 'Ctrl-A x       end the VM at once\r\n' },
      { send: 'a\x03\x1a\x1c\x01ab\r' },
      { wait: 'a\x03\x1a\x1c\x01b\r' },
      { send: 'q' },
    ]);
    expect(end.status).toBe(11);
    expect(end.after).toEqual(end.before);
  });

  test('a line feed of the guest stays a bare one', async () => {
    const end = await onTerminal(guest('echo'), [HINT, { raw: true }, { send: 'A\nBq' }, { wait: 'A\nB' }]);
    expect(end.output).not.toContain('A\r\n');
  });

  test('Ctrl-A x gets through when the guest takes no input', async () => {
    const typed = Array.from({ length: 20 }, () => ({ send: 'x'.repeat(1000) }));
    const end = await onTerminal(guest('spin'), [HINT, { raw: true }, ...typed, { send: '\x01x' }]);
    expect(end.status).toBe(0);
    expect(end.after).toEqual(end.before);
  });

  test.each([
    ['SIGTERM', -15],
    ['SIGINT', -2],
    ['SIGHUP', -1],
  ] as const)('%s: "the VM is stopped, the terminal restored"', async (signal, status) => {
    for (const name of ['spin', 'print'] as const) {
      const end = await onTerminal(guest(name), [HINT, { raw: true }, { signal }]);
      expect(end.status).toBe(status);
      expect(end.after).toEqual(end.before);
    }
  });

  test('"--timeout" gives the terminal back as well', async () => {
    const end = await onTerminal(guest('spin', '--timeout', '1'), [HINT, { raw: true }]);
    expect(end.status).toBe(124);
    expect(end.after).toEqual(end.before);
  });

  test('a window that is closed ends it', async () => {
    const end = await onTerminal(guest('spin'), [HINT, { raw: true }, { hangUp: true }]);
    expect(end.status).toBe(-1);
  });

  test('with the console elsewhere the terminal stays as it is, and Ctrl-C is a signal', async () => {
    const words = guest('spin', '--console', 'null', '--verbose', '--append', 'x');
    const steps = [{ wait: 'started' }, { modes: true }, { send: '\x03' }] as const;
    const end = await onTerminal(words, steps);
    expect(end.status).toBe(-2);
    expect(end.modes).toEqual([end.before]);
  });
});
