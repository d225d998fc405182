// A user's own device as a module: what it exports, and the function that types it. `microvisor/device` is this file.
// Nothing is loaded with it, since each vCPU thread loads what its devices' modules import.
import type { IrqLine } from './irq-line.js';
import type { FieldRows, FieldsOf } from './register-file.js';
import type { RegisterRow } from './register-table.js';

/** A stretch of I/O ports or of guest-physical addresses. */
export interface DeviceRange {
  /** First port, or first GPA. */
  readonly base: number;
  /** In bytes, at least 1. */
  readonly length: number;
}

/** Where a device lies: in one of the two address spaces. */
export type DevicePlace =
  | { readonly ports: DeviceRange; readonly mmio?: undefined }
  | { readonly mmio: DeviceRange; readonly ports?: undefined };

/** What a device of registers gets beside its fields. */
export interface DeviceParts {
  /** The interrupt of the device's `gsi`; a device without one has a line that leads nowhere. */
  readonly irq: IrqLine;
}

/**
 * A device that is served in place, on whichever vCPU thread touches it: an access costs what any other exit costs.
 *
 * Each thread of the machine loads the module and builds the registers anew, so a module and `registers` keep state
 * nowhere but in the fields, which all threads share. Two vCPUs may be in the same register at once: a field that
 * is read and then written back loses updates, `add`, `or`, `and`, `exchange` and `compareExchange` do not.
 * The guest chooses every value that `write` gets. A register that throws ends its machine, with its own name in the
 * outcome; it should not wait for anything either.
 */
export type DeviceDefinition<R extends FieldRows = FieldRows> = DevicePlace & {
  /** Names the device in reports and to `Vm.device`; no other device of the machine has it. */
  readonly name: string;
  /** An interrupt pin that no other device has; edge-triggered, active high. */
  readonly gsi?: number;
  /** All its state: 32-bit fields, which the owner reads and changes by `Vm.device` while the guest runs. */
  readonly fields: R;
  /** Its registers, within the length of `ports` or `mmio`; bytes of none read as ones and ignore writes. */
  registers(fields: FieldsOf<R>, parts: DeviceParts): readonly RegisterRow[];
};

/**
 * Types a device; its module exports the result as `device`, and `VmConfig.devices` names the module. A function
 * instead of the definition gets the `options` that stand beside the module there.
 */
export function defineDevice<const R extends FieldRows>(definition: DeviceDefinition<R>): DeviceDefinition<R>;
export function defineDevice<const R extends FieldRows, O>(
  make: (options: O) => DeviceDefinition<R>,
): (options: O) => DeviceDefinition<R>;
export function defineDevice(device: unknown): unknown {
  return device;
}
