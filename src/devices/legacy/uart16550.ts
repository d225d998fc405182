// The front of a 16550A UART: its registers, served on the vCPU threads over shared state.
// PC16550D data sheet (National Semiconductor, June 1995) §8; Linux drivers/tty/serial/8250 for what drivers rely on.
import { RING_EMPTY } from '../byte-ring.js';
import type { IrqLine, Signal } from '../irq-line.js';
import { RegisterTable, type RegisterHandler, type RegisterInfo } from '../register-table.js';
import { Wake } from '../wake.js';
import {
  FCR,
  FIFO_DEPTH,
  IER,
  IIR,
  LCR,
  LSR,
  MCR,
  MSR,
  inputIsOpen,
  raiseTransmitterEmpty,
  type UartOptions,
  type UartState,
} from './uart16550-state.js';

/** Length of the UART's port range. */
export const UART_PORTS = 8;

/** Receiver FIFO trigger level in characters, by bits 6–7 of FCR. */
const TRIGGER_LEVELS: readonly number[] = [1, 4, 8, 14];

/**
 * Time is compressed: a character takes none to cross the wire. So THR is empty as soon as it was written (while the
 * ring has room), and a character that waits below the trigger level has always waited for its four character times.
 *
 * Where it departs from the chip, for the host's sake: resetting the receiver FIFO drops nothing that came from the
 * host, since all of it may as well be still on the wire; so no input is ever lost, and OE arises in loopback only.
 * OUT2 does not gate the interrupt (a PC/AT's card does that; QEMU does not, and guests rely on either).
 *
 * Any number of vCPUs may be in here at once. They can mix up each other's characters, but not the rings.
 */
export class Uart16550 implements RegisterHandler {
  readonly name: string;
  readonly registers: readonly RegisterInfo[];
  readonly #irq: IrqLine;
  readonly #owner: Signal;
  readonly #txWake: Wake;
  readonly #options: UartOptions;
  readonly #table: RegisterTable;
  readonly #latchTable: RegisterTable;

