// A device for the tests of what a user's module can get wrong; its option says what.
// It has two registers at port 0x500: one that counts, and one that throws.
import { isMainThread } from 'node:worker_threads';
import { defineDevice, type DeviceDefinition } from '../../../src/devices/user-device.js';

export type Misdeed =
  'none' | 'throws in the factory' | 'throws in registers' | 'throws on vCPU threads' | 'hoards' | 'other fields there';

const FIELDS = { COUNT: { doc: 'reads of COUNT so far' } };

// A thread whose module leaves a timer must end nevertheless.
setInterval(() => undefined, 60_000);

export const device = defineDevice((misdeed: Misdeed = 'none'): DeviceDefinition<typeof FIELDS> => {
  if (misdeed === 'throws in the factory') throw new Error('from the factory');
  if (misdeed === 'throws on vCPU threads' && !isMainThread) throw new Error('from a vCPU thread');
  const more = misdeed === 'other fields there' && !isMainThread ? { MORE: { doc: 'of this thread only' } } : {};
  return {
    name: 'misbehaving',
    ports: { base: 0x500, length: 8 },
    fields: { ...FIELDS, ...more },
    registers: ({ COUNT }) => {
      if (misdeed === 'throws in registers') throw new Error('from registers');
      return [
        { offset: 0, name: 'COUNT', size: 4, read: () => COUNT.add(1) },
        {
          offset: 4,
          name: 'BROKEN',
          size: 4,
          read: () => {
            if (misdeed === 'hoards') hoard();
            throw new RangeError('no such track');
          },
        },
      ];
    },
  };
});

function hoard(): never {
  for (const all: unknown[] = []; ;) all.push(Array.from({ length: 1000 }, (_, i) => ({ i })));
}
