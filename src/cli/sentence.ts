// What a person reads when something went wrong: one sentence, and the stack only when it is asked for.
// Our own; MICROVISOR_DEBUG=1 adds the stack.
import { writeSync } from 'node:fs';

/** Prints `microvisor: TEXT` on stderr at once, whatever the event loop does next. */
export function say(text: string): void {
  sayRaw(`microvisor: ${text}\n`);
}

/** Prints `text` on stderr as it is. */
export function sayRaw(text: string): void {
  try {
    writeSync(2, text);
  } catch {
    // Nobody reads stderr (EPIPE), or its reader is behind (EAGAIN): there is no place left to say so.
  }
}

/** Text from outside in a message: no control character of it may reach the terminal. */
export function printable(text: string): string {
  // oxlint-disable-next-line no-control-regex
  return text.replace(/[\x00-\x08\x0b-\x1f\x7f-\x9f]/g, (character) => {
    return `\\x${character.charCodeAt(0).toString(16).padStart(2, '0')}`;
  });
}

/** One line for `error`, with its stack when MICROVISOR_DEBUG is set. */
export function describeError(error: unknown): string {
  const text = error instanceof Error ? error.message : String(error);
  const stack = process.env['MICROVISOR_DEBUG'] === '1' && error instanceof Error ? `\n${error.stack ?? ''}` : '';
  return printable(text) + stack;
}
