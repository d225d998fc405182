// ACPI fixed hardware: power management event and control registers, and the reset register.
// ACPI 6.5 §4.8.3.1 (PM1 event), §4.8.3.2 (PM1 control), §4.8.3.6 (reset register).
import { ACPI_RESET_VALUE, PORT, SLP_TYP_S5 } from '../../memory/layout.js';
import type { IrqLine } from '../irq-line.js';
import { MACHINE_EVENT, type MachineEvents } from '../machine-event.js';
import type { Field, RegisterFile } from '../register-file.js';
import { RegisterTable, type RegisterHandler } from '../register-table.js';

/** Status and enable bits of the PM1 event registers, at the same places in both. */
const GBL = 0x0020;
const PWRBTN = 0x0100;
const SLPBTN = 0x0200;
/** The alarm of the RTC never rings here; but Linux enables the event, FIX_RTC or not, and looks whether the bit stuck. */
const RTC = 0x0400;
const ENABLES = GBL | PWRBTN | SLPBTN | RTC;

/** PM1 control bits. */
const SCI_EN = 0x0001;
const SLP_TYP_SHIFT = 10;
const SLP_TYP_MASK = 0x7 << SLP_TYP_SHIFT;
const SLP_EN = 0x2000;

/** From PM1A_EVENT to the reset register. */
export const ACPI_PM_PORTS = PORT.ACPI_RESET + 1 - PORT.PM1A_EVENT;

export interface AcpiPm extends RegisterHandler {
  /** Owner: what a press of the power button does. The operating system decides what follows. */
  pressPowerButton(): void;
}

/**
 * @param events gets POWER_OFF and RESET
 * @param sci the system control interrupt: edge-triggered, so MADT must say so
 */
export function createAcpiPm(registers: RegisterFile, events: MachineEvents, sci: IrqLine, name = 'acpi-pm'): AcpiPm {
  const fields = registers.allocate(name, {
    PM1_STS: { doc: 'what happened, until a 1 is written to it' },
    PM1_EN: { doc: 'what of it raises the SCI' },
    PM1_CNT: { doc: 'sleep type; SCI_EN is always set, there being no SMM' },
  });
  const raiseIfEnabled = (): void => {
    if ((fields.PM1_STS.get() & fields.PM1_EN.get()) !== 0) sci.pulse();
  };
  const writeControl = (value: number, mask: number): void => {
    replace(fields.PM1_CNT, value & SLP_TYP_MASK, mask & SLP_TYP_MASK);
    const isSoftOff = fields.PM1_CNT.get() >>> SLP_TYP_SHIFT === SLP_TYP_S5;
    if ((value & SLP_EN) !== 0 && isSoftOff) events.raise(MACHINE_EVENT.POWER_OFF);
  };
  const table = new RegisterTable(name, [
    {
      offset: 0,
      name: 'PM1_STS',
      size: 2,
      read: () => fields.PM1_STS.get(),
      write: (value) => fields.PM1_STS.and(~value),
    },
    {
      offset: 2,
      name: 'PM1_EN',
      size: 2,
      read: () => fields.PM1_EN.get(),
      write: (value, mask) => {
        replace(fields.PM1_EN, value & ENABLES, mask);
        raiseIfEnabled();
      },
    },
    {
      offset: PORT.PM1A_CONTROL - PORT.PM1A_EVENT,
      name: 'PM1_CNT',
      size: 2,
      // SLP_EN is write-only and reads as 0.
      read: () => fields.PM1_CNT.get() | SCI_EN,
      write: writeControl,
    },
    {
      offset: PORT.ACPI_RESET - PORT.PM1A_EVENT,
      name: 'RESET_REG',
      size: 1,
      write: (value) => {
        if (value === ACPI_RESET_VALUE) events.raise(MACHINE_EVENT.RESET);
      },
    },
  ]);
  return {
    name,
    registers: table.registers,
    registerName: (offset, isWrite) => table.registerName(offset, isWrite),
    read: (offset, size) => table.read(offset, size),
    write: (offset, size, value) => table.write(offset, size, value),
    pressPowerButton: () => {
      fields.PM1_STS.or(PWRBTN);
      raiseIfEnabled();
    },
  };
}

/** Two vCPUs that write different bytes of a register at once keep both. */
function replace(field: Field, value: number, mask: number): void {
  for (;;) {
    const old = field.get();
    if (field.compareExchange(old, (old & ~mask) | (value & mask)) === old) return;
  }
}
