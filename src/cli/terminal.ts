// The person's terminal while it belongs to the guest: raw, and given back whatever happens.
// termios(3) cfmakeraw; Node's raw mode leaves output processing on, which would add carriage returns.
import { type ReadStream, WriteStream } from 'node:tty';

/** Offset of c_oflag in struct termios, and the bit that switches output processing on (Linux, x86-64). */
const C_OFLAG = 4;
const OPOST = 1;
/** struct termios of the C library has 60 bytes. */
const TERMIOS_ROOM = 64;
const TCSANOW = 0;
const STDIN_FD = 0;

/** Undoes what Node's raw mode leaves: a guest's bytes must reach the terminal as they are, `\n` as a bare line feed. */
async function outputProcessing(): Promise<{ readonly stop: (fd: number) => void }> {
  const { default: koffi } = await import('koffi');
  const libc = koffi.load(null);
  const tcgetattr = libc.func('int tcgetattr(int fd, _Out_ uint8_t *termios)');
  const tcsetattr = libc.func('int tcsetattr(int fd, int actions, const uint8_t *termios)');
  return {
    stop(fd) {
      const termios = Buffer.alloc(TERMIOS_ROOM);
      if (tcgetattr(fd, termios) !== 0) return;
      termios.writeUInt32LE((termios.readUInt32LE(C_OFLAG) & ~OPOST) >>> 0, C_OFLAG);
      tcsetattr(fd, TCSANOW, termios);
    },
  };
}

export class RawTerminal {
  readonly #input: ReadStream;
  readonly #restoreAtExit = (): void => this.restore();
  readonly #resume = (): void => this.#enter();
  #raw = false;

  private constructor(input: ReadStream) {
    this.#input = input;
  }

  /** Makes `input`, which is the process's stdin, raw until `restore` is called or the process ends. */
  static enter(input: ReadStream): RawTerminal {
    const terminal = new RawTerminal(input);
    terminal.#enter();
    process.on('exit', terminal.#restoreAtExit);
    // After a stop and a `fg` the shell has put its own mode in place.
    process.on('SIGCONT', terminal.#resume);
    return terminal;
  }

  restore(): void {
    process.off('exit', this.#restoreAtExit);
    process.off('SIGCONT', this.#resume);
    if (!this.#raw) return;
    this.#raw = false;
    this.#input.setRawMode(false);
  }

  #enter(): void {
    this.#raw = true;
    // Leaving first: libuv does nothing when it believes to be in raw mode already.
    this.#input.setRawMode(false);
    this.#input.setRawMode(true);
    // koffi is loaded while the guest boots: it would cost more than the rest of the start.
    void this.#passOutput();
  }

  async #passOutput(): Promise<void> {
    const { stop } = await outputProcessing();
    if (this.#raw) stop(STDIN_FD);
  }
}

/** What this process prints on, when that is a terminal. */
function outputTerminal(): WriteStream | undefined {
  for (const stream of [process.stdout, process.stderr]) {
    if (stream instanceof WriteStream && stream.columns > 0 && stream.rows > 0) return stream;
  }
  return undefined;
}

/** In characters, of the terminal that this process prints on, or undefined when it has none. */
export function terminalSize(): { readonly columns: number; readonly rows: number } | undefined {
  const { columns, rows } = outputTerminal() ?? {};
  return columns === undefined || rows === undefined ? undefined : { columns, rows };
}

/**
 * Calls `onSize` now and whenever the terminal's size changes; never where there is no terminal.
 * @returns a function that ends it
 */
export function watchTerminalSize(onSize: (columns: number, rows: number) => void): () => void {
  const terminal = outputTerminal();
  if (terminal === undefined) return () => undefined;
  const tell = (): void => {
    // A window that is being closed may have no size.
    if (terminal.columns > 0 && terminal.rows > 0) onSize(terminal.columns, terminal.rows);
  };
  // SIGWINCH, after Node has asked for the new size.
  terminal.on('resize', tell);
  tell();
  return () => terminal.off('resize', tell);
}
