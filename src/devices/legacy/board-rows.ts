// The legacy devices as a table: from plain data that crosses threads to handlers on ports.
// Every thread of a machine runs this over the same register file, in the same order.
import { PORT } from '../../memory/layout.js';
import type { IoHandler } from '../bus.js';
import type { IrqLine, Signal } from '../irq-line.js';
import type { MachineEvents } from '../machine-event.js';
import type { RegisterFile } from '../register-file.js';
import { ACPI_PM_PORTS, createAcpiPm, type AcpiPm } from './acpi-pm.js';
import { CMOS_PORTS, createCmosRtc, type CmosClock } from './cmos-rtc.js';
import { createDebugExit, DEBUG_EXIT_PORTS } from './debug-exit.js';
import { createI8042 } from './i8042.js';
import { createPostCode } from './post-code.js';
import { Uart16550, UART_PORTS } from './uart16550.js';
import { allocateUart, type UartOptions } from './uart16550-state.js';

/** A legacy device of a board. Structured-cloneable. */
export type LegacyConfig =
  | { readonly kind: 'uart16550'; readonly port: number; readonly gsi: number; readonly options: UartOptions }
  | { readonly kind: 'i8042' }
  | { readonly kind: 'cmos-rtc'; readonly memoryBytes: number }
  | { readonly kind: 'debug-exit' }
  | { readonly kind: 'post-code' }
  | { readonly kind: 'acpi-pm'; readonly gsi: number };

/** What this thread has for its devices; a row takes only what its device uses. */
export interface LegacyParts {
  readonly registers: RegisterFile;
  readonly events: MachineEvents;
  readonly clock: CmosClock;
  /** The line of a GSI. */
  readonly irqLine: (gsi: number) => IrqLine;
  /** What wakes the owner's half of the device of this name. */
  readonly ownerSignal: (device: string) => Signal;
}

/** A handler and its ports. */
export interface Attachment {
  readonly base: number;
  readonly length: number;
  readonly handler: IoHandler;
}

/** A UART with what its other half, on the owner, has to know: `new UartBack(uart.state, options, …)`. */
export interface LegacyUart {
  readonly uart: Uart16550;
  readonly options: UartOptions;
  readonly gsi: number;
}

/** What one row makes. */
interface Built {
  readonly attachments: readonly Attachment[];
  readonly uart?: LegacyUart;
  readonly acpiPm?: AcpiPm;
}

/** What a machine gets of its legacy devices: the bus rows, and the devices that have an owner's side. */
export interface LegacyFronts {
  readonly attachments: readonly Attachment[];
  /** By device name. */
  readonly uarts: ReadonlyMap<string, LegacyUart>;
  readonly acpiPm: AcpiPm | undefined;
}

type Kind = LegacyConfig['kind'];
type Rows = { readonly [K in Kind]: (config: Extract<LegacyConfig, { kind: K }>, parts: LegacyParts) => Built };

const LEGACY_DEVICES: Rows = {
  uart16550: ({ port, gsi, options }, { registers, irqLine, ownerSignal }) => {
    const parts = { irq: irqLine(gsi), owner: ownerSignal(options.name) };
    const uart = new Uart16550(allocateUart(registers, options), options, parts);
    return { attachments: [{ base: port, length: UART_PORTS, handler: uart }], uart: { uart, options, gsi } };
  },
  i8042: (_config, { registers, events }) => {
    const { data, command } = createI8042(registers, events);
    return {
      attachments: [
        { base: PORT.I8042_DATA, length: 1, handler: data },
        { base: PORT.I8042_COMMAND, length: 1, handler: command },
      ],
    };
  },
  'cmos-rtc': ({ memoryBytes }, { registers, clock }) => {
    const handler = createCmosRtc(registers, clock, memoryBytes);
    return { attachments: [{ base: PORT.CMOS_INDEX, length: CMOS_PORTS, handler }] };
  },
  'debug-exit': (_config, { events }) => {
    const handler = createDebugExit(events);
    return { attachments: [{ base: PORT.DEBUG_EXIT, length: DEBUG_EXIT_PORTS, handler }] };
  },
  'post-code': (_config, { registers }) => {
    const handler = createPostCode(registers);
    return { attachments: [{ base: PORT.POST_CODE, length: 1, handler }] };
  },
  'acpi-pm': ({ gsi }, { registers, events, irqLine }) => {
    const acpiPm = createAcpiPm(registers, events, irqLine(gsi));
    return { attachments: [{ base: PORT.PM1A_EVENT, length: ACPI_PM_PORTS, handler: acpiPm }], acpiPm };
  },
};

/** Builds the devices in the order given: it is part of the register file's layout. */
export function buildLegacy(configs: readonly LegacyConfig[], parts: LegacyParts): LegacyFronts {
  const built = configs.map((config) => {
    // The row of a kind takes that kind's configuration, which TypeScript cannot follow through the union.
    const row: (config: never, parts: LegacyParts) => Built = LEGACY_DEVICES[config.kind];
    return row(config as never, parts);
  });
  return {
    attachments: built.flatMap(({ attachments }) => attachments),
    uarts: new Map(built.flatMap(({ uart }) => (uart === undefined ? [] : [[uart.uart.name, uart] as const]))),
    acpiPm: built.find(({ acpiPm }) => acpiPm !== undefined)?.acpiPm,
  };
}
