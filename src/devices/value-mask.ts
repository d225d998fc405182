// The bits of an access of 1 to 4 bytes: also what an undriven bus reads as.
// Tables and not powers of two, for they are looked up on each access.

// Without a first element that is no number this would be a table of doubles, and every mask taken out of it a new box.
const MASKS: readonly (number | undefined)[] = [undefined, 0xff, 0xffff, 0xff_ffff, 0xffff_ffff];

/** @param bytes 1 to 4 @returns ones in all bits of so many bytes, unsigned */
export function valueMask(bytes: number): number {
  return MASKS[bytes] ?? 0xffff_ffff;
}
