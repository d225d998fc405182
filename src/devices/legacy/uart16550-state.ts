// The state that the two halves of a 16550A share: registers, rings and the bits inside them.
// PC16550D data sheet (National Semiconductor, June 1995) §8.
import { ByteRing } from '../byte-ring.js';
import type { FieldsOf, FieldRows, RegisterFile } from '../register-file.js';

/** Interrupt enable register, §8.7. */
export const IER = { RDI: 0x01, THRI: 0x02, RLSI: 0x04, MSI: 0x08, MASK: 0x0f } as const;
/** Interrupt identification register, §8.6, table IV; in order of priority, highest first. */
export const IIR = {
  LINE_STATUS: 0x06,
  RECEIVED: 0x04,
  TIME_OUT: 0x0c,
  THRE: 0x02,
  MODEM: 0x00,
  NONE: 0x01,
  FIFOS: 0xc0,
} as const;
/** FIFO control register, §8.5. */
export const FCR = { ENABLE: 0x01, RESET_RCVR: 0x02, RESET_XMIT: 0x04, TRIGGER: 0xc0 } as const;
/** Line control register, §8.1. */
export const LCR = { BREAK: 0x40, DLAB: 0x80 } as const;
/** Modem control register, §8.8. */
export const MCR = { DTR: 0x01, RTS: 0x02, OUT1: 0x04, OUT2: 0x08, LOOP: 0x10, MASK: 0x1f } as const;
/** Line status register, §8.4. */
export const LSR = { DR: 0x01, OE: 0x02, PE: 0x04, FE: 0x08, BI: 0x10, THRE: 0x20, TEMT: 0x40 } as const;
/** Modem status register, §8.9. */
export const MSR = {
  DCTS: 0x01,
  DDSR: 0x02,
  TERI: 0x04,
  DDCD: 0x08,
  CTS: 0x10,
  DSR: 0x20,
  RI: 0x40,
  DCD: 0x80,
} as const;

/** Characters that the transmitter and the receiver FIFO hold each. */
export const FIFO_DEPTH = 16;

const UART_FIELDS = {
  IER: { doc: 'interrupt enable' },
  FCR: { doc: 'FIFO control as last programmed: bit 0 enable, bits 6–7 receiver trigger' },
  LCR: { doc: 'line control' },
  MCR: { doc: 'modem control' },
  SCR: { doc: 'scratch' },
  DLL: { initial: 0x01, doc: 'divisor latch, low byte' },
  DLM: { doc: 'divisor latch, high byte' },
  LSR_ERRORS: { doc: 'error bits of the line status that were not read yet' },
  MSR_DELTA: { doc: 'delta bits of the modem status that were not read yet' },
  THRE_PENDING: { doc: 'the transmitter-empty interrupt was raised and not identified yet' },
  TX_WITHHELD: { doc: 'the transmit ring had no room for a whole FIFO: the owner owes a transmitter-empty event' },
  TX_LOST: { doc: 'bytes lost because the transmit ring was full, modulo 2^32' },
  OWNER_ASLEEP: { doc: 'the owner wants a signal at the next byte sent' },
  RX_SPACE_WANTED: { doc: 'the owner wants a signal when the receive ring is half empty' },
} as const satisfies FieldRows;

export interface UartState {
  readonly name: string;
  readonly fields: FieldsOf<typeof UART_FIELDS>;
  /** Guest to host: vCPUs produce, the owner consumes. */
  readonly tx: ByteRing;
  /** Host to guest: the owner produces, vCPUs consume. What is in it counts as still on the wire, or in the FIFO. */
  readonly rx: ByteRing;
  /** Receiver FIFO of the loopback mode; no one outside the UART sees it. */
  readonly loop: ByteRing;
}

/** What the two halves must agree on. */
export interface UartOptions {
  /** Device name: `COM1`. */
  readonly name: string;
  /**
   * When the transmit ring is full: `drop` loses the byte and counts it in TX_LOST, the guest never waits;
   * `wait` keeps THRE and TEMT at 0 until the owner has drained, so that a driver that honours THRE loses nothing.
   */
  readonly onFull: 'drop' | 'wait';
  /**
   * `rts`: input waits on the wire while the guest holds MCR.RTS at 0, as with hardware handshake; nothing gets lost
   * while a driver starts, or throttles (Linux with CRTSCTS). `none`: input is there at once, for guests that never
   * touch MCR.
   */
  readonly flowControl: 'none' | 'rts';
  /** Bytes, a power of two. */
  readonly txCapacity?: number;
  /** Bytes, a power of two. */
  readonly rxCapacity?: number;
}

const TX_CAPACITY = 64 << 10;
const RX_CAPACITY = 4 << 10;

export function allocateUart(registers: RegisterFile, options: UartOptions): UartState {
  const { name, txCapacity = TX_CAPACITY, rxCapacity = RX_CAPACITY } = options;
  if (txCapacity < 2 * FIFO_DEPTH)
    throw new RangeError(`${name}: the transmit ring needs at least ${2 * FIFO_DEPTH} bytes, not ${txCapacity}`);
  return {
    name,
    fields: registers.allocate(name, UART_FIELDS),
    tx: ByteRing.allocate(registers, name, 'tx', txCapacity),
    rx: ByteRing.allocate(registers, name, 'rx', rxCapacity),
    loop: ByteRing.allocate(registers, name, 'loop', FIFO_DEPTH),
  };
}

/** True when the guest lets input come. The front shows it, and the owner interrupts for it, only then. */
export function inputIsOpen(state: UartState, flowControl: UartOptions['flowControl']): boolean {
  const mcr = state.fields.MCR.get();
  return (mcr & MCR.LOOP) === 0 && (flowControl === 'none' || (mcr & MCR.RTS) !== 0);
}

/** The transmitter-empty condition becomes true. Either half may say so; state first, then the pulse. */
export function raiseTransmitterEmpty(state: UartState, irq: { pulse(): void }): void {
  // A condition that was pending already has had its pulse, and IIR still shows it. Partner: the read of IIR.
  if (state.fields.THRE_PENDING.exchange(1) === 0 && (state.fields.IER.get() & IER.THRI) !== 0) irq.pulse();
}
