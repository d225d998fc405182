// A device whose one register takes half a second to be read, on the vCPU's own thread.
// For the tests of what is seen of a machine that has been told to pause and has not come to it yet.
import { defineDevice } from '../../../src/devices/user-device.js';

const TAKES_MS = 500;

export const device = defineDevice({
  name: 'slow',
  ports: { base: 0x510, length: 4 },
  fields: { READS: { doc: 'reads so far' } },
  registers: ({ READS }) => [
    {
      offset: 0,
      name: 'READ',
      size: 4,
      read: () => {
        const count = READS.add(1);
        Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, TAKES_MS);
        return count;
      },
    },
  ],
});
