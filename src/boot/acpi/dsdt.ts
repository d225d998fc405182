// The DSDT's contents: the devices that cannot be enumerated, and how to switch the machine off.
// ACPI 6.5 §5.2.11.1, §7.4.2 (\_Sx); §5.6.9 (generic event device); PNP ids from Microsoft's list; LNRO0005 is
// Linux' id for virtio-mmio; "Virtual Machine Generation ID" is Microsoft's paper on the device of that name.
import { GSI, PORT, SLP_TYP_S5, VM_GENERATION_ID } from '../../memory/layout.js';
import type { MmioDevice } from '../request.js';
import {
  type Aml,
  device,
  eisaId,
  integer,
  interrupt,
  io,
  irq,
  memory32Fixed,
  method,
  named,
  notify,
  packageOf,
  resources,
  scope,
  string,
} from './aml.js';

interface IsaRow {
  readonly name: string;
  readonly id: string;
  readonly uid: number;
  readonly port: number;
  readonly ports: number;
  readonly irq: number;
}

const ISA_DEVICES: readonly IsaRow[] = [
  { name: 'COM1', id: 'PNP0501', uid: 1, port: PORT.COM1, ports: 8, irq: GSI.COM1 },
  { name: 'COM2', id: 'PNP0501', uid: 2, port: PORT.COM2, ports: 8, irq: GSI.COM2 },
  { name: 'RTC', id: 'PNP0B00', uid: 0, port: PORT.CMOS_INDEX, ports: 2, irq: GSI.RTC },
];

/** Present, enabled, shown, functioning (§6.3.7). */
const STA_WORKING = 0x0f;

/** The DSDT's AML, without the table header. */
export function dsdt(devices: readonly MmioDevice[]): Aml {
  return new Uint8Array(
    Buffer.concat([
      scope('\\_SB', ...ISA_DEVICES.map(isaDevice), vmGeneration(), genericEvent(), ...devices.map(virtioMmio)),
      named('\\_S5', packageOf(integer(SLP_TYP_S5), integer(SLP_TYP_S5), integer(0), integer(0))),
    ]),
  );
}

function isaDevice({ name, id, uid, port, ports, irq: line }: IsaRow): Aml {
  return device(
    name,
    named('_HID', eisaId(id)),
    named('_UID', integer(uid)),
    named('_STA', integer(STA_WORKING)),
    named('_CRS', resources(io(port, ports), irq(line))),
  );
}

function virtioMmio({ base, size, gsi }: MmioDevice, index: number): Aml {
  return device(
    `V${index.toString(16).toUpperCase().padStart(3, '0')}`,
    named('_HID', string('LNRO0005')),
    named('_UID', integer(index)),
    // DMA is coherent: the device's back reads the same memory as the guest.
    named('_CCA', integer(1)),
    named('_CRS', resources(memory32Fixed(base, size), interrupt(gsi))),
  );
}

/** A guest that reads other 16 bytes at ADDR than before has been restored, and draws new random numbers. */
function vmGeneration(): Aml {
  return device(
    'VGEN',
    named('_HID', string('MCVS0001')),
    named('_CID', string('VM_Gen_Counter')),
    named('_DDN', string('VM_Gen_Counter')),
    // The address in two halves.
    named('ADDR', packageOf(integer(VM_GENERATION_ID), integer(0))),
  );
}

/** Turns its interrupt into the notification of the one device that has something to say. */
function genericEvent(): Aml {
  const CHANGED = 0x80;
  return device(
    'GED',
    named('_HID', string('ACPI0013')),
    named('_UID', integer(0)),
    named('_CRS', resources(interrupt(GSI.GENERIC_EVENT))),
    method('_EVT', 1, notify('VGEN', CHANGED)),
  );
}
