// What is said about an instruction that neither KVM nor the assist can perform: bytes, disassembly, what may help.
// Linux Documentation/admin-guide/kernel-parameters.txt (clearcpuid=, mitigations=).
import { disassemble, hex, hexBytes } from '../disassemble.js';
import { decode, type DecodedInstruction } from './decode.js';

/** Plain data for reports. */
export interface UnassistedInstruction {
  readonly rip: string;
  readonly cpl: number;
  readonly bytes: string;
  readonly text: string;
  /** What to put on a Linux guest's command line, and why, where the table has a row. */
  readonly suggestion?: string;
}

interface SuggestionRow {
  readonly opcodes: readonly number[];
  readonly matches: (instruction: DecodedInstruction) => boolean;
  readonly option: string;
  readonly why: string;
}

const slash = ({ modrm }: DecodedInstruction): number => (modrm >> 3) & 7;

/** For three-byte opcodes the decoder's ModRM is the third opcode byte. */
const SUGGESTIONS: readonly SuggestionRow[] = [
  {
    opcodes: [0x0fae],
    matches: (i) => i.memory !== undefined && !i.hasOperandSizePrefix && slash(i) >= 4 && slash(i) <= 6,
    option: 'clearcpuid=xsave',
    why: 'the kernel then saves the FPU with fxsave, which KVM has',
  },
  {
    opcodes: [0x0fc7],
    matches: (i) => i.memory !== undefined && slash(i) >= 3 && slash(i) <= 5,
    option: 'clearcpuid=xsave',
    why: 'the kernel then saves the FPU with fxsave, which KVM has',
  },
  {
    opcodes: [0x0f01],
    matches: ({ modrm }) => modrm === 0xd0 || modrm === 0xd1,
    option: 'clearcpuid=xsave',
    why: 'XCR0 exists only with XSAVE',
  },
  { opcodes: [0x0f01], matches: ({ modrm }) => modrm === 0xf9, option: 'clearcpuid=rdtscp', why: 'rdtsc works' },
  {
    opcodes: [0x0f00],
    matches: (i) => slash(i) === 5,
    option: 'mitigations=off',
    why: 'verw is there only to clear processor buffers',
  },
  {
    opcodes: [0x0f38],
    matches: ({ modrm }) => modrm === 0x82,
    option: 'clearcpuid=invpcid',
    why: 'the kernel then flushes the TLB by CR3 and CR4',
  },
  {
    opcodes: [0x0f38],
    matches: ({ modrm, repeat }) => (modrm === 0xf0 || modrm === 0xf1) && repeat === 0xf2,
    option: 'clearcpuid=sse4_2',
    why: 'the kernel then computes CRC32C by table',
  },
  {
    opcodes: [0x0f38],
    matches: ({ modrm }) => modrm >= 0xc8 && modrm <= 0xcd,
    option: 'clearcpuid=sha_ni',
    why: 'the kernel then hashes without the SHA instructions',
  },
  {
    opcodes: [0x0f3a],
    matches: ({ modrm }) => modrm === 0x44,
    option: 'clearcpuid=pclmulqdq',
    why: 'the kernel then computes CRCs by table',
  },
  {
    opcodes: [0xc4, 0xc5, 0x62],
    matches: () => true,
    option: 'clearcpuid=xsave',
    why: 'AVX and BMI code in the kernel is chosen only where XSAVE is there',
  },
];

/** The command-line option that keeps a Linux guest away from this instruction, with the reason. */
export function suggestionFor(bytes: Uint8Array, codeBits: 16 | 32 | 64): string | undefined {
  // With zeros behind them: of a three-byte opcode the decoder takes the third byte for a ModRM that wants more.
  const padded = new Uint8Array(bytes.length + 8);
  padded.set(bytes);
  const instruction = decode(padded, codeBits, (opcode) =>
    SUGGESTIONS.some((row) => row.opcodes.includes(opcode)) ? { hasModrm: true, immediate: 0 } : undefined,
  );
  const row =
    instruction &&
    SUGGESTIONS.find(({ opcodes, matches }) => opcodes.includes(instruction.opcode) && matches(instruction));
  return row && `${row.option} on the kernel's command line: ${row.why}`;
}

export function describeUnassisted(
  bytes: Uint8Array,
  at: { readonly rip: bigint; readonly cpl: number; readonly codeBits: 16 | 32 | 64 },
): UnassistedInstruction {
  const [first] = disassemble(bytes, at.codeBits, at.rip, 1);
  const suggestion = suggestionFor(bytes, at.codeBits);
  return {
    rip: hex(at.rip),
    cpl: at.cpl,
    bytes: first?.bytes ?? hexBytes(bytes),
    text: first?.text ?? '(no bytes)',
    ...(suggestion === undefined ? {} : { suggestion }),
  };
}
