// A device with an interrupt and an address by option: a write to its one register interrupts the guest.
// For the tests of modules with options and of interrupts from a vCPU's thread.
import { defineDevice } from '../../../src/devices/user-device.js';

export interface DoorbellOptions {
  readonly base: number;
  readonly gsi: number;
}

export const device = defineDevice(({ base, gsi }: DoorbellOptions) => ({
  name: `doorbell at ${base.toString(16)}`,
  mmio: { base, length: 4 },
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
