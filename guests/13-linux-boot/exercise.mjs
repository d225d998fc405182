// Exercise 13: a boot loader for Linux' 32-bit boot protocol. Complete `loadKernel`.
// Linux Documentation/arch/x86/boot.rst ("32-bit Boot Protocol") and zero-page.rst.

// Offsets in boot_params; from 0x1f1 (setup_sects) on they are the image's as well.
const E820_ENTRIES = 0x1e8; // 1 byte: how many
const SETUP_HEADER = 0x1f1; // 1 byte: setup_sects
const HEADER_LENGTH = 0x201; // 1 byte: the setup header ends so many bytes behind 0x202
const TYPE_OF_LOADER = 0x210; // 1 byte: 0xff for a loader without a number of its own
const CODE32_START = 0x214; // 4 bytes: where the protected-mode part belongs, and is entered
const CMD_LINE_PTR = 0x228; // 4 bytes: GPA of the command line, which ends with a 0
const E820_TABLE = 0x2d0; // 20 bytes each: base and size of 8 bytes, type of 4

const ZERO_PAGE = 0x7000;
const COMMAND_LINE = 0x20000;

/**
 * @param {{ write(gpa: number, bytes: Uint8Array): void }} memory guest RAM
 * @param {{ image: Uint8Array, cmdline: string, e820: { base: number, size: number, type: number }[] }} request
 * @returns {{ eip: number, esi: number }} where to start, and the GPA of boot_params
 */
export function loadKernel(memory, { image, cmdline, e820 }) {
  const file = new DataView(image.buffer, image.byteOffset, image.byteLength);
  const start = file.getUint32(CODE32_START, true);
  memory.write(start, image.subarray((file.getUint8(SETUP_HEADER) + 1) * 512));

  const page = new Uint8Array(4096); // boot_params
  const params = new DataView(page.buffer);
  // Your turn, in `page`, before it is written: copy the setup header from the image, to the same offsets
  // (page.set(image.subarray(from, to), from)); say which loader you are; the command line (its text into memory, its
  // address here); the memory map, with params.setBigUint64(at, BigInt(base), true) and the like.
  memory.write(ZERO_PAGE, page);
  return { eip: start, esi: ZERO_PAGE };
}
