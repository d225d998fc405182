// The machine's consoles as Node streams: COM1, the virtio console when there is one, and the exec channel on COM2.
// What all of them have in common is ConsolePort; what is read on them (a panic, the milestones) is read on each.
import type { Readable, Writable } from 'node:stream';
import { EventFdIrqLine } from '../devices/irq-line.js';
import { UartBack } from '../devices/legacy/uart16550-back.js';
import type { Board, BoardFds } from './board.js';
import { ConsoleLines } from './console-lines.js';
import type { CompleteConfig, ExecRequest, ShellRequest } from './config.js';
import { ExecChannel, type RestoredExec } from './exec-channel.js';
import type { Marks } from './marks.js';
import { SerialInput, SerialOutput, type SerialLine } from './serial-streams.js';

/** A console as its user sees it. */
export interface ConsoleStreams {
  readonly output: Readable;
  readonly input: Writable;
}

/** What can be told the size of the terminal behind it. */
export interface ConsoleSize {
  resize(columns: number, rows: number): void;
}

/** The owner's side of a port over which the guest prints and reads. */
export interface ConsolePort extends SerialLine {
  /** Bytes that the guest sent in vain, modulo 2^32. */
  readonly lostBytes: number;
  /** Delivers what the guest has sent so far. */
  drain(): number;
  /** After a snapshot's state was put in: tells the guest what it may not have heard. */
  adopt?(): void;
  /** Delivers what is there and stops. The vCPUs must have stopped. */
  close(): void;
}

/** A port with its streams. */
export interface Console {
  readonly port: ConsolePort;
  readonly output: SerialOutput;
  readonly input: SerialInput;
  readonly lines: ConsoleLines;
}

export interface Consoles {
  /** COM1. */
  readonly serial: Console;
  /** What the configuration calls the console: `serial`, or the virtio console. */
  readonly main: Console;
  readonly exec: ExecChannel | undefined;
  /** COM2, which belongs to the exec channel. */
  readonly com2: ConsolePort;
}

export function connectConsoles(
  board: Board,
  fds: BoardFds,
  config: CompleteConfig,
  virtio: ConsolePort | undefined,
  marks: Marks,
  restored?: RestoredExec,
): Consoles {
  const com2 = uartBack(board, fds, 'COM2');
  const connect = (port: ConsolePort, overflow: 'drop' | 'wait'): Console => {
    const lines = new ConsoleLines(config.milestones, (name) => marks.set(name));
    const output = new SerialOutput(port, overflow, (bytes) => {
      marks.set('firstOutput');
      lines.push(bytes);
    });
    return { port, output, input: new SerialInput(port), lines };
  };
  const serial = connect(uartBack(board, fds, 'COM1'), serialOverflow(config));
  return {
    serial,
    main: virtio === undefined ? serial : connect(virtio, config.consoleOverflow),
    exec: connectExec(com2, config.exec, restored),
    com2,
  };
}

/** @throws RangeError for a command that the guest would not take */
function connectExec(
  com2: ConsolePort,
  wanted: CompleteConfig['exec'],
  restored?: RestoredExec,
): ExecChannel | undefined {
  if (wanted === undefined) return undefined;
  const exec = new ExecChannel(com2, restored);
  if (wanted !== 'later') startTask(exec, wanted);
  return exec;
}

/** @throws RangeError for a command that the guest would not take; Error when it has no agent, or a task already */
export function startTask(exec: ExecChannel | undefined, wanted: ExecRequest | ShellRequest): void {
  if (exec === undefined) throw new Error("the guest was not booted for commands; create it with exec: 'later'");
  if (!('shell' in wanted)) exec.start(wanted);
  else exec.startShell(wanted.shell === true ? undefined : wanted.shell);
}

/** COM1 beside a virtio console is nobody's to wait for. */
export function serialOverflow({ console, consoleOverflow }: CompleteConfig): 'drop' | 'wait' {
  return console === 'virtio' ? 'drop' : consoleOverflow;
}

/** The consoles that exist, each once. */
export function allConsoles({ serial, main }: Consoles): readonly Console[] {
  return serial === main ? [serial] : [serial, main];
}

/** The panic's line, on whichever console it was. */
export function panicLine(consoles: Consoles): string | undefined {
  return allConsoles(consoles).find(({ lines }) => lines.panic !== undefined)?.lines.panic;
}

function uartBack(board: Board, fds: BoardFds, name: string): UartBack {
  const port = board.legacy.uarts.get(name);
  const bell = fds.owner.get(name);
  const irq = port === undefined ? undefined : fds.irq.get(port.gsi);
  if (port === undefined || bell === undefined || irq === undefined) throw new Error(`the board has no ${name}`);
  return new UartBack(port.uart.state, port.options, { irq: new EventFdIrqLine(irq), bell });
}
