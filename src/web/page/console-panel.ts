// The guest's console: xterm.js, 80 columns as a guest without a terminal's size takes for granted.
// ECMA-48 is xterm.js's affair; the guest's bytes go to it as they are.
import { Terminal, type ITheme } from '@xterm/xterm';
import { byId, colour, empty, fill, onTheme } from './dom.js';
import type { Connection, Handlers } from './connection.js';

const COLUMNS = 80;
const FONT = { smallest: 9, largest: 15 };
const SCROLLBACK_LINES = 5000;

export class ConsolePanel {
  readonly handlers: Handlers;
  readonly #terminal: Terminal;
  readonly #host = byId('terminal');
  #isOpen = false;

  constructor(connection: () => Connection) {
    this.#terminal = new Terminal({
      cols: COLUMNS,
      rows: 24,
      fontSize: FONT.largest,
      fontFamily: "ui-monospace, 'DejaVu Sans Mono', 'Liberation Mono', Menlo, Consolas, monospace",
      scrollback: SCROLLBACK_LINES,
      cursorBlink: true,
      screenReaderMode: false,
    });
    this.#terminal.onData((text) => connection().type(text));
    // The page's own keys work from within as well: see keys.ts.
    this.#terminal.attachCustomKeyEventHandler(({ key }) => !/^F(?:6|8|9|10)$/.test(key));
    onTheme(() => (this.#terminal.options.theme = theme()));
    this.handlers = {
      hello: ({ mode }) => {
        if (mode === 'live') this.#open();
        else fill(this.#host, empty('A recording has no console: it holds exits, not what the guest printed.'));
      },
      ended: () => (this.#terminal.options.disableStdin = true),
    };
  }

  write(bytes: Uint8Array): void {
    this.#terminal.write(bytes);
  }

  focus(): void {
    this.#terminal.focus();
  }

  /** The server has gone: nothing that is typed goes anywhere. */
  freeze(): void {
    this.#terminal.options.disableStdin = true;
    this.#terminal.options.cursorBlink = false;
  }

  get hasFocus(): boolean {
    return this.#host.contains(document.activeElement);
  }

  blur(): void {
    this.#terminal.blur();
  }

  #open(): void {
    if (this.#isOpen) return;
    this.#isOpen = true;
    fill(this.#host);
    this.#terminal.options.theme = theme();
    this.#terminal.open(this.#host);
    new ResizeObserver(() => this.#fit()).observe(this.#host);
    this.#terminal.focus();
  }

  /** The largest letters with which a line fits, and as many lines as there is room for. */
  #fit(): void {
    const screen = this.#host.querySelector<HTMLElement>('.xterm-screen');
    const size = this.#terminal.options.fontSize ?? FONT.largest;
    if (screen === null || screen.offsetWidth === 0) return;
    const style = getComputedStyle(this.#host);
    const width = this.#host.clientWidth - Number.parseFloat(style.paddingLeft) - Number.parseFloat(style.paddingRight);
    const height =
      this.#host.clientHeight - Number.parseFloat(style.paddingTop) - Number.parseFloat(style.paddingBottom);
    const perPoint = screen.offsetWidth / COLUMNS / size;
    // The scroll bar lies beside the lines.
    const fitting = Math.floor(((width - 14) / COLUMNS / perPoint) * 2) / 2;
    const fontSize = Math.min(Math.max(fitting, FONT.smallest), FONT.largest);
    if (fontSize !== size) this.#terminal.options.fontSize = fontSize;
    requestAnimationFrame(() => {
      const line = screen.offsetHeight / this.#terminal.rows;
      const rows = Math.max(Math.floor(height / line), 4);
      if (line > 0 && rows !== this.#terminal.rows) this.#terminal.resize(COLUMNS, rows);
    });
  }
}

/** xterm.js takes the sixteen colours of ANSI; the page's own are legible on its grounds by day and by night. */
function theme(): ITheme {
  const names = ['black', 'red', 'green', 'yellow', 'blue', 'magenta', 'cyan', 'white'] as const;
  const colours: Record<string, string> = {};
  for (const name of names) {
    colours[name] = colour(`ansi-${name}`);
    colours[`bright${name.charAt(0).toUpperCase()}${name.slice(1)}`] = colour(`ansi-${name}`);
  }
  return {
    ...colours,
    brightBlack: colour('ink-3'),
    background: colour('term'),
    foreground: colour('ink'),
    cursor: colour('accent'),
    cursorAccent: colour('term'),
    selectionBackground: colour('selection'),
  };
}
