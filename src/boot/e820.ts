// The guest's memory map, as every boot protocol here hands it over.
// ACPI 6.5 §15 (address range types); Linux Documentation/arch/x86/boot.rst (e820_table).
import { ACPI_END, ACPI_RSDP, type AddressRange, EBDA, HIGH_MEMORY, VIDEO_HOLE } from '../memory/layout.js';

export const E820_TYPE_RAM = 1;
export const E820_TYPE_RESERVED = 2;

export interface E820Entry extends AddressRange {
  readonly type: typeof E820_TYPE_RAM | typeof E820_TYPE_RESERVED;
}

// What the first megabyte is; everything above it that is RAM is free for the guest. The tables are kept off
// limits whether or not they are there, so that the map does not depend on `--firmware`.
const FIRST_MEGABYTE: readonly E820Entry[] = [
  { base: 0, size: EBDA, type: E820_TYPE_RAM },
  { base: EBDA, size: VIDEO_HOLE - EBDA, type: E820_TYPE_RESERVED },
  { base: ACPI_RSDP, size: ACPI_END - ACPI_RSDP, type: E820_TYPE_RESERVED },
];

/** The map for RAM at `ram`, in ascending order; stretches that touch are one entry. */
export function e820Map(ram: readonly AddressRange[]): E820Entry[] {
  const stretches = merge(ram);
  const entries: E820Entry[] = [];
  for (const row of FIRST_MEGABYTE) {
    for (const stretch of stretches) push(entries, row.base, row.base + row.size, stretch, row.type);
  }
  for (const stretch of stretches) push(entries, HIGH_MEMORY, Infinity, stretch, E820_TYPE_RAM);
  return entries;
}

/** RAM without seams, in ascending order: a region is an allocation's end, not the guest's affair. */
export function merge(ram: readonly AddressRange[]): AddressRange[] {
  const merged: { base: number; size: number }[] = [];
  for (const { base, size } of [...ram].toSorted((a, b) => a.base - b.base)) {
    const last = merged.at(-1);
    if (last && last.base + last.size === base) last.size += size;
    else merged.push({ base, size });
  }
  return merged;
}

function push(entries: E820Entry[], from: number, to: number, within: AddressRange, type: E820Entry['type']): void {
  const base = Math.max(from, within.base);
  const end = Math.min(to, within.base + within.size);
  if (end > base) entries.push({ base, size: end - base, type });
}
