// A keyboard controller with nothing plugged in: enough for its reset line, and for a driver's probe to end quickly.
// IBM PS/2 Hardware Interface Technical Reference, "Keyboard and Auxiliary Device Controller"; Linux drivers/input/serio/i8042.c.
import { MACHINE_EVENT, type MachineEvents } from '../machine-event.js';
import type { RegisterFile } from '../register-file.js';
import { RegisterTable, type RegisterHandler } from '../register-table.js';

/** Status register bits. */
const OUTPUT_BUFFER_FULL = 0x01;
const SYSTEM_FLAG = 0x04;
const COMMAND_WRITTEN = 0x08;
const NOT_INHIBITED = 0x10;

/** Controller command byte after reset: system flag, translation, both interfaces disabled. */
const COMMAND_BYTE = 0x74;
/** Output port after reset: bit 0, the reset line, is high (inactive); A20 is open. */
const OUTPUT_PORT = 0x03;

/** Commands that pulse output-port lines low are 0xf0–0xff; a 0 in bit 0 pulses the processor's reset. */
const PULSE_FIRST = 0xf0;
const RESET_LINE = 0x01;
/** 'No acknowledge' of a device: what a byte to a keyboard that is not there gets as an answer. */
const DEVICE_ERROR = 0xfe;

/** Commands that answer at once. */
const ANSWERS: ReadonlyMap<number, number> = new Map([
  [0xaa, 0x55], // self-test passed
  [0xab, 0x01], // keyboard interface test: clock line stuck low, as when nothing is plugged in
  [0xa9, 0x01], // the same for the auxiliary device
  [0xc0, 0x80], // input port: not inhibited
]);

const READ_COMMAND_BYTE = 0x20;
const READ_OUTPUT_PORT = 0xd0;
/** Commands that take a byte through the data port. */
const WRITE_COMMAND_BYTE = 0x60;
const WRITE_OUTPUT_PORT = 0xd1;
/** The byte comes back as if a device had sent it; without the auxiliary bit, so a driver sees that there is none. */
const WRITE_KEYBOARD_BUFFER = 0xd2;
const WRITE_AUX_BUFFER = 0xd3;
const WRITE_AUX_DEVICE = 0xd4;

/** The two ports, which lie apart: port 0x61 between them belongs to the in-kernel PIT. */
export interface I8042 {
  /** One port: input and output buffer. */
  readonly data: RegisterHandler;
  /** One port: status (read) and command (write). */
  readonly command: RegisterHandler;
}

/** Unknown commands are swallowed and answer nothing. @param events gets RESET */
export function createI8042(registers: RegisterFile, events: MachineEvents, name = 'i8042'): I8042 {
  const fields = registers.allocate(name, {
    COMMAND_BYTE: { initial: COMMAND_BYTE, doc: 'controller command byte' },
    OUTPUT_PORT: { initial: OUTPUT_PORT, doc: 'output port: bit 0 reset (active low), bit 1 A20' },
    OUTPUT_BUFFER: { doc: 'bit 8: full; bits 0–7: the byte' },
    AWAITS: { doc: 'the command whose byte the data port takes next; 0: a byte for the keyboard' },
  });
  const answer = (byte: number): void => fields.OUTPUT_BUFFER.set(0x100 | (byte & 0xff));

  const command = (value: number): void => {
    fields.AWAITS.set(0);
    if (value >= PULSE_FIRST) {
      if ((value & RESET_LINE) === 0) events.raise(MACHINE_EVENT.RESET);
      return;
    }
    const fixed = ANSWERS.get(value);
    if (fixed !== undefined) answer(fixed);
    else if (value === READ_COMMAND_BYTE) answer(fields.COMMAND_BYTE.get());
    else if (value === READ_OUTPUT_PORT) answer(fields.OUTPUT_PORT.get());
    else if (TAKES_BYTE.has(value)) fields.AWAITS.set(value);
    else if (value === 0xad || value === 0xae) setBit(0x10, value === 0xad);
    else if (value === 0xa7 || value === 0xa8) setBit(0x20, value === 0xa7);
  };
  const setBit = (bit: number, isSet: boolean): void => {
    if (isSet) fields.COMMAND_BYTE.or(bit);
    else fields.COMMAND_BYTE.and(~bit);
  };

  const data = (value: number): void => {
    switch (fields.AWAITS.exchange(0)) {
      case WRITE_COMMAND_BYTE:
        fields.COMMAND_BYTE.set(value);
        break;
      case WRITE_OUTPUT_PORT:
        fields.OUTPUT_PORT.set(value);
        if ((value & RESET_LINE) === 0) events.raise(MACHINE_EVENT.RESET);
        break;
      case WRITE_KEYBOARD_BUFFER:
      case WRITE_AUX_BUFFER:
        answer(value);
        break;
      default:
        answer(DEVICE_ERROR);
    }
  };

  return {
    data: new RegisterTable(name, [
      {
        offset: 0,
        name: 'data',
        size: 1,
        // The buffer keeps its byte after it was read; only the full bit goes.
        read: () => fields.OUTPUT_BUFFER.and(0xff) & 0xff,
        write: data,
      },
    ]),
    command: new RegisterTable(name, [
      {
        offset: 0,
        name: 'status',
        size: 1,
        read: () =>
          ((fields.OUTPUT_BUFFER.get() & 0x100) === 0 ? 0 : OUTPUT_BUFFER_FULL) |
          (fields.COMMAND_BYTE.get() & SYSTEM_FLAG) |
          (fields.AWAITS.get() === 0 ? 0 : COMMAND_WRITTEN) |
          NOT_INHIBITED,
      },
      { offset: 0, name: 'command', size: 1, write: command },
    ]),
  };
}

const TAKES_BYTE: ReadonlySet<number> = new Set([
  WRITE_COMMAND_BYTE,
  WRITE_OUTPUT_PORT,
  WRITE_KEYBOARD_BUFFER,
  WRITE_AUX_BUFFER,
  WRITE_AUX_DEVICE,
]);
