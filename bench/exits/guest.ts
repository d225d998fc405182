// The guest of the exit benchmark as bytes: assembled from guest.S, and the mailbox by which a VMM tells it what to do.
// The addresses are those of guest.S, whose comments say what each is.
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

export const GUEST = {
  /** RAM from GPA 0; what lies above is nobody's, or a device's. */
  ramBytes: 0xa_0000,
  entry: 0x1000,
  mailbox: { count: 0x500, op: 0x504, mode: 0x508, stamped: 0x50c },
  stamps: 0x2_0000,
  mostStamps: 16_384,
  port: 0xe9,
  endPort: 0xf4,
  mmio: 0xfeb0_0000,
  realMmio: 0xd_0000,
  /** Offset of the register that is written; the one at 0 is read. */
  written: 0x14,
  filteredMsr: 0x1b0,
  irqVector: 0x30,
} as const;

/** Numbers of the loops. */
export const OP = {
  portWrite: 0,
  portRead: 1,
  repOuts: 2,
  mmioWrite: 3,
  mmioRead: 4,
  cpuid: 5,
  rdmsr: 6,
  waitHalted: 7,
  waitSpinning: 8,
  timer: 9,
  spin: 10,
  portWrites: 11,
  mmioWrites: 12,
} as const;

export const MODE = { real: 0, protected: 1, long: 2, user: 3 } as const;

/** @throws Error with the assembler's words; GNU binutils are needed */
export function assembleGuest(): Uint8Array {
  const source = fileURLToPath(new URL('../../../bench/exits/guest.S', import.meta.url));
  const work = mkdtempSync(join(tmpdir(), 'microvisor-bench-'));
  try {
    const object = join(work, 'guest.o');
    const binary = join(work, 'guest.bin');
    execFileSync('as', ['--64', '-mx86-used-note=no', '-o', object, source]);
    const origin = `-Ttext=0x${GUEST.entry.toString(16)}`;
    execFileSync('ld', ['-m', 'elf_x86_64', '--oformat', 'binary', origin, '-e', 'start', '-o', binary, object]);
    return readFileSync(binary);
  } finally {
    rmSync(work, { recursive: true });
  }
}

export interface Mailbox {
  readonly count: number;
  readonly op: number;
  readonly mode: number;
  readonly stamped: boolean;
}

const ROM_BYTES = 0x1_0000;
const ROM_STUB = 0xff00;
const ROM_RESET = 0xfff0;

/**
 * The guest as firmware, for a VMM that starts at the reset vector: copies itself to where it belongs, mailbox filled in.
 * SDM vol. 3A §9.1.4 (first instruction).
 */
export function firmwareOf(image: Uint8Array, { count, op, mode, stamped }: Mailbox): Uint8Array {
  const from = GUEST.mailbox.count;
  const rom = new Uint8Array(ROM_BYTES);
  const view = new DataView(rom.buffer);
  for (const [at, value] of [
    [GUEST.mailbox.count, count],
    [GUEST.mailbox.op, op],
    [GUEST.mailbox.mode, mode],
    [GUEST.mailbox.stamped, stamped ? 1 : 0],
  ] as const)
    view.setUint32(at - from, value, true);
  rom.set(image, GUEST.entry - from);
  const bytes = GUEST.entry - from + image.length;
  const word = (value: number): number[] => [value & 0xff, value >> 8];
  const code = [
    [0xfa, 0xfc], // cli; cld
    [0x8c, 0xc8, 0x8e, 0xd8], // mov ax, cs; mov ds, ax
    [0x31, 0xc0, 0x8e, 0xc0], // xor ax, ax; mov es, ax
    [0x31, 0xf6], // xor si, si
    [0xbf, ...word(from)], // mov di, from
    [0xb9, ...word(bytes)], // mov cx, bytes
    [0xf3, 0xa4], // rep movsb
    [0xea, ...word(GUEST.entry), 0, 0], // jmp 0:entry
  ];
  rom.set(code.flat(), ROM_STUB);
  rom.set([0xea, ...word(ROM_STUB), ...word(0xf000)], ROM_RESET);
  return rom;
}
