// The user's own devices of a machine, in both forms: loaded and checked before any VM exists, then built by each thread.
// Our own; what the form of each costs is said at UserDeviceConfig.
import { resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import type { Bus, IoHandler } from '../devices/bus.js';
import type { IrqLine } from '../devices/irq-line.js';
import { UNCONNECTED } from '../devices/irq-line.js';
import type { RegisterFile } from '../devices/register-file.js';
import { createUserDevice } from '../devices/user-device-front.js';
import type { DeviceDefinition, DevicePlace, DeviceRange } from '../devices/user-device.js';
import { ConfigError } from './config-error.js';
import { gsiProblem, rangeProblem, shapeProblem } from './user-device-rules.js';
import type { AddressRange } from '../memory/layout.js';

/**
 * A device of registers, in a module that every thread of the machine loads and that exports it as `device`: see
 * defineDevice. Its exits are served where they happen.
 */
export interface ModuleDeviceConfig {
  /** A path or a `file:` URL of JavaScript (or of TypeScript, on a Node that strips types). */
  readonly module: string | URL;
  /** For a module whose `device` is a function: what it is called with. Plain data, for it crosses threads. */
  readonly options?: unknown;
}

/**
 * A device of two closures, which run on the owner's thread: convenient, since they see all that the program sees, and
 * slow, since the guest's vCPU waits for the owner's event loop. They are synchronous; while they run, nothing else of
 * the owner does. One that throws, or that gives no number, ends the machine with `device-failed`.
 *
 * Beside the exit itself an access costs two changes of thread, there and back: 18 µs, of which the vCPU's thread uses
 * 9 µs of processor time and the owner's the other 9 (medians of 31 batches of 2000 reads, 10th and 90th percentile
 * within 1 µs; AMD EPYC, 2 processors, Linux 6.18, Node 20.20), and longer when the event loop is busy. A register of
 * a module costs 16 ns at the same place.
 */
export type ClosureDeviceConfig = IoHandler &
  DevicePlace & {
    /** An interrupt pin that no other device has; edge-triggered. Pulsed by `vm.device(name).irq`. */
    readonly gsi?: number;
  };

export type UserDeviceConfig = ModuleDeviceConfig | ClosureDeviceConfig;

/** What crosses to a vCPU thread, which makes the same device of it. */
export type UserDeviceData =
  | { readonly kind: 'module'; readonly href: string; readonly options: unknown }
  | { readonly kind: 'closures'; readonly name: string; readonly place: DevicePlace; readonly gsi: number | undefined };

/** A device that has been loaded. */
export interface UserDevice {
  readonly name: string;
  readonly place: DevicePlace;
  readonly gsi: number | undefined;
  readonly data: UserDeviceData;
  /** Of a module. */
  readonly definition?: DeviceDefinition;
  /** The closures; on the owner's thread only. */
  readonly handler?: IoHandler;
}

/** Path of a device in the configuration, for messages. */
const fieldOf = (index: number): string => `devices.${index}`;

/**
 * Loads and checks the devices of a configuration.
 * @throws ConfigError for a module that cannot be loaded or has no device, for a device that cannot be, and for an
 * address that the guest's accesses would not leave KVM at; two devices at one address show when the board is built
 */
export async function loadUserDevices(
  configs: readonly UserDeviceConfig[],
  ram: readonly AddressRange[],
): Promise<readonly UserDevice[]> {
  const devices: UserDevice[] = [];
  for (const [index, config] of configs.entries()) {
    const field = fieldOf(index);
    const device = 'module' in config ? await loadModule(moduleData(config, field), field) : closures(config, field);
    const problem = rangeProblem(device.place, ram);
    if (problem !== undefined) throw new ConfigError(field, `${device.name}: ${problem}`);
    devices.push(device);
  }
  return devices;
}

/** @param others the devices that have their interrupts already @throws ConfigError for an interrupt that is taken */
export function checkInterrupts(
  devices: readonly UserDevice[],
  others: readonly { readonly name: string; readonly gsi: number }[],
): void {
  const problem = gsiProblem([...others, ...devices]);
  if (problem !== undefined) throw new ConfigError('devices', problem);
}

/** The same devices on a vCPU thread. */
export function reloadUserDevices(data: readonly UserDeviceData[]): Promise<readonly UserDevice[]> {
  return Promise.all(
    data.map(async (device, index) =>
      device.kind === 'module' ? loadModule(device, fieldOf(index)) : { ...device, data: device },
    ),
  );
}

export interface UserDeviceParts {
  readonly registers: RegisterFile;
  readonly pio: Bus;
  readonly mmio: Bus;
  readonly irqLine: (gsi: number) => IrqLine;
  /** The handler for the closures, which are another thread's. `device` is the number in the configuration. */
  readonly closureFront: (name: string, device: number) => IoHandler;
}

/** Gives each device its fields and its addresses. @throws ConfigError for a name or an address that is taken */
export function attachUserDevices(devices: readonly UserDevice[], parts: UserDeviceParts): void {
  for (const [index, device] of devices.entries()) {
    const { name, place, definition } = device;
    const [bus, range]: [Bus, DeviceRange] = place.ports ? [parts.pio, place.ports] : [parts.mmio, place.mmio];
    try {
      const fields = parts.registers.allocate(name, definition?.fields ?? {});
      const irq = device.gsi === undefined ? UNCONNECTED : parts.irqLine(device.gsi);
      const handler =
        definition === undefined
          ? (device.handler ?? parts.closureFront(name, index))
          : createUserDevice(name, range, definition.registers(fields, { irq }));
      bus.attach(range.base, range.length, handler);
    } catch (error) {
      throw new ConfigError(fieldOf(index), error instanceof Error ? error.message : String(error));
    }
  }
}

function closures(config: ClosureDeviceConfig, field: string): UserDevice {
  const problem = shapeProblem(config, { read: 'function', write: 'function' });
  if (problem !== undefined) throw new ConfigError(field, problem);
  const { name, gsi } = config;
  const place = placeOf(config);
  return { name, place, gsi, handler: config, data: { kind: 'closures', name, place, gsi } };
}

function moduleData({ module, options }: ModuleDeviceConfig, field: string): UserDeviceData & { kind: 'module' } {
  if (!(module instanceof URL) && (typeof module !== 'string' || module === ''))
    throw new ConfigError(`${field}.module`, 'must be the path or the URL of a module');
  try {
    structuredClone(options);
  } catch (error) {
    throw new ConfigError(`${field}.options`, `must be plain data, for they cross threads: ${String(error)}`);
  }
  const isUrl = module instanceof URL || module.startsWith('file:');
  return { kind: 'module', href: isUrl ? String(module) : pathToFileURL(resolve(module)).href, options };
}

async function loadModule(data: UserDeviceData & { kind: 'module' }, field: string): Promise<UserDevice> {
  const failed = (what: string, error: unknown): ConfigError =>
    new ConfigError(`${field}.module`, `${what}: ${error instanceof Error ? error.message : String(error)}`);
  const { device } = await (import(data.href) as Promise<{ readonly device?: unknown }>).catch((error: unknown) => {
    throw failed(`cannot load ${data.href}`, error);
  });
  const definition =
    typeof device === 'function'
      ? call(device as (options: unknown) => unknown, data.options, failed, data.href)
      : device;
  const problem =
    device === undefined
      ? 'nothing of it is exported as device; write export const device = defineDevice({ … })'
      : shapeProblem(definition, { fields: 'object', registers: 'function' });
  if (problem !== undefined) throw new ConfigError(`${field}.module`, `${data.href}: ${problem}`);
  const { name, gsi, ...rest } = definition as DeviceDefinition;
  return { name, place: placeOf(rest), gsi, definition: definition as DeviceDefinition, data };
}

function call(
  make: (options: unknown) => unknown,
  options: unknown,
  failed: (what: string, error: unknown) => ConfigError,
  href: string,
): unknown {
  try {
    return make(options);
  } catch (error) {
    throw failed(`the device of ${href} cannot be made of these options`, error);
  }
}

/** Just the place: a closure's configuration holds functions, which cross no thread. */
function placeOf({ ports, mmio }: DevicePlace): DevicePlace {
  const copy = ({ base, length }: DeviceRange): DeviceRange => ({ base, length });
  return ports === undefined ? { mmio: copy(mmio) } : { ports: copy(ports) };
}
