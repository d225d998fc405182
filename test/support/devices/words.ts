// Four registers of 32 bits that keep what is written, at MMIO, for the tests of widths and misalignment.
// The device is a page long, and the rest of it has no register.
import { defineDevice } from '../../../src/devices/user-device.js';

export const device = defineDevice({
  name: 'words',
  mmio: { base: 0xc000_0000, length: 0x1000 },
  fields: {
    W0: { initial: 0x4433_2211, doc: 'at 0x0' },
    W1: { initial: 0x8877_6655, doc: 'at 0x4' },
    W2: { initial: 0xccbb_aa99, doc: 'at 0x8' },
    W3: { initial: 0x00ff_eedd, doc: 'at 0xc' },
  },
  registers: (fields) =>
    Object.entries(fields).map(([name, field], index) => ({
      offset: index * 4,
      name,
      size: 4,
      read: () => field.get(),
      write: (value, mask) => {
        // Not in one step: two vCPUs at once are the guest's own affair.
        field.and(~mask);
        field.or(value);
      },
    })),
});
