// What calls a device from outside its transport: backends, timers, the event loop. An error is the device's, not theirs.
import type { DeviceHost } from './device.js';

/** Runs `action`; what it throws ends the device's machine, and the result is undefined then. */
export function guarded<T>(host: DeviceHost | undefined, action: () => T): T | undefined {
  try {
    return action();
  } catch (error) {
    if (host === undefined) throw error;
    host.fail(error);
    return undefined;
  }
}
