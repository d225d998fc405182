// What the UART tests share: a UART over a fresh register file, with counters for interrupts and for the owner's signals.
import { RegisterFile } from '../../../../src/devices/register-file.js';
import { UartBack, type Bell } from '../../../../src/devices/legacy/uart16550-back.js';
import { allocateUart, type UartOptions, type UartState } from '../../../../src/devices/legacy/uart16550-state.js';
import { Uart16550 } from '../../../../src/devices/legacy/uart16550.js';

/** Registers by offset. */
export const R = {
  RBR: 0,
  THR: 0,
  DLL: 0,
  IER: 1,
  DLM: 1,
  IIR: 2,
  FCR: 2,
  LCR: 3,
  MCR: 4,
  LSR: 5,
  MSR: 6,
  SCR: 7,
} as const;

export interface Kit {
  readonly state: UartState;
  readonly uart: Uart16550;
  readonly options: UartOptions;
  /** Pulses of the interrupt line so far. */
  irqs: number;
  /** Signals to the owner so far. */
  rings: number;
  in(offset: number): number;
  out(offset: number, value: number): void;
  /** Runs `action`; how many pulses did it cause? */
  pulses(action: () => void): number;
  /** An owner's half whose bell rings at once, on this thread. */
  back(): { back: UartBack; output: number[] };
}

export function makeKit(given: Partial<UartOptions> = {}): Kit {
  const options: UartOptions = { name: 'COM1', onFull: 'drop', flowControl: 'none', ...given };
  const state = allocateUart(RegisterFile.create(1 << 20), options);
  let onBell: (() => void) | undefined;
  const irq = { pulse: () => void kit.irqs++ };
  const bell: Bell = {
    signal: () => {
      kit.rings++;
      onBell?.();
    },
    onReadable: (callback) => {
      onBell = callback;
      return { close: () => void (onBell = undefined) };
    },
  };
  const uart = new Uart16550(state, options, { irq, owner: bell });
  const kit: Kit = {
    state,
    uart,
    options,
    irqs: 0,
    rings: 0,
    in: (offset) => uart.read(offset, 1),
    out: (offset, value) => uart.write(offset, 1, value),
    pulses: (action) => {
      const before = kit.irqs;
      action();
      return kit.irqs - before;
    },
    back: () => {
      const back = new UartBack(state, options, { irq, bell });
      const output: number[] = [];
      back.onOutput((bytes) => output.push(...bytes));
      return { back, output };
    },
  };
  return kit;
}
