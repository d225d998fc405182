// The handler of a user's device: its registers as rows, checked, and guarded so that what they throw has a name.
// Our own. The same sentences serve both forms, the module and the closures.
import type { IoHandler } from './bus.js';
import { RegisterTable, type RegisterHandler, type RegisterRow } from './register-table.js';
import type { DeviceRange } from './user-device.js';

/** `code` of a DeviceError; it survives the way from a vCPU thread to the owner. */
export const DEVICE_FAILED = 'ERR_DEVICE_FAILED';

/** A user's device broke its word not to throw. */
export class DeviceError extends Error {
  override readonly name = 'DeviceError';
  readonly code = DEVICE_FAILED;
}

/** Who failed at what, in one sentence. `problem` is what was thrown, or says what is wrong. */
export function deviceError(
  name: string,
  { offset, size, value }: { readonly offset: number; readonly size: number; readonly value?: number | undefined },
  problem: unknown,
): DeviceError {
  const access = value === undefined ? 'read' : `write of 0x${value.toString(16)}`;
  const where = `${size}-byte ${access} at offset 0x${offset.toString(16)}`;
  const reason = problem instanceof Error ? `${problem.name}: ${problem.message}` : String(problem);
  return new DeviceError(`device ${name} failed in a ${where}: ${reason}`, { cause: problem });
}

/** @throws TypeError, RangeError for rows that cannot be registers of so long a device */
export function createUserDevice(name: string, { length }: DeviceRange, rows: readonly RegisterRow[]): RegisterHandler {
  for (const { offset, name: register, size } of rows)
    if (!Number.isSafeInteger(offset) || offset < 0 || offset + size > length)
      throw new RangeError(`register ${register} at offset ${offset} is not within the ${length} bytes of ${name}`);
  return guarded(new RegisterTable(name, rows));
}

function guarded(table: RegisterTable): RegisterHandler {
  const { name, registers } = table;
  const handler: IoHandler = {
    name,
    read(offset, size) {
      try {
        return table.read(offset, size);
      } catch (error) {
        throw deviceError(name, { offset, size }, error);
      }
    },
    write(offset, size, value) {
      try {
        table.write(offset, size, value);
      } catch (error) {
        throw deviceError(name, { offset, size, value }, error);
      }
    },
  };
  return { ...handler, registers, registerName: (offset, isWrite) => table.registerName(offset, isWrite) };
}
