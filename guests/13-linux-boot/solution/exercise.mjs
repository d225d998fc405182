// Exercise 13, solved: a boot loader for Linux' 32-bit boot protocol.
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
  const headerEnd = 0x202 + file.getUint8(HEADER_LENGTH);
  page.set(image.subarray(SETUP_HEADER, headerEnd), SETUP_HEADER);
  params.setUint8(TYPE_OF_LOADER, 0xff);
  memory.write(COMMAND_LINE, Buffer.from(`${cmdline}\0`));
  params.setUint32(CMD_LINE_PTR, COMMAND_LINE, true);
  params.setUint8(E820_ENTRIES, e820.length);
  for (const [i, { base, size, type }] of e820.entries()) {
    const at = E820_TABLE + i * 20;
    params.setBigUint64(at, BigInt(base), true);
    params.setBigUint64(at + 8, BigInt(size), true);
    params.setUint32(at + 16, type, true);
  }
  memory.write(ZERO_PAGE, page);
  return { eip: start, esi: ZERO_PAGE };
}
