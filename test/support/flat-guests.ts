// Guests of a few bytes for the command's tests, assembled by hand for real mode unless they say otherwise.
// Intel SDM vol. 2; the console is a 16550 at 0x3f8, debug-exit lies at 0xf4.

/** Debug-exit with `value`, then spins. */
const exitWith = (value: number): number[] => [0xb0, value, 0xe6, 0xf4, 0xeb, 0xfe];

/** One array for each line of the source. */
const assemble = (...lines: readonly (readonly number[])[]): Uint8Array => Uint8Array.from(lines.flat());

/** jmp . */
export const SPIN = Uint8Array.of(0xeb, 0xfe);

/** cli; hlt */
export const HALT = Uint8Array.of(0xfa, 0xf4);

/** sti; hlt; jmp back: halted, but an interrupt could wake it. */
export const IDLE = Uint8Array.of(0xfb, 0xf4, 0xeb, 0xfd);

/** For protected mode, whose boot IDT is empty: ud2 faults, and so do the double fault and what follows. */
export const TRIPLE_FAULT = Uint8Array.of(0x0f, 0x0b);

export const debugExit = (value: number): Uint8Array => Uint8Array.from(exitWith(value));

/** Prints the bytes 0 to 255, each when the transmitter is empty, then debug-exit with 1. */
export const PRINT_ALL = assemble(
  [0x31, 0xdb], // xor %bx,%bx
  [0xba, 0xfd, 0x03], // 2: mov $0x3fd,%dx
  [0xec, 0xa8, 0x20, 0x74, 0xfb], // 5: in %dx,%al; test $0x20,%al; jz 5
  [0xba, 0xf8, 0x03], // mov $0x3f8,%dx
  [0x88, 0xd8, 0xee], // mov %bl,%al; out %al,%dx
  [0xfe, 0xc3, 0x75, 0xee], // inc %bl; jnz 2
  exitWith(1),
);

/** The same without an end. */
export const PRINT_FOREVER = PRINT_ALL.map((byte, i) => (i === 18 ? 0xeb : byte));

/** Prints `text`, of some hundred bytes at most, and halts for good. */
export function printText(text: string): Uint8Array {
  const bytes = Buffer.from(text, 'latin1');
  return assemble(
    [0xe8, 0x00, 0x00, 0x5e], // 0: call 3; pop %si
    [0x83, 0xc6, 0x11], // add $17,%si: 20, wherever that is
    [0xb9, bytes.length & 0xff, bytes.length >> 8], // mov $length,%cx
    [0xba, 0xf8, 0x03], // mov $0x3f8,%dx
    [0x2e, 0xac, 0xee, 0xe2, 0xfb], // 13: cs lods %al; out %al,%dx; loop 13
    [...HALT],
    [...bytes], // 20:
  );
}

/** Sends back what it receives until a `q` comes: then debug-exit with 5. */
export const ECHO = assemble(
  [0xba, 0xfd, 0x03], // 0: mov $0x3fd,%dx
  [0xec, 0xa8, 0x01, 0x74, 0xfb], // 3: in %dx,%al; test $1,%al; jz 3
  [0xba, 0xf8, 0x03, 0xec], // mov $0x3f8,%dx; in %dx,%al
  [0x3c, 0x71, 0x74, 0x03], // cmp $'q',%al; je 19
  [0xee, 0xeb, 0xed], // out %al,%dx; jmp 0
  exitWith(5),
);
