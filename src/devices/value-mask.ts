// The bits of an access of 1 to 4 bytes: also what an undriven bus reads as.
// A table and not a power of two, for it is looked up on each access.

const MASKS: readonly number[] = [0, 0xff, 0xffff, 0xff_ffff, 0xffff_ffff];

/** @param bytes 1 to 4 @returns ones in all bits of so many bytes, unsigned */
export function valueMask(bytes: number): number {
  return MASKS[bytes] ?? 0xffff_ffff;
}
