// The MP table: processors, the ISA bus, the IOAPIC and what is wired to its pins.
// Intel MultiProcessor Specification 1.4 §4; pins as in KVM's default GSI routing (virt/kvm: GSI n is pin n, the PIT too).
import { GSI, IOAPIC_BASE, LAPIC_BASE, MP_TABLE, VIDEO_HOLE } from '../memory/layout.js';
import { defineStruct, type Fields, type Rows, type Struct } from '../memory/struct.js';
import { sealed } from './checksum.js';
import { BootError } from './errors.js';

export const mpFloatingPointer = defineStruct('MP floating pointer', 16, {
  signature: [0, 'bytes4'],
  physical_address: [4, 'u32'],
  length: [8, 'u8'],
  spec_rev: [9, 'u8'],
  checksum: [10, 'u8'],
  feature1: [11, 'u8'],
  feature2: [12, 'u8'],
});
export const mpHeader = defineStruct('MP configuration table header', 44, {
  signature: [0, 'bytes4'],
  length: [4, 'u16'],
  spec_rev: [6, 'u8'],
  checksum: [7, 'u8'],
  oem_id: [8, 'bytes8'],
  product_id: [16, 'bytes12'],
  entry_count: [34, 'u16'],
  lapic: [36, 'u32'],
});
export const mpProcessor = defineStruct('MP processor', 20, {
  type: [0, 'u8'],
  apic_id: [1, 'u8'],
  apic_version: [2, 'u8'],
  cpu_flags: [3, 'u8'],
  signature: [4, 'u32'],
  features: [8, 'u32'],
});
export const mpBus = defineStruct('MP bus', 8, { type: [0, 'u8'], bus_id: [1, 'u8'], bus_type: [2, 'bytes6'] });
export const mpIoApic = defineStruct('MP I/O APIC', 8, {
  type: [0, 'u8'],
  apic_id: [1, 'u8'],
  apic_version: [2, 'u8'],
  flags: [3, 'u8'],
  address: [4, 'u32'],
});
/** The I/O and the local interrupt assignment have the same shape. */
export const mpInterrupt = defineStruct('MP interrupt', 8, {
  type: [0, 'u8'],
  interrupt_type: [1, 'u8'],
  flags: [2, 'u16'],
  source_bus: [4, 'u8'],
  source_irq: [5, 'u8'],
  dest_apic: [6, 'u8'],
  dest_pin: [7, 'u8'],
});

/** Entry types (MP specification 1.4, table 4-3). */
export const MP_ENTRY = { PROCESSOR: 0, BUS: 1, IOAPIC: 2, INTSRC: 3, LINTSRC: 4 } as const;

/** Processors for which there is room between the EBDA's start and the video hole. */
export const MP_CPUS_MAX = 37;

/** The floating pointer and the table behind it, for MP_TABLE. @throws BootError for too many processors */
export function mpTable(cpus: number): Uint8Array {
  const entries = [
    ...Array.from({ length: cpus }, (_, id) => processor(id)),
    entry(mpBus, { type: MP_ENTRY.BUS, bus_id: ISA_BUS, bus_type: ascii('ISA   ') }),
    entry(mpIoApic, {
      type: MP_ENTRY.IOAPIC,
      apic_id: IOAPIC_ID,
      apic_version: IOAPIC_VERSION,
      flags: ENABLED,
      address: IOAPIC_BASE,
    }),
    ...Array.from({ length: GSI.COUNT }, (_, pin) => pin)
      .filter((pin) => pin !== PIC_CASCADE)
      .map(ioInterrupt),
    // The 8259 pair's output is wired to LINT0 of the boot processor, NMI to LINT1 of all.
    localInterrupt(INTERRUPT_TYPE.EXTINT, 0, 0),
    localInterrupt(INTERRUPT_TYPE.NMI, ALL_APICS, 1),
  ];
  const length = mpHeader.size + entries.reduce((sum, { byteLength }) => sum + byteLength, 0);
  if (mpFloatingPointer.size + length > VIDEO_HOLE - MP_TABLE)
    throw new BootError(
      'cpus',
      'cpus',
      `${cpus} processors do not fit into the MP table, which has room for ${MP_CPUS_MAX}; use --firmware acpi`,
    );

  const header = mpHeader.encode({
    signature: ascii('PCMP'),
    length,
    spec_rev: SPEC_REV,
    oem_id: ascii('MICROVSR'),
    product_id: ascii('MICROVISOR  '),
    entry_count: entries.length,
    lapic: LAPIC_BASE,
  });
  const table = sealed(concat([header, ...entries]), mpHeader.rows.checksum[0]);
  const pointer = mpFloatingPointer.encode({
    signature: ascii('_MP_'),
    physical_address: MP_TABLE + mpFloatingPointer.size,
    length: mpFloatingPointer.size / 16,
    spec_rev: SPEC_REV,
  });
  return concat([sealed(pointer, mpFloatingPointer.rows.checksum[0]), table]);
}

/** Version 1.4. */
const SPEC_REV = 4;
const ISA_BUS = 0;
/**
 * What the IOAPIC's own id register says after reset. The specification wants an id that no local APIC has, but
 * every later bus keeps the two apart, and teaching kernels compare the table with the register.
 */
const IOAPIC_ID = 0;
const IOAPIC_VERSION = 0x11;
const LAPIC_VERSION = 0x14;
const ALL_APICS = 0xff;
const ENABLED = 1 << 0;
const BOOT_PROCESSOR = 1 << 1;
/** Family 6; on-chip FPU and APIC. A placeholder: CPUID says more. */
const CPU_SIGNATURE = 0x600;
const CPU_FEATURES = 0x201;
/** IRQ2 is where the second 8259 hangs on the first; no device can raise it. */
const PIC_CASCADE = 2;
const INTERRUPT_TYPE = { INT: 0, NMI: 1, EXTINT: 3 } as const;
/** PO = 01, EL = 01. */
const ACTIVE_HIGH_EDGE = 0b0101;

function processor(id: number): Uint8Array {
  return entry(mpProcessor, {
    type: MP_ENTRY.PROCESSOR,
    apic_id: id,
    apic_version: LAPIC_VERSION,
    cpu_flags: ENABLED | (id === 0 ? BOOT_PROCESSOR : 0),
    signature: CPU_SIGNATURE,
    features: CPU_FEATURES,
  });
}

/** Bus interrupt n is pin n, above the sixteen of the real ISA bus as well: that is how virtio-mmio gets there. */
function ioInterrupt(pin: number): Uint8Array {
  return entry(mpInterrupt, {
    type: MP_ENTRY.INTSRC,
    interrupt_type: INTERRUPT_TYPE.INT,
    flags: ACTIVE_HIGH_EDGE,
    source_bus: ISA_BUS,
    source_irq: pin,
    dest_apic: IOAPIC_ID,
    dest_pin: pin,
  });
}

function localInterrupt(type: number, apic: number, pin: number): Uint8Array {
  return entry(mpInterrupt, {
    type: MP_ENTRY.LINTSRC,
    interrupt_type: type,
    source_bus: ISA_BUS,
    dest_apic: apic,
    dest_pin: pin,
  });
}

function entry<R extends Rows>(struct: Struct<R>, values: Partial<Fields<R>>): Uint8Array {
  return struct.encode(values);
}

function ascii(text: string): Uint8Array {
  return new TextEncoder().encode(text);
}

function concat(parts: readonly Uint8Array[]): Uint8Array {
  return new Uint8Array(Buffer.concat(parts));
}
