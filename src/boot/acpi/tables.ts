// The ACPI tables: RSDP, XSDT, FADT, FACS, MADT, DSDT, at the addresses where they refer to each other.
// ACPI 6.5 §5.2. Not hardware-reduced: the machine has a PM1a block, an 8259 pair, a PIT and a CMOS clock.
import {
  ACPI_RESET_VALUE,
  ACPI_RSDP,
  GSI,
  IOAPIC_BASE,
  LAPIC_BASE,
  PORT,
  VM_GENERATION_ID,
} from '../../memory/layout.js';
import { defineStruct } from '../../memory/struct.js';
import { sealed } from '../checksum.js';
import { BootError } from '../errors.js';
import type { MmioDevice } from '../request.js';
import { dsdt } from './dsdt.js';

/** One table and its place. */
export interface AcpiTable {
  readonly signature: string;
  /** GPA. */
  readonly base: number;
  readonly bytes: Uint8Array;
}

export interface AcpiOptions {
  readonly cpus: number;
  readonly devices: readonly MmioDevice[];
}

/** All tables, in the order in which they lie in memory; the RSDP is the first. @throws BootError without room */
export function acpiTables({ cpus, devices }: AcpiOptions): AcpiTable[] {
  const tables: AcpiTable[] = [];
  // Each table can only name those that already have their place, so the RSDP's room is kept and filled last.
  let next = ACPI_RSDP + alignUp(rsdp.size);
  const place = (signature: string, bytes: Uint8Array): number => {
    const base = next;
    tables.push({ signature, base, bytes });
    next = alignUp(base + bytes.byteLength);
    return base;
  };
  const facsAt = place('FACS', facs.encode({ signature: ascii('FACS'), length: facs.size, version: 2 }));
  const dsdtAt = place('DSDT', table('DSDT', 2, dsdt(devices)));
  const fadtAt = place('FACP', fadtTable(facsAt, dsdtAt));
  const madtAt = place('APIC', madtTable(cpus));
  const xsdtAt = place('XSDT', table('XSDT', 1, pointers([fadtAt, madtAt])));
  if (next > VM_GENERATION_ID)
    throw new BootError(
      'devices',
      'devices',
      `the ACPI tables for ${cpus} processors and ${devices.length} devices need ${next - ACPI_RSDP} bytes of ${VM_GENERATION_ID - ACPI_RSDP}; use fewer devices`,
    );
  return [{ signature: 'RSDP', base: ACPI_RSDP, bytes: rsdpBytes(xsdtAt) }, ...tables];
}

export const rsdp = defineStruct('RSDP', 36, {
  signature: [0, 'bytes8'],
  checksum: [8, 'u8'],
  oem_id: [9, 'bytes6'],
  revision: [15, 'u8'],
  rsdt_address: [16, 'u32'],
  length: [20, 'u32'],
  xsdt_address: [24, 'u64'],
  extended_checksum: [32, 'u8'],
});
/** The first version's 20 bytes have a checksum of their own. */
export const RSDP_V1_SIZE = 20;

export const tableHeader = defineStruct('ACPI table header', 36, {
  signature: [0, 'bytes4'],
  length: [4, 'u32'],
  revision: [8, 'u8'],
  checksum: [9, 'u8'],
  oem_id: [10, 'bytes6'],
  oem_table_id: [16, 'bytes8'],
  oem_revision: [24, 'u32'],
  creator_id: [28, 'bytes4'],
  creator_revision: [32, 'u32'],
});

const facs = defineStruct('FACS', 64, { signature: [0, 'bytes4'], length: [4, 'u32'], version: [32, 'u8'] });

/** The FADT behind the table header, with the field names of table 5.9; fields not here are 0. */
export const fadt = defineStruct('FADT', 276, {
  FIRMWARE_CTRL: [36, 'u32'],
  DSDT: [40, 'u32'],
  SCI_INT: [46, 'u16'],
  PM1a_EVT_BLK: [56, 'u32'],
  PM1a_CNT_BLK: [64, 'u32'],
  PM1_EVT_LEN: [88, 'u8'],
  PM1_CNT_LEN: [89, 'u8'],
  P_LVL2_LAT: [96, 'u16'],
  P_LVL3_LAT: [98, 'u16'],
  IAPC_BOOT_ARCH: [109, 'u16'],
  Flags: [112, 'u32'],
  RESET_REG: [116, 'bytes12'],
  RESET_VALUE: [128, 'u8'],
  FADT_Minor_Version: [131, 'u8'],
  X_DSDT: [140, 'u64'],
  X_PM1a_EVT_BLK: [148, 'bytes12'],
  X_PM1a_CNT_BLK: [172, 'bytes12'],
  Hypervisor_Vendor_Identity: [268, 'bytes8'],
});

