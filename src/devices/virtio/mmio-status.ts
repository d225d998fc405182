// Which writes of the Status register are taken: a table of the bits in the order in which a driver may set them.
// VIRTIO 1.2 §2.1, §3.1.1 (driver requirements: device initialization).
import { STATUS } from './abi.js';

interface StatusRow {
  readonly bit: number;
  /** What must be set already, or come with the same write. */
  readonly needs: number;
}

const ROWS: readonly StatusRow[] = [
  { bit: STATUS.ACKNOWLEDGE, needs: 0 },
  { bit: STATUS.DRIVER, needs: STATUS.ACKNOWLEDGE },
  { bit: STATUS.FEATURES_OK, needs: STATUS.ACKNOWLEDGE | STATUS.DRIVER },
  { bit: STATUS.DRIVER_OK, needs: STATUS.ACKNOWLEDGE | STATUS.DRIVER | STATUS.FEATURES_OK },
  // "the driver … SHOULD set the FAILED status bit" at any time.
  { bit: STATUS.FAILED, needs: 0 },
];

/**
 * The status after the driver wrote `written` (not 0, which is a reset).
 * A write that clears a bit, sets DEVICE_NEEDS_RESET or sets a bit out of order changes nothing.
 * @param areFeaturesValid asked when FEATURES_OK is new: the bit does not stick otherwise (§2.2.2)
 */
export function nextStatus(current: number, written: number, areFeaturesValid: () => boolean): number {
  const kept = current & ~STATUS.DEVICE_NEEDS_RESET;
  if ((kept & ~written) !== 0) return current;
  if ((written & STATUS.DEVICE_NEEDS_RESET & ~current) !== 0) return current;
  // "FAILED … the driver has given up on the device": only a reset follows.
  if ((current & STATUS.FAILED) !== 0) return current;
  let next = current;
  for (const { bit, needs } of ROWS) {
    if ((written & bit) === 0 || (current & bit) !== 0) continue;
    if ((next & needs) !== needs) break;
    if (bit === STATUS.FEATURES_OK && !areFeaturesValid()) break;
    next |= bit;
  }
  return next;
}
