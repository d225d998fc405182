// The assist's decoder against a full disassembler: same length, same address, for any operand encoding.
// Intel SDM vol. 2A §2.1, §2.2.1.
import * as fc from 'fast-check';
import { Decoder, DecoderOptions, Register, type Instruction } from 'iced-x86';
import { describe, expect, it } from 'vitest';
import { decode } from '../../../src/vcpu/assist/decode.js';
import { INSTRUCTIONS, layoutOf } from '../../../src/vcpu/assist/instructions.js';
import { linearAddress } from '../../../src/vcpu/assist/operand.js';
import { stepRow } from '../../../src/vcpu/assist/step-over.js';
import { suggestionFor } from '../../../src/vcpu/assist/unassisted.js';

const RIP = 0xffff_ffff_8100_1000n;
const SEGMENT_BASES: Readonly<Record<string, bigint>> = { fs: 0x7f12_3456_7000n, gs: 0xffff_8880_0010_0000n };
const general = (number: number): bigint => BigInt.asUintN(64, 0x0123_4567_89ab_cdefn * BigInt(number + 3));

/** The disassembler's enumeration as plain numbers, which can be counted through. */
const code = (register: Register): number => register;

/** First of sixteen registers of one width → the width. */
const WIDTHS: ReadonlyMap<number, number> = new Map([
  [code(Register.RAX), 64],
  [code(Register.EAX), 32],
  [code(Register.AX), 16],
]);
const NONE = code(Register.None);

/** Number in encodings, and width, of the disassembler's register. */
function describeRegister(register: number): { readonly number: number; readonly width: number } {
  for (const [first, width] of WIDTHS)
    if (register >= first && register < first + 16) return { number: register - first, width };
  throw new Error(`register ${register}`);
}

const numberOf = (register: number): number => describeRegister(register).number;

describe('decode', () => {
  it('finds length, registers and linear address of any popcnt, as a full disassembler does', () => {
    const prefix = fc.constantFrom(0x66, 0x67, 0x64, 0x65, 0x2e, 0x3e, 0x26, 0x36);
    const instruction = fc.record({
      codeBits: fc.constantFrom(64, 32, 16),
      prefixes: fc.uniqueArray(prefix, { maxLength: 3 }),
      rex: fc.option(fc.integer({ min: 0x40, max: 0x4f })),
      tail: fc.uint8Array({ minLength: 6, maxLength: 6 }),
    });
    fc.assert(
      fc.property(instruction, ({ codeBits, prefixes, rex, tail }) => {
        const rexBytes = codeBits === 64 && rex !== null ? [rex] : [];
        const bytes = Uint8Array.from([...prefixes, 0xf3, ...rexBytes, 0x0f, 0xb8, ...tail]);
        const rip = codeBits === 64 ? RIP : 0x1000n;
        const reference = new Decoder(codeBits, bytes, DecoderOptions.None);
        reference.ip = rip;
        const wanted = reference.decode();
        const found = decode(bytes, codeBits, layoutOf);
        expect(found?.length).toBe(wanted.length);
        if (found === undefined) return;
        expect(found.reg).toBe(numberOf(wanted.op0Register));
        if (found.memory === undefined) expect(found.rm).toBe(numberOf(wanted.op1Register));
        const registers = { rip, codeBits, general, segmentBase: (name: string) => SEGMENT_BASES[name] ?? 0n };
        expect(linearAddress(found, registers)).toBe(found.memory && addressOf(wanted, codeBits));
        wanted.free();
        reference.free();
      }),
      { numRuns: 2000 },
    );
  });

  it('is silent about bytes that end within the instruction', () => {
    for (const { opcode } of INSTRUCTIONS.filter((row) => row.hasModrm)) {
      const bytes = Uint8Array.of(0x0f, opcode & 0xff, 0x84);
      expect(decode(bytes, 64, layoutOf)).toBeUndefined();
    }
    expect(decode(new Uint8Array(), 64, layoutOf)).toBeUndefined();
    expect(decode(Uint8Array.of(0x66, 0x66, 0x66), 64, layoutOf)).toBeUndefined();
  });
});