/** Table 5.10: bits of Flags. */
const FADT_FLAGS = {
  WBINVD: 1 << 0,
  PROC_C1: 1 << 2,
  /** Set where the power button is no fixed feature; here there is none. */
  PWR_BUTTON: 1 << 4,
  SLP_BUTTON: 1 << 5,
  /** Set where the RTC's wake-up is no fixed feature. */
  FIX_RTC: 1 << 6,
  RESET_REG_SUP: 1 << 10,
};
/** Table 5.11. The 8042 can only reset the machine, so it is not announced: a driver would wait for its keyboard. */
const IAPC_BOOT_ARCH = { LEGACY_DEVICES: 1 << 0, VGA_NOT_PRESENT: 1 << 2 };
/** Latencies above these limits mean that the processor has no C2 and no C3. */
const NO_C2 = 101;
const NO_C3 = 1001;

const ADDRESS_SPACE_IO = 1;
const ACCESS_BYTE = 1;
const ACCESS_WORD = 2;
const genericAddress = defineStruct('Generic Address Structure', 12, {
  space: [0, 'u8'],
  bit_width: [1, 'u8'],
  bit_offset: [2, 'u8'],
  access_size: [3, 'u8'],
  address: [4, 'u64'],
});

function fadtTable(facsAt: number, dsdtAt: number): Uint8Array {
  const EVENT_BYTES = 4;
  const CONTROL_BYTES = 2;
  const fields = fadt.encode({
    FIRMWARE_CTRL: facsAt,
    DSDT: dsdtAt,
    SCI_INT: GSI.SCI,
    PM1a_EVT_BLK: PORT.PM1A_EVENT,
    PM1a_CNT_BLK: PORT.PM1A_CONTROL,
    PM1_EVT_LEN: EVENT_BYTES,
    PM1_CNT_LEN: CONTROL_BYTES,
    P_LVL2_LAT: NO_C2,
    P_LVL3_LAT: NO_C3,
    IAPC_BOOT_ARCH: IAPC_BOOT_ARCH.LEGACY_DEVICES | IAPC_BOOT_ARCH.VGA_NOT_PRESENT,
    Flags: Object.values(FADT_FLAGS).reduce((all, flag) => all | flag, 0),
    RESET_REG: port(PORT.ACPI_RESET, 1, ACCESS_BYTE),
    RESET_VALUE: ACPI_RESET_VALUE,
    FADT_Minor_Version: 5,
    X_DSDT: BigInt(dsdtAt),
    X_PM1a_EVT_BLK: port(PORT.PM1A_EVENT, EVENT_BYTES, ACCESS_WORD),
    X_PM1a_CNT_BLK: port(PORT.PM1A_CONTROL, CONTROL_BYTES, ACCESS_WORD),
    Hypervisor_Vendor_Identity: ascii('MICROVSR'),
  });
  return table('FACP', 6, fields.subarray(tableHeader.size));
}

function port(address: number, size: number, access: number): Uint8Array {
  return genericAddress.encode({
    space: ADDRESS_SPACE_IO,
    bit_width: size * 8,
    access_size: access,
    address: BigInt(address),
  });
}

export const madtLocalApic = defineStruct('MADT local APIC', 8, {
  type: [0, 'u8'],
  length: [1, 'u8'],
  uid: [2, 'u8'],
  apic_id: [3, 'u8'],
  flags: [4, 'u32'],
});
export const madtIoApic = defineStruct('MADT I/O APIC', 12, {
  type: [0, 'u8'],
  length: [1, 'u8'],
  id: [2, 'u8'],
  address: [4, 'u32'],
  gsi_base: [8, 'u32'],
});
export const madtOverride = defineStruct('MADT interrupt source override', 10, {
  type: [0, 'u8'],
  length: [1, 'u8'],
  bus: [2, 'u8'],
  source: [3, 'u8'],
  gsi: [4, 'u32'],
  flags: [8, 'u16'],
});
const madtLocalNmi = defineStruct('MADT local APIC NMI', 6, {
  type: [0, 'u8'],
  length: [1, 'u8'],
  uid: [2, 'u8'],
  flags: [3, 'u16'],
  lint: [5, 'u8'],
});
const madtStart = defineStruct('MADT', 8, { lapic: [0, 'u32'], flags: [4, 'u32'] });

