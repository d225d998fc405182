// The backs of a machine's virtio devices, made from the configuration before any VM exists.
// One row a kind of device; the order is that of the windows and of Linux' names (vda, eth0).
import { openRandomSource } from '../devices/backend/random-source.js';
import { VirtioConsole } from '../devices/virtio/console.js';
import type { VirtioDevice } from '../devices/virtio/device.js';
import { VirtioEntropy } from '../devices/virtio/entropy.js';
import type { GuestMemory } from '../memory/guest-memory.js';
import type { CompleteConfig } from './config.js';
import type { ConsolePort } from './consoles.js';
import type { ConsoleSize } from './consoles.js';

export interface VirtioDevices {
  readonly devices: readonly VirtioDevice[];
  /** The one among them that is the machine's console. */
  readonly console: (ConsolePort & ConsoleSize) | undefined;
}

/**
 * What disks and networks need of the host (child processes, sockets, zlib) is loaded with the first of them: a machine
 * without any starts some ten milliseconds of processor time sooner.
 * @throws ConfigError, or the error of a file or host part that cannot be opened; nothing stays open then
 */
export async function createVirtioDevices(config: CompleteConfig, memory: GuestMemory): Promise<VirtioDevices> {
  const devices: VirtioDevice[] = [];
  try {
    if (config.disks.length > 0) {
      const { openBlockDevice } = await import('./block-devices.js');
      for (const [index, disk] of config.disks.entries())
        devices.push(await openBlockDevice(disk, memory, `disk${index}`));
    }
    const console = config.console === 'virtio' ? new VirtioConsole() : undefined;
    if (console !== undefined) devices.push(console);
    if (config.nets.length > 0) {
      const { openNetDevice } = await import('./net-devices.js');
      for (const [index, net] of config.nets.entries()) devices.push(await openNetDevice(net, `net${index}`));
    }
    if (config.entropy) devices.push(new VirtioEntropy(openRandomSource()));
    for (const make of config.virtio) devices.push(await make(memory));
    return { devices, console };
  } catch (error) {
    for (const device of devices) await device.close();
    throw error;
  }
}