  constructor(
    readonly state: UartState,
    options: UartOptions,
    parts: {
      readonly irq: IrqLine;
      /** Wakes the owner's half. */
      readonly owner: Signal;
    },
  ) {
    this.name = state.name;
    this.#options = options;
    this.#irq = parts.irq;
    this.#owner = parts.owner;
    this.#txWake = new Wake(state.fields.OWNER_ASLEEP, parts.owner);
    const { SCR, DLL, DLM, IER: ier, LCR: lcr, MCR: mcr } = state.fields;
    // One row a register; the divisor latch covers the first two while LCR.DLAB is set.
    const shared = [
      { offset: 2, name: 'IIR', size: 1, read: () => this.#readIir() },
      { offset: 2, name: 'FCR', size: 1, write: (value: number) => this.#writeFcr(value) },
      { offset: 3, name: 'LCR', size: 1, read: () => lcr.get(), write: (value: number) => lcr.set(value) },
      { offset: 4, name: 'MCR', size: 1, read: () => mcr.get(), write: (value: number) => this.#writeMcr(value) },
      { offset: 5, name: 'LSR', size: 1, read: () => this.#readLsr() },
      { offset: 6, name: 'MSR', size: 1, read: () => this.#modemLines() | state.fields.MSR_DELTA.exchange(0) },
      { offset: 7, name: 'SCR', size: 1, read: () => SCR.get(), write: (value: number) => SCR.set(value) },
    ];
    this.#table = new RegisterTable(this.name, [
      { offset: 0, name: 'RBR', size: 1, read: () => this.#readRbr() },
      { offset: 0, name: 'THR', size: 1, write: (value) => this.#writeThr(value) },
      { offset: 1, name: 'IER', size: 1, read: () => ier.get(), write: (value) => this.#writeIer(value) },
      ...shared,
    ]);
    this.#latchTable = new RegisterTable(this.name, [
      { offset: 0, name: 'DLL', size: 1, read: () => DLL.get(), write: (value) => DLL.set(value) },
      { offset: 1, name: 'DLM', size: 1, read: () => DLM.get(), write: (value) => DLM.set(value) },
      ...shared,
    ]);
    this.registers = [...this.#table.registers, ...this.#latchTable.registers.filter(({ offset }) => offset < 2)];
  }

  read(offset: number, size: number): number {
    return this.#bank().read(offset, size);
  }

  write(offset: number, size: number, value: number): void {
    this.#bank().write(offset, size, value);
  }

  registerName(offset: number, isWrite: boolean): string | undefined {
    return this.#bank().registerName(offset, isWrite);
  }

  #bank(): RegisterTable {
    return (this.state.fields.LCR.get() & LCR.DLAB) === 0 ? this.#table : this.#latchTable;
  }

  get #isLoop(): boolean {
    return (this.state.fields.MCR.get() & MCR.LOOP) !== 0;
  }

  get #hasFifos(): boolean {
    return (this.state.fields.FCR.get() & FCR.ENABLE) !== 0;
  }

  // ---- receiver

  get #hasData(): boolean {
    if (this.#isLoop) return this.state.loop.isReady;
    return inputIsOpen(this.state, this.#options.flowControl) && this.state.rx.isReady;
  }

  #readRbr(): number {
    if (!this.#hasData) return 0;
    const { fields, rx, loop } = this.state;
    const isLoop = this.#isLoop;
    const byte = (isLoop ? loop : rx).take();
    if (byte === RING_EMPTY) return 0;
    // One signal when half of the ring is free again, not one a byte. Partner: UartBack.write.
    if (!isLoop && fields.RX_SPACE_WANTED.get() !== 0 && rx.length * 2 <= rx.capacity)
      if (fields.RX_SPACE_WANTED.exchange(0) !== 0) this.#owner.signal();
    // Without FIFOs the next character arrives only now, and its arrival is an edge of its own.
    if (!this.#hasFifos && this.#hasData) this.#pulseIf(IER.RDI);
    return byte;
  }

  #readLsr(): number {
    const errors = this.state.fields.LSR_ERRORS.exchange(0);
    return (this.#hasData ? LSR.DR : 0) | errors | (this.#isTransmitterEmpty ? LSR.THRE | LSR.TEMT : 0);
  }

  // ---- transmitter

  get #isTransmitterEmpty(): boolean {
    // A driver sends a whole FIFO each time it finds THR empty, so there must be room for one.
    return this.#options.onFull === 'drop' || this.#isLoop || this.state.tx.free >= FIFO_DEPTH;
  }

  #writeThr(byte: number): void {
    if (this.#isLoop) {
      this.#receiveLoop(byte);
    } else {
      if (!this.state.tx.push(byte)) this.state.fields.TX_LOST.add(1);
      this.#txWake.notify();
    }
    if (this.#isTransmitterEmpty) raiseTransmitterEmpty(this.state, this.#irq);
    else this.#withhold();
  }

  #withhold(): void {
    const { THRE_PENDING, TX_WITHHELD } = this.state.fields;
    THRE_PENDING.set(0);
    if (TX_WITHHELD.exchange(1) === 0) this.#txWake.force();
    // The owner may have drained before it could see the flag: then the event is ours. Partner: UartBack.drain.
    if (this.#isTransmitterEmpty && TX_WITHHELD.exchange(0) !== 0) raiseTransmitterEmpty(this.state, this.#irq);
  }

  #receiveLoop(byte: number): void {
    const { loop, fields } = this.state;
    // Without FIFOs an overrun destroys the character in RBR; with FIFOs it destroys the one in the shift register.
    const isOverrun = this.#hasFifos ? loop.free === 0 : loop.isReady;
    if (isOverrun) {
      fields.LSR_ERRORS.or(LSR.OE);
      this.#pulseIf(IER.RLSI);
      if (!this.#hasFifos) loop.clear();
    }
    loop.push(byte);
    this.#pulseIf(IER.RDI);
  }

  // ---- interrupts

  #pulseIf(enable: number): void {
    if ((this.state.fields.IER.get() & enable) !== 0) this.#irq.pulse();
  }

  #writeIer(value: number): void {
    const { fields } = this.state;
    const enabled = value & IER.MASK & ~fields.IER.exchange(value & IER.MASK);
    let isPending = false;
    if ((enabled & IER.THRI) !== 0) {
      // Drivers test for this: enabling the interrupt while THR is empty raises it anew.
      if (this.#isTransmitterEmpty) {
        fields.THRE_PENDING.set(1);
        isPending = true;
      } else this.#withhold();
    }
    if ((enabled & IER.RDI) !== 0) isPending ||= this.#hasData;
    if ((enabled & IER.RLSI) !== 0) isPending ||= fields.LSR_ERRORS.get() !== 0;
    if ((enabled & IER.MSI) !== 0) isPending ||= fields.MSR_DELTA.get() !== 0;
    if (isPending) this.#irq.pulse();
  }

  /** In order of priority; only the one interrupt that is reported counts as identified. */
  #readIir(): number {
    const { fields } = this.state;
    const enabled = fields.IER.get();
    const fifos = this.#hasFifos ? IIR.FIFOS : 0;
    if ((enabled & IER.RLSI) !== 0 && fields.LSR_ERRORS.get() !== 0) return IIR.LINE_STATUS | fifos;
    if ((enabled & IER.RDI) !== 0 && this.#hasData) return (this.#isBelowTrigger ? IIR.TIME_OUT : IIR.RECEIVED) | fifos;
    if ((enabled & IER.THRI) !== 0 && fields.THRE_PENDING.exchange(0) !== 0) return IIR.THRE | fifos;
    if ((enabled & IER.MSI) !== 0 && fields.MSR_DELTA.get() !== 0) return IIR.MODEM | fifos;
    return IIR.NONE | fifos;
  }

  get #isBelowTrigger(): boolean {
    if (!this.#hasFifos) return false;
    const level = TRIGGER_LEVELS[(this.state.fields.FCR.get() & FCR.TRIGGER) >>> 6] ?? 1;
    return (this.#isLoop ? this.state.loop : this.state.rx).length < level;
  }

  // ---- control

  #writeFcr(value: number): void {
    const old = this.state.fields.FCR.exchange((value & FCR.ENABLE) === 0 ? 0 : value & (FCR.ENABLE | FCR.TRIGGER));
    const isSwitched = ((old ^ value) & FCR.ENABLE) !== 0;
    const isReset = (value & (FCR.ENABLE | FCR.RESET_RCVR)) === (FCR.ENABLE | FCR.RESET_RCVR);
    if (isSwitched || isReset) this.state.loop.clear();
    // What was sent has left: resetting the transmitter has nothing to drop. But "the first transmitter interrupt
    // after changing FCR0 will be immediate, if it is enabled".
    if (isSwitched && this.#isTransmitterEmpty && (this.state.fields.IER.get() & IER.THRI) !== 0)
      raiseTransmitterEmpty(this.state, this.#irq);
  }

  #writeMcr(value: number): void {
    const { fields, loop } = this.state;
    const linesBefore = this.#modemLines();
    const hadData = this.#hasData;
    const old = fields.MCR.exchange(value & MCR.MASK);
    if (((old ^ value) & MCR.LOOP) !== 0) loop.clear();
    const delta = deltaOf(linesBefore, this.#modemLines());
    if (delta !== 0) {
      fields.MSR_DELTA.or(delta);
      this.#pulseIf(IER.MSI);
    }
    // Input that waited on the wire comes in.
    if (!hadData && this.#hasData) this.#pulseIf(IER.RDI);
  }

  /** Upper half of MSR: the other end is always there and ready; in loopback, this end's own outputs. */
  #modemLines(): number {
    const mcr = this.state.fields.MCR.get();
    if ((mcr & MCR.LOOP) === 0) return MSR.CTS | MSR.DSR | MSR.DCD;
    return (
      ((mcr & MCR.RTS) !== 0 ? MSR.CTS : 0) |
      ((mcr & MCR.DTR) !== 0 ? MSR.DSR : 0) |
      ((mcr & MCR.OUT1) !== 0 ? MSR.RI : 0) |
      ((mcr & MCR.OUT2) !== 0 ? MSR.DCD : 0)
    );
  }
}

/** Delta bits lie four under their lines; the one for RI tells its trailing edge only. */
function deltaOf(before: number, after: number): number {
  const changed = (before ^ after) & ~(MSR.RI & after);
  return changed >>> 4;
}
