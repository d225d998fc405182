// A device of closures: the guest reads the host's clock at port 0x510, and what it writes there is printed here.
import type { ClosureDeviceConfig } from 'microvisor';

export const clock: ClosureDeviceConfig = {
  name: 'clock',
  ports: { base: 0x510, length: 4 },
  read: () => Math.floor(Date.now() / 1000),
  write: (_offset, _size, value) => console.log(`the guest has ${value}`),
};
