// A device with an interrupt and its place by option: a write to its one register interrupts the guest.
// For the tests of modules with options, and of interrupts from a vCPU's thread.
import { defineDevice, type DevicePlace } from '../../../src/devices/user-device.js';

export interface DoorbellOptions {
  readonly place: DevicePlace;
  readonly gsi: number;
}

export const device = defineDevice(({ place, gsi }: DoorbellOptions) => ({
  ...place,
  name: 'doorbell',
  gsi,
  fields: { RUNG: { doc: 'what was written last' } },
  registers: ({ RUNG }, { irq }) => [
    {
      offset: 0,
      name: 'RING',
      size: 4,
      read: () => RUNG.get(),
      write: (value) => {
        RUNG.set(value);
        irq.pulse();
      },
    },
  ],
}));
