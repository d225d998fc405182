// The registers of one virtio-mmio device as fields of the register file: what its two halves share.
// VIRTIO 1.2 §4.2.2 (MMIO device register layout), §4.2.3 (initialization and reset).
import type { Field, FieldRows, FieldsOf, RegisterFile } from '../register-file.js';
import { FEATURE, QUEUE_SIZE_MAX } from './abi.js';
import type { VirtioOffer } from './device.js';

const DEVICE_ROWS = {
  Status: { doc: 'device status field' },
  DeviceFeaturesSel: { doc: 'which 32 bits of the offered features DeviceFeatures shows' },
  DriverFeaturesSel: { doc: 'which 32 bits DriverFeatures sets' },
  DriverFeaturesLow: { doc: 'features 0 to 31 that the driver accepted' },
  DriverFeaturesHigh: { doc: 'features 32 to 63 that the driver accepted' },
  QueueSel: { doc: 'the queue that the queue registers are about' },
  InterruptStatus: { doc: '1 used buffer, 2 configuration change; both halves change it, by or and and' },
  ConfigGeneration: {
    doc: 'counts changes of the configuration space; its lowest bit says which copy is the valid one',
  },
  RESET: { doc: '1 from a Status := 0 of an active device until the back has answered' },
  REQUESTS: { doc: 'how often the front waited for the back, modulo 2^32' },
  ANSWERS: { doc: 'the last of these requests that the back has answered' },
} as const satisfies FieldRows;

const QUEUE_ROWS = {
  QueueNum: { doc: 'entries' },
  QueueReady: { doc: '1 when the driver has set the queue up' },
  QueueDescLow: { doc: 'GPA of the descriptor table, low half' },
  QueueDescHigh: { doc: 'GPA of the descriptor table, high half' },
  QueueDriverLow: { doc: 'GPA of the avail ring, low half' },
  QueueDriverHigh: { doc: 'GPA of the avail ring, high half' },
  QueueDeviceLow: { doc: 'GPA of the used ring, low half' },
  QueueDeviceHigh: { doc: 'GPA of the used ring, high half' },
  AVAIL: { doc: 'next entry of the avail ring, modulo 2^16; for a snapshot' },
  USED: { doc: 'next entry of the used ring, modulo 2^16; for a snapshot' },
} as const satisfies FieldRows;

export type QueueFields = FieldsOf<typeof QUEUE_ROWS>;

/** One device's fields. Whoever builds it from the same offer over the same register file gets the same ones. */
export interface MmioState {
  readonly fields: FieldsOf<typeof DEVICE_ROWS>;
  readonly queues: readonly QueueFields[];
  /**
   * Device configuration space, twice: the back fills the copy that is not valid and then counts ConfigGeneration up.
   * So whoever reads the same generation before and after has read no mixture.
   */
  readonly config: readonly [Uint8Array<SharedArrayBuffer>, Uint8Array<SharedArrayBuffer>];
}

/** @throws TypeError when the offer breaks a rule of the specification: a device's bug */
export function allocateMmioState(registers: RegisterFile, offer: VirtioOffer): MmioState {
  for (const size of offer.queueSizes)
    if (!(size >= 1 && size <= QUEUE_SIZE_MAX) || (size & (size - 1)) !== 0)
      throw new TypeError(`${offer.name}: a queue's size is a power of two up to ${QUEUE_SIZE_MAX}, not ${size}`);
  const { length } = offer.config;
  const copies = registers.allocateArea(
    offer.name,
    'config',
    Math.max(2 * length, 1),
    'device configuration space, two copies',
    (area) => area.set(offer.config),
  );
  return {
    fields: registers.allocate(offer.name, DEVICE_ROWS),
    queues: offer.queueSizes.map((_, index) => registers.allocate(`${offer.name}.queue${index}`, QUEUE_ROWS)),
    config: [copies.subarray(0, length), copies.subarray(length, 2 * length)],
  };
}

/** Every field as after power-on, but those of the wait between the halves. */
export function resetFields({ fields, queues }: MmioState): void {
  for (const queue of queues) for (const field of Object.values<Field>(queue)) field.set(0);
  for (const name of CLEARED) fields[name].set(0);
}

// Status last: it is what the driver polls for the end of a reset.
const CLEARED = [
  'DeviceFeaturesSel',
  'DriverFeaturesSel',
  'DriverFeaturesLow',
  'DriverFeaturesHigh',
  'QueueSel',
  'InterruptStatus',
  'Status',
] as const;

/** The offered features as two halves: the device's own, and those of the transport. */
export function offeredFeatures({ features }: VirtioOffer): readonly [low: number, high: number] {
  const halves: [number, number] = [0, 0];
  for (const bit of [...features, ...Object.values(FEATURE)]) halves[bit < 32 ? 0 : 1] |= 1 << (bit & 31);
  return [halves[0] >>> 0, halves[1] >>> 0];
}
