// VIRTIO's numbers that every device shares: device ids, status bits, feature bits, flags of the rings.
// VIRTIO 1.2 §2.1 (status), §4.2.2 (MMIO), §2.7 (split virtqueues), §5 (device ids), §6 (reserved feature bits).

/** VIRTIO 1.2 §5: device ids. */
export const DEVICE_ID = { NET: 1, BLOCK: 2, CONSOLE: 3, ENTROPY: 4 } as const;

/** VIRTIO 1.2 §2.1: device status field. */
export const STATUS = {
  ACKNOWLEDGE: 1,
  DRIVER: 2,
  DRIVER_OK: 4,
  FEATURES_OK: 8,
  DEVICE_NEEDS_RESET: 64,
  FAILED: 128,
} as const;

/** VIRTIO 1.2 §6: bit numbers of features that are not a device's own. */
export const FEATURE = {
  RING_INDIRECT_DESC: 28,
  RING_EVENT_IDX: 29,
  VERSION_1: 32,
} as const;

/** VIRTIO 1.2 §4.2.2: InterruptStatus and InterruptACK. */
export const INTERRUPT = { USED_BUFFER: 1, CONFIGURATION_CHANGE: 2 } as const;

/** VIRTIO 1.2 §2.7.5: flags of a descriptor. */
export const DESC = { NEXT: 1, WRITE: 2, INDIRECT: 4 } as const;
/** Bytes of a descriptor. */
export const DESC_BYTES = 16;

/** VIRTIO 1.2 §2.7.6: flag of the avail ring. */
export const AVAIL_NO_INTERRUPT = 1;
/** VIRTIO 1.2 §2.7.8: flag of the used ring. */
export const USED_NO_NOTIFY = 1;

/** VIRTIO 1.2 §2.7: "The maximum Queue Size value is 32768." */
export const QUEUE_SIZE_MAX = 32768;

/** Bytes of the three parts of a split virtqueue of `size`, and how they are aligned (VIRTIO 1.2 §2.7). */
export const RING_PARTS = {
  desc: { alignment: 16, bytes: (size: number) => DESC_BYTES * size },
  driver: { alignment: 2, bytes: (size: number) => 6 + 2 * size },
  device: { alignment: 4, bytes: (size: number) => 6 + 8 * size },
} as const;
