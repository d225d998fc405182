// Connects a guest's streams with the descriptors of this process, and takes them apart again.
// Our own; back-pressure goes through in both directions, but a person's keys never wait for the guest.
import { closeSync } from 'node:fs';
import type { Readable, Writable } from 'node:stream';
import { finished } from 'node:stream/promises';
import { ReadStream } from 'node:tty';
import { errorCode } from '../kvm/file-words.js';
import { EscapeKeys, keyHelp } from './escape-keys.js';
import { FdSink } from './fd-sink.js';
import { RawTerminal } from './terminal.js';

/** What happens on the way, for whoever runs the VM. */
export interface StreamEvents {
  /** Ctrl-A x. */
  onEndKey(): void;
  /** Ctrl-A s. */
  onSaveKey(): void;
  /** An output cannot be written any more: EPIPE, ENOSPC. */
  onBrokenOutput(error: NodeJS.ErrnoException): void;
}

/** A connection that stands until `release`. */
export interface Connection {
  /** Resolves when all that the guest wrote has been written out, or cannot be. */
  readonly drained: Promise<void>;
  /** Lets go of the descriptor; what is still unwritten is lost. */
  release(): void;
}

/** Typed bytes that wait for the guest. Further ones are refused with a bell: Ctrl-A x must get through. */
const TYPE_AHEAD = 4096;
const BELL = '\x07';

/** Writes what the guest says to `fd`; with `owned` the descriptor is closed at the end. */
export function connectOutput(
  output: Readable,
  fd: number,
  events: Pick<StreamEvents, 'onBrokenOutput'>,
  { owned = false } = {},
): Connection & { readonly sink: Writable } {
  const sink = new FdSink(fd);
  sink.on('error', (error: NodeJS.ErrnoException) => {
    // The guest's words go nowhere from now on, but they must not stall it.
    output.unpipe(sink);
    output.resume();
    events.onBrokenOutput(error);
  });
  output.pipe(sink);
  const drained = finished(sink).catch(() => undefined);
  return {
    sink,
    drained,
    release: () => {
      output.unpipe(sink);
      sink.destroy();
      if (owned) closeSync(fd);
    },
  };
}

/** stdin for the guest's console: raw and with our keys on a terminal, else its bytes and nothing more. */
export function connectConsoleInput(
  input: Writable,
  echo: Writable,
  events: Pick<StreamEvents, 'onEndKey' | 'onSaveKey'>,
): Connection {
  const stdin: Readable = process.stdin;
  ignoreErrors(stdin);
  ignoreErrors(input);
  if (!(stdin instanceof ReadStream)) {
    // The end of a pipe is not the end of the machine: the guest just hears nothing more.
    stdin.pipe(input, { end: false });
    return { drained: Promise.resolve(), release: () => letGo(stdin, input) };
  }
  const terminal = RawTerminal.enter(stdin);
  const keys = new EscapeKeys();
  const actions = {
    end: () => events.onEndKey(),
    save: () => events.onSaveKey(),
    help: () => void echo.write(keyHelp()),
  };
  stdin.on('data', (chunk: Buffer) => {
    for (const typed of keys.feed(chunk)) {
      if ('action' in typed) actions[typed.action]();
      else if (input.writableLength > TYPE_AHEAD) echo.write(BELL);
      else input.write(typed.bytes);
    }
  });
  return {
    drained: Promise.resolve(),
    release: () => {
      terminal.restore();
      letGo(stdin, input);
    },
  };
}

/** stdin for a command in the guest: its bytes and its end. */
export function connectCommandInput(input: Writable): Connection {
  const stdin: Readable = process.stdin;
  ignoreErrors(stdin);
  stdin.pipe(input);
  return { drained: Promise.resolve(), release: () => letGo(stdin, input) };
}

/** True when the reader at the other end has gone, which other tools die of by SIGPIPE. */
export function isBrokenPipe(error: NodeJS.ErrnoException): boolean {
  return errorCode(error) === 'EPIPE';
}

// A stdin that cannot be read (a directory, a terminal that hung up) is one that has ended; a guest that has ended
// takes no input.
function ignoreErrors(stream: Readable | Writable): void {
  stream.on('error', () => undefined);
}

function letGo(stdin: Readable, input: Writable): void {
  stdin.unpipe(input);
  stdin.removeAllListeners('data');
  stdin.pause();
  stdin.destroy();
}
