// Instructions as text, for reports. The disassembler is loaded at the first use: a run that needs no report has no
// part of it in memory. AT&T syntax, as in the kernel's own oops messages, objdump and the lessons' sources.
import { createRequire } from 'node:module';
import type * as Iced from 'iced-x86';

export interface DisassembledInstruction {
  /** RIP of the instruction as a hexadecimal number. */
  readonly address: string;
  /** Its bytes, two digits each. */
  readonly bytes: string;
  readonly text: string;
}

/**
 * Disassembles `bytes` from their start.
 * @param rip where the first byte lies
 * @param limit at most this many instructions; an instruction that the bytes cut off is `(bad)`
 */
export function disassemble(
  bytes: Uint8Array,
  codeBits: 16 | 32 | 64,
  rip: bigint,
  limit = Infinity,
): DisassembledInstruction[] {
  const { Decoder, DecoderOptions, Formatter, FormatterSyntax } = createRequire(import.meta.url)(
    'iced-x86',
  ) as typeof Iced;
  const decoder = new Decoder(codeBits, bytes, DecoderOptions.None);
  const formatter = new Formatter(FormatterSyntax.Gas);
  const rows: DisassembledInstruction[] = [];
  try {
    decoder.ip = rip;
    while (decoder.canDecode && rows.length < limit) {
      const start = decoder.position;
      const instruction = decoder.decode();
      rows.push({
        address: hex(instruction.ip),
        bytes: hexBytes(bytes.subarray(start, decoder.position)),
        text: formatter.format(instruction),
      });
      instruction.free();
    }
  } finally {
    formatter.free();
    decoder.free();
  }
  return rows;
}

export function hex(value: number | bigint): string {
  return `0x${value.toString(16)}`;
}

/** `0f 05`: two digits a byte, separated by spaces. */
export function hexBytes(bytes: Iterable<number>): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join(' ');
}