function addressOf(instruction: Instruction, codeBits: number): bigint {
  const [base, index] = [code(instruction.memoryBase), code(instruction.memoryIndex)];
  const named = [base, index].filter((register) => register !== NONE);
  let effective = instruction.memoryDisplacement;
  let bits = instruction.memoryDisplSize * 8;
  if (instruction.isIpRelMemoryOperand) bits = base === code(Register.EIP) ? 32 : 64;
  else {
    for (const register of named) bits = describeRegister(register).width;
    if (base !== NONE) effective += general(numberOf(base));
    if (index !== NONE) effective += general(numberOf(index)) * BigInt(instruction.memoryIndexScale);
  }
  const segment = new Map([
    [code(Register.FS), 'fs'],
    [code(Register.GS), 'gs'],
  ]).get(code(instruction.memorySegment));
  const segmentBase = segment === undefined ? 0n : (SEGMENT_BASES[segment] ?? 0n);
  return BigInt.asUintN(codeBits === 64 ? 64 : 32, BigInt.asUintN(bits, effective) + segmentBase);
}

describe('suggestionFor', () => {
  it.each([
    ['xsave (%rsi)', [0x0f, 0xae, 0x26], 'clearcpuid=xsave'],
    ['xrstor (%rsi)', [0x0f, 0xae, 0x2e], 'clearcpuid=xsave'],
    ['xsaves (%rsi)', [0x0f, 0xc7, 0x2e], 'clearcpuid=xsave'],
    ['xgetbv', [0x0f, 0x01, 0xd0], 'clearcpuid=xsave'],
    ['rdtscp', [0x0f, 0x01, 0xf9], 'clearcpuid=rdtscp'],
    ['verw %si', [0x0f, 0x00, 0xee], 'mitigations=off'],
    ['invpcid (%rsi),%rcx', [0x66, 0x0f, 0x38, 0x82, 0x0e], 'clearcpuid=invpcid'],
    ['crc32 %rbx,%rax', [0xf2, 0x48, 0x0f, 0x38, 0xf1, 0xc3], 'clearcpuid=sse4_2'],
    ['vpxor', [0xc5, 0xf9, 0xef, 0xc0], 'clearcpuid=xsave'],
  ])('%s', (_name, bytes, option) => {
    expect(suggestionFor(Uint8Array.from(bytes), 64)).toContain(option);
  });

  it.each([
    ['pxor', [0x66, 0x0f, 0xef, 0xc0]],
    ['mfence', [0x0f, 0xae, 0xf0]],
    ['nothing', []],
  ])('none for %s', (_name, bytes) => {
    expect(suggestionFor(Uint8Array.from(bytes), 64)).toBeUndefined();
  });
});

describe('stepRow', () => {
  it('lengths are those of a full disassembler', () => {
    for (const bytes of [
      [0xf3, 0x0f, 0x1e, 0xfa],
      [0x0f, 0x01, 0xca],
      [0x90],
      [0x66, 0x90],
      [0x0f, 0x1f, 0x00],
      [0x0f, 0x1f, 0x40, 0x00],
      [0x0f, 0x1f, 0x44, 0x00, 0x00],
      [0x66, 0x0f, 0x1f, 0x44, 0x00, 0x00],
      [0x0f, 0x1f, 0x80, 0, 0, 0, 0],
      [0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0],
      [0xfc],
      [0xfa],
    ]) {
      const padded = Uint8Array.from([...bytes, 0xcc, 0xcc, 0xcc]);
      const decoder = new Decoder(64, padded, DecoderOptions.None);
      expect(stepRow(new DataView(padded.buffer).getUint32(0, true))?.length).toBe(decoder.decode().length);
    }
  });

  it('has no row for an instruction with other effects', () => {
    for (const first of [0x50, 0xe8, 0xcc, 0x0f05]) expect(stepRow(first)).toBeUndefined();
  });
});
