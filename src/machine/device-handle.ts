// A device as the owner sees it while the guest runs: its fields, live, and its interrupt.
// The fields are those of the register file, by the names that the device's own table gives them.
import { EventFdIrqLine, UNCONNECTED, type IrqLine } from '../devices/irq-line.js';
import type { Field, FieldRows, FieldsOf, RegisterFile } from '../devices/register-file.js';
import type { RegisterHandler } from '../devices/register-table.js';
import type { EventFd } from '../kvm/event-fd.js';
import type { Board } from './board.js';
import type { TraceDevice } from './trace/trace-format.js';
import type { UserDevice } from './user-devices.js';

export interface DeviceHandle<R extends FieldRows = FieldRows> {
  readonly name: string;
  /** Live: what the guest's vCPUs see, and what they do. A device of closures has none, it has its closures. */
  readonly fields: FieldsOf<R>;
  /** Interrupts the guest by the device's `gsi`; leads nowhere without one, and once the machine has ended. */
  readonly irq: IrqLine;
}

export interface DeviceHandleParts {
  readonly registers: RegisterFile;
  readonly user: readonly UserDevice[];
  /** Eventfd of a GSI; undefined once the machine has ended. */
  readonly irqFd: (gsi: number) => EventFd | undefined;
}

/** @throws RangeError for a name that no device has */
export function deviceHandle<R extends FieldRows>(name: string, parts: DeviceHandleParts): DeviceHandle<R> {
  const { registers, user, irqFd } = parts;
  const fields: Record<string, Field> = {};
  for (const entry of registers.fields) if (entry.device === name) fields[entry.name] = entry.field;
  const device = user.find((it) => it.name === name);
  if (device === undefined && Object.keys(fields).length === 0) {
    const names = new Set([...registers.fields.map((entry) => entry.device), ...user.map((it) => it.name)]);
    throw new RangeError(`no device is named ${name}; this machine has ${[...names].join(', ')}`);
  }
  const gsi = device?.gsi;
  const irq = gsi === undefined ? UNCONNECTED : lineOf(() => irqFd(gsi));
  // The rows of this very device made these fields.
  return { name, fields: fields as FieldsOf<R>, irq };
}

function lineOf(irqFd: () => EventFd | undefined): IrqLine {
  return {
    pulse() {
      const eventFd = irqFd();
      if (eventFd !== undefined) new EventFdIrqLine(eventFd).pulse();
    },
  };
}

/** Where the devices lie, in ascending order, ports before MMIO. */
export function deviceMap({ pio, mmio }: Board): readonly TraceDevice[] {
  const rows = (space: 'port' | 'mmio', { handlers }: Board['pio']) =>
    handlers.map(({ base, length, name, handler }) => ({
      space,
      base,
      length,
      name,
      ...('registers' in handler ? { registers: (handler as RegisterHandler).registers } : {}),
    }));
  return [...rows('port', pio), ...rows('mmio', mmio)];
}
