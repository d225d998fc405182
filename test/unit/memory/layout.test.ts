// The address map: the fixed boot structures lie in ascending order and do not touch, and pins are not shared.
import { describe, expect, it } from 'vitest';
import * as layout from '../../../src/memory/layout.js';

describe('layout', () => {
  it('keeps the fixed boot structures apart, "in ascending order"', () => {
    const ranges: readonly (readonly [string, number, number])[] = [
      ['BIOS data area', layout.BIOS_DATA_AREA, 0x100],
      ['boot GDT', layout.BOOT_GDT, 4 * 8],
      ['boot IDT', layout.BOOT_IDT, 1],
      ['PVH start info', layout.PVH_START_INFO, layout.PAGE_SIZE],
      ['zero page', layout.ZERO_PAGE, layout.PAGE_SIZE],
      ['boot stack', layout.BOOT_STACK - 0x800, 0x800],
      ['page tables', layout.BOOT_PML4, 6 * layout.PAGE_SIZE],
      ['setup_data', layout.SETUP_DATA, layout.PAGE_SIZE],
      ['command line', layout.CMDLINE, layout.CMDLINE_MAX],
      ['multiboot information', layout.MULTIBOOT_INFO, layout.PAGE_SIZE],
      ['MP table', layout.MP_TABLE, layout.VIDEO_HOLE - layout.MP_TABLE],
      ['ACPI', layout.ACPI_RSDP, layout.ACPI_END - layout.ACPI_RSDP],
      ['high memory', layout.HIGH_MEMORY, layout.LOW_RAM_END - layout.HIGH_MEMORY],
      ['virtio-mmio', layout.VIRTIO_MMIO_BASE, layout.VIRTIO_MMIO_STRIDE * layout.VIRTIO_ACPI_GSIS.length],
      ['IOAPIC', layout.IOAPIC_BASE, layout.PAGE_SIZE],
      ['LAPIC', layout.LAPIC_BASE, layout.PAGE_SIZE],
      ['identity map', layout.KVM_IDENTITY_MAP, layout.PAGE_SIZE],
      ['TSS', layout.KVM_TSS, 3 * layout.PAGE_SIZE],
      ['high RAM', layout.HIGH_RAM_START, 1],
    ];
    for (const [i, [name, base]] of ranges.entries()) {
      const previous = ranges[i - 1];
      if (previous) expect(base, `${name} after ${previous[0]}`).toBeGreaterThanOrEqual(previous[1] + previous[2]);
    }
  });

  it('gives each device a pin of its own', () => {
    const { COUNT, ...fixed } = layout.GSI;
    const pins = [...Object.values(fixed), ...layout.VIRTIO_ACPI_GSIS];
    expect(new Set(pins).size).toBe(pins.length);
    for (const pin of pins) expect(pin).toBeLessThan(COUNT);
  });

  it('gives guests without ACPI only pins that are Linux interrupt numbers', () => {
    expect(layout.VIRTIO_ACPI_GSIS.slice(0, layout.VIRTIO_GSIS.length)).toEqual([...layout.VIRTIO_GSIS]);
    for (const pin of layout.VIRTIO_GSIS) expect(pin).toBeLessThan(16);
  });

  it('gives each device ports of its own', () => {
    const ports = Object.values(layout.PORT);
    expect(new Set(ports).size).toBe(ports.length);
  });
});