/** Entry types (table 5.21). */
export const MADT_ENTRY = { LOCAL_APIC: 0, IO_APIC: 1, SOURCE_OVERRIDE: 2, LOCAL_APIC_NMI: 4 } as const;

interface Override {
  readonly irq: number;
  readonly gsi: number;
  readonly flags: number;
}

/** MPS INTI flags (table 5.26): active high, edge-triggered. */
const ACTIVE_HIGH_EDGE = 0b0101;

// KVM's default GSI routing has the PIT on pin 0, so its row appears only for a layout that moves it. The SCI's row is
// always there: without one it is level-triggered (ACPI 6.5 §5.2.9), and the pulse of an irqfd gets lost on a level pin.
const OVERRIDES: readonly Override[] = [
  ...(GSI.PIT === 0 ? [] : [{ irq: 0, gsi: GSI.PIT, flags: ACTIVE_HIGH_EDGE }]),
  { irq: GSI.SCI, gsi: GSI.SCI, flags: ACTIVE_HIGH_EDGE },
];

function madtTable(cpus: number): Uint8Array {
  const PCAT_COMPAT = 1;
  const ENABLED = 1;
  const ALL_PROCESSORS = 0xff;
  const { LOCAL_APIC, IO_APIC, SOURCE_OVERRIDE, LOCAL_APIC_NMI } = MADT_ENTRY;
  const parts = [
    madtStart.encode({ lapic: LAPIC_BASE, flags: PCAT_COMPAT }),
    ...Array.from({ length: cpus }, (_, id) =>
      madtLocalApic.encode({ type: LOCAL_APIC, length: madtLocalApic.size, uid: id, apic_id: id, flags: ENABLED }),
    ),
    madtIoApic.encode({ type: IO_APIC, length: madtIoApic.size, id: 0, address: IOAPIC_BASE, gsi_base: 0 }),
    ...OVERRIDES.map(({ irq, gsi, flags }) =>
      madtOverride.encode({ type: SOURCE_OVERRIDE, length: madtOverride.size, source: irq, gsi, flags }),
    ),
    madtLocalNmi.encode({ type: LOCAL_APIC_NMI, length: madtLocalNmi.size, uid: ALL_PROCESSORS, lint: 1 }),
  ];
  return table('APIC', 5, Buffer.concat(parts));
}

function rsdpBytes(xsdtAt: number): Uint8Array {
  const bytes = rsdp.encode({
    signature: ascii('RSD PTR '),
    oem_id: OEM_ID,
    revision: 2,
    length: rsdp.size,
    xsdt_address: BigInt(xsdtAt),
  });
  sealed(bytes.subarray(0, RSDP_V1_SIZE), rsdp.rows.checksum[0]);
  return sealed(bytes, rsdp.rows.extended_checksum[0]);
}

function table(signature: string, revision: number, body: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(tableHeader.size + body.byteLength);
  tableHeader.encode(
    {
      signature: ascii(signature),
      length: bytes.byteLength,
      revision,
      oem_id: OEM_ID,
      oem_table_id: ascii('MICROVSR'),
      oem_revision: 1,
      creator_id: ascii('MVSR'),
      creator_revision: 1,
    },
    bytes,
  );
  bytes.set(body, tableHeader.size);
  return sealed(bytes, tableHeader.rows.checksum[0]);
}

function pointers(addresses: readonly number[]): Uint8Array {
  return new Uint8Array(BigUint64Array.from(addresses, BigInt).buffer);
}

/** Tables begin at multiples of 64 bytes, as the FACS must. */
function alignUp(gpa: number): number {
  return Math.ceil(gpa / 64) * 64;
}

function ascii(text: string): Uint8Array {
  return new TextEncoder().encode(text);
}

const OEM_ID = ascii('MICROV');
