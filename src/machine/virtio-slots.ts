// Where the virtio-mmio devices of a machine lie: one window and one GSI each, in the order of the configuration.
// VIRTIO 1.2 §4.2.1 (MMIO device discovery); Linux Documentation/admin-guide/kernel-parameters.rst, virtio_mmio.device=.
import { VIRTIO_ACPI_GSIS, VIRTIO_GSIS, VIRTIO_MMIO_BASE, VIRTIO_MMIO_STRIDE } from '../memory/layout.js';
import type { VirtioOffer } from '../devices/virtio/device.js';
import { ConfigError } from './config-error.js';

/** Structured-cloneable: every thread builds the device's front from it. */
export interface VirtioSlot {
  readonly offer: VirtioOffer;
  /** GPA of the window. */
  readonly base: number;
  readonly gsi: number;
}

/** @throws ConfigError when there are more devices than interrupts */
export function assignSlots(
  offers: readonly VirtioOffer[],
  firmware: 'mptable' | 'acpi' | 'both',
): readonly VirtioSlot[] {
  const gsis = firmware === 'acpi' ? VIRTIO_ACPI_GSIS : VIRTIO_GSIS;
  if (offers.length > gsis.length)
    throw new ConfigError(
      'disks, nets, console and entropy',
      `these are ${offers.length} virtio devices, and there are interrupts for ${gsis.length}; use fewer` +
        (firmware === 'acpi' ? '' : `, or firmware acpi for up to ${VIRTIO_ACPI_GSIS.length}`),
    );
  return offers.map((offer, index) => ({
    offer,
    base: VIRTIO_MMIO_BASE + index * VIRTIO_MMIO_STRIDE,
    gsi: gsis[index] as number,
  }));
}

/** The words of a kernel command line that name the devices; none for a guest that has ACPI only. */
export function deviceWords(slots: readonly VirtioSlot[], firmware: 'mptable' | 'acpi' | 'both'): readonly string[] {
  if (firmware === 'acpi') return [];
  return slots.map(({ base, gsi }) => `virtio_mmio.device=${VIRTIO_MMIO_STRIDE / 1024}K@0x${base.toString(16)}:${gsi}`);
}

/** Names of a device's eventfds on the board. */
export const controlBell = ({ name }: VirtioOffer): string => name;
export const queueBell = ({ name }: VirtioOffer, queue: number): string => `${name}.queue${queue}`;
