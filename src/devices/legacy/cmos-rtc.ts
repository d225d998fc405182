// The CMOS real-time clock: the host's time in UTC, and the memory sizes that firmware leaves in CMOS RAM.
// Motorola MC146818A data sheet; Ralf Brown's CMOS list for the bytes from 0x10 on.
import type { RegisterFile } from '../register-file.js';
import { RegisterTable, type RegisterHandler } from '../register-table.js';
import { cmosMemoryBytes } from './cmos-memory.js';
import { decodeTime, encodeTime, STATUS_B, TIME_REGISTERS } from './cmos-time.js';

/** Index (with the NMI mask in bit 7) and data. */
export const CMOS_PORTS = 2;
const CMOS_BYTES = 128;

const REGISTER_A = 0x0a;
const REGISTER_B = 0x0b;
const REGISTER_C = 0x0c;
const REGISTER_D = 0x0d;

const UPDATE_IN_PROGRESS = 0x80;
/** 32768 Hz time base, 1024 Hz periodic rate: what firmware leaves. */
const REGISTER_A_RESET = 0x26;
const VALID_RAM_AND_TIME = 0x80;
/**
 * For so long before a second's turn UIP is set, so a driver that has seen it clear has as long to read all registers
 * of one second. The data sheet gives it 244 µs; an exit costs more than a bus cycle did.
 */
const UPDATE_MILLISECONDS = 2;

export interface CmosClock {
  /** Milliseconds since 1970-01-01 UTC. */
  now(): number;
}

/**
 * A guest that sets the time (register B's SET bit, the time registers, SET cleared) moves its own clock by an offset;
 * the host's is not touched. Alarm registers only store; there are no interrupts.
 * @param memoryBytes size of RAM, for the CMOS bytes that tell it
 */
export function createCmosRtc(
  registers: RegisterFile,
  clock: CmosClock,
  memoryBytes: number,
  name = 'rtc',
): RegisterHandler {
  const fields = registers.allocate(name, {
    INDEX: { doc: 'CMOS address that the data port reads and writes; bit 7, the NMI mask, is dropped' },
    A: { initial: REGISTER_A_RESET, doc: 'divider and rate; UIP is computed' },
    B: { initial: STATUS_B.HOURS_24, doc: 'SET, data mode, 12/24 hours' },
    OFFSET: { doc: "seconds, signed, from the host's time to the guest's" },
  });
  const doc = 'CMOS RAM; while SET is 1, also the time registers';
  const ram = registers.allocateArea(name, 'CMOS', CMOS_BYTES, doc, (area) => {
    for (const [index, byte] of cmosMemoryBytes(memoryBytes)) area[index] = byte;
  });

  const guestNow = (): number => clock.now() + (fields.OFFSET.get() | 0) * 1000;
  const isSet = (): boolean => (fields.B.get() & STATUS_B.SET) !== 0;

  const readRegisterA = (): number => {
    const isUpdating = !isSet() && modulo(guestNow(), 1000) >= 1000 - UPDATE_MILLISECONDS;
    return (fields.A.get() & ~UPDATE_IN_PROGRESS) | (isUpdating ? UPDATE_IN_PROGRESS : 0);
  };
  const writeRegisterB = (value: number): void => {
    const old = fields.B.exchange(value);
    if ((~old & value & STATUS_B.SET) !== 0) {
      // The time stands still for the guest to change some of its registers.
      for (const index of TIME_REGISTERS) ram[index] = encodeTime(index, guestNow(), value);
    } else if ((old & ~value & STATUS_B.SET) !== 0) {
      const time = decodeTime((index) => ram[index] ?? 0, value);
      if (time !== undefined) fields.OFFSET.set(Math.round((time - clock.now()) / 1000));
    }
  };

  const readData = (): number => {
    const index = fields.INDEX.get();
    if (index === REGISTER_A) return readRegisterA();
    if (index === REGISTER_B) return fields.B.get();
    if (index === REGISTER_C) return 0;
    if (index === REGISTER_D) return VALID_RAM_AND_TIME;
    if (!isSet() && TIME_REGISTERS.has(index)) return encodeTime(index, guestNow(), fields.B.get());
    return ram[index] ?? 0xff;
  };
  const writeData = (value: number): void => {
    const index = fields.INDEX.get();
    if (index === REGISTER_A) fields.A.set(value & ~UPDATE_IN_PROGRESS);
    else if (index === REGISTER_B) writeRegisterB(value);
    else if (index !== REGISTER_C && index !== REGISTER_D) ram[index] = value;
  };

  return new RegisterTable(name, [
    // The index port is write-only on a PC.
    { offset: 0, name: 'INDEX', size: 1, write: (value) => fields.INDEX.set(value & (CMOS_BYTES - 1)) },
    { offset: 1, name: 'DATA', size: 1, read: readData, write: writeData },
  ]);
}

function modulo(value: number, divisor: number): number {
  return ((value % divisor) + divisor) % divisor;
}
