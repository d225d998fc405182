// The tables that a firmware would have left in memory: BIOS data area, MP table, ACPI.
// MP specification 1.4 §4 and ACPI 6.5 §5.2.5.1 say where a guest looks for them.
import { ACPI_RSDP, BIOS_DATA_AREA, EBDA, MP_TABLE, VM_GENERATION_ID } from '../memory/layout.js';
import { defineStruct } from '../memory/struct.js';
import { acpiTables } from './acpi/tables.js';
import type { LoadContext } from './loader.js';
import { mpTable } from './mp-table.js';

/** The words of the BIOS data area that lead to the EBDA; guests begin their search for the MP table there. */
const biosDataArea = defineStruct('BIOS data area', 0x15, { ebda_segment: [0x0e, 'u16'], memory_kib: [0x13, 'u16'] });

/** Its name among what was placed. */
export const VM_GENERATION = 'VM generation ID';
export const VM_GENERATION_BYTES = 16;

interface Table {
  readonly name: string;
  readonly base: number;
  readonly bytes: Uint8Array;
}

/** Plans the tables that the request asks for. Returns the RSDP's GPA, or 0 when there is no ACPI. */
export function placeFirmware({ placement, request, kernel }: LoadContext): number {
  const blame = { file: kernel.name, field: 'firmware' };
  for (const { name, base, bytes } of tables(request)) placement.add(name, base, bytes, blame);
  return request.firmware === 'mptable' ? 0 : ACPI_RSDP;
}

/** The same for a guest that was promised nothing: tables that would lie outside RAM or on its image are left out. */
export function offerFirmware({ placement, request }: LoadContext): void {
  for (const { name, base, bytes } of tables(request)) placement.addIfFree(name, base, bytes);
}

function tables({ firmware, cpus, devices = [], vmGenerationId }: LoadContext['request']): Table[] {
  const bda = biosDataArea.encode({ ebda_segment: EBDA / 16, memory_kib: EBDA / 1024 });
  return [
    { name: 'BIOS data area', base: BIOS_DATA_AREA, bytes: bda },
    ...(firmware === 'acpi' ? [] : [{ name: 'MP table', base: MP_TABLE, bytes: mpTable(cpus) }]),
    ...(firmware === 'mptable'
      ? []
      : [
          ...acpiTables({ cpus, devices }).map(({ signature, base, bytes }) => ({
            name: `ACPI ${signature}`,
            base,
            bytes,
          })),
          {
            name: VM_GENERATION,
            base: VM_GENERATION_ID,
            bytes: vmGenerationId ?? new Uint8Array(VM_GENERATION_BYTES),
          },
        ]),
  ];
}
