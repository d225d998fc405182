// The registers in which the boot processor starts, as plain data, with the GDT and page tables that they point to.
// Intel SDM vol. 3A §3.4 (segments), §4.5 (4-level paging), §9.1 (state after reset).
import { BOOT_GDT, BOOT_IDT, BOOT_PML4, BOOT_STACK, PAGE_SIZE } from '../memory/layout.js';
import {
  REGISTERS,
  type BootRegs,
  type BootSregs,
  type BootState,
  type FlatMode,
  type Segment,
} from './boot-registers.js';
import type { Blame, Placement } from './placement.js';

export type { BootRegs, BootSregs, BootState, Segment } from './boot-registers.js';

/** What a loader decides about the registers. */
export interface Entry {
  readonly mode: FlatMode;
  /** Where to start: a GPA, for real mode below 1 MiB. */
  readonly entry: number;
  /** Stack top: a GPA below 64 KiB for real mode. Default: the boot stack. */
  readonly stack?: number;
  /** Real mode: the paragraph in CS, DS and ES; the offset into it is in RIP. Default 0. */
  readonly paragraph?: number;
  /** Registers that the protocol wants set. */
  readonly regs?: Partial<BootRegs>;
}

/** The state for an entry, as pure data: memory is set up by `placeBootTables`. */
export function bootState({ mode, entry, stack = BOOT_STACK, paragraph = 0, regs = {} }: Entry): BootState {
  return {
    mode,
    regs: { ...CLEARED, rip: BigInt(entry - paragraph * 16), rsp: BigInt(stack), ...regs },
    sregs: SREGS[mode](paragraph),
  };
}

/** Puts the GDT, and for long mode the page tables, where `bootState` says they are. */
export function placeBootTables(placement: Placement, mode: FlatMode, blame: Blame): void {
  if (mode === 'real') return;
  placement.add('boot GDT', BOOT_GDT, bootGdt(mode), blame);
  placement.add('boot stack', BOOT_STACK - STACK_SIZE, undefined, blame, STACK_SIZE);
  if (mode === 'long') placement.add('boot page tables', BOOT_PML4, identityMap(BOOT_PML4), blame);
}

/** Bytes kept for the boot stack; kernels change to their own within a few instructions. */
const STACK_SIZE = 0x800;

const CR0_PE = 1n << 0n;
const CR0_ET = 1n << 4n;
const CR0_NE = 1n << 5n;
const CR0_PG = 1n << 31n;
const CR4_PAE = 1n << 5n;
const EFER_LME = 1n << 8n;
const EFER_LMA = 1n << 10n;
/** Bit 1 always reads as 1; interrupts are off. */
const RFLAGS_FIXED = 2n;

const CLEARED = {
  ...(Object.fromEntries(REGISTERS.map((name) => [name, 0n])) as BootRegs),
  rflags: RFLAGS_FIXED,
};

// Linux asks for the flat code segment at selector 0x10 and the data segment at 0x18 (boot.rst, 32- and 64-bit entry).
const CODE_SELECTOR = 0x10;
const DATA_SELECTOR = 0x18;

const FLAT = { base: 0n, limit: 0xffff_ffff, present: 1, dpl: 0, s: 1, g: 1, avl: 0, unusable: 0 } as const;
/** Code, execute/read, accessed. */
const CODE32: Segment = { ...FLAT, selector: CODE_SELECTOR, type: 0xb, db: 1, l: 0 };
const CODE64: Segment = { ...CODE32, db: 0, l: 1 };
/** Data, read/write, accessed. */
const DATA: Segment = { ...FLAT, selector: DATA_SELECTOR, type: 0x3, db: 1, l: 0 };

const REAL = { limit: 0xffff, present: 1, dpl: 0, db: 0, s: 1, l: 0, g: 0, avl: 0, unusable: 0 } as const;
/** A busy TSS that no guest uses: VMX refuses to enter without one (SDM vol. 3C §26.3.1.2). */
const TASK: Segment = { ...REAL, base: 0n, limit: 0x67, selector: 0, type: 0xb, s: 0 };
const NO_LDT: Segment = { ...REAL, base: 0n, selector: 0, type: 0x2, s: 0 };

const DATA_SEGMENTS = { ds: DATA, es: DATA, fs: DATA, gs: DATA, ss: DATA, tr: TASK, ldt: NO_LDT };
const DESCRIPTOR_TABLES = {
  gdt: { base: BigInt(BOOT_GDT), limit: 4 * 8 - 1 },
  // No vector is there: an exception before the guest has its own table is a triple fault, and reported as one.
  idt: { base: BigInt(BOOT_IDT), limit: 0 },
};

const SREGS: Readonly<Record<FlatMode, (paragraph: number) => BootSregs>> = {
  real: (paragraph) => {
    const data = realSegment(paragraph, 0x3);
    const zero = realSegment(0, 0x3);
    return {
      cs: realSegment(paragraph, 0xb),
      ds: data,
      es: data,
      fs: zero,
      gs: zero,
      ss: zero,
      tr: TASK,
      ldt: NO_LDT,
      gdt: { base: 0n, limit: 0xffff },
      idt: { base: 0n, limit: 0x3ff },
      cr0: CR0_ET,
      cr3: 0n,
      cr4: 0n,
      efer: 0n,
    };
  },
  protected: () => ({
    cs: CODE32,
    ...DATA_SEGMENTS,
    ...DESCRIPTOR_TABLES,
    cr0: CR0_PE | CR0_ET | CR0_NE,
    cr3: 0n,
    cr4: 0n,
    efer: 0n,
  }),
  long: () => ({
    cs: CODE64,
    ...DATA_SEGMENTS,
    ...DESCRIPTOR_TABLES,
    cr0: CR0_PE | CR0_ET | CR0_NE | CR0_PG,
    cr3: BigInt(BOOT_PML4),
    cr4: CR4_PAE,
    efer: EFER_LME | EFER_LMA,
  }),
};

function realSegment(paragraph: number, type: number): Segment {
  return { ...REAL, base: BigInt(paragraph * 16), selector: paragraph, type };
}

/** The table at BOOT_GDT: flat code and data for `mode`. */
export function bootGdt(mode: FlatMode): Uint8Array {
  const table = new BigUint64Array([0n, 0n, descriptor(mode === 'long' ? CODE64 : CODE32), descriptor(DATA)]);
  return new Uint8Array(table.buffer);
}

/** A segment as the eight bytes of its descriptor (SDM vol. 3A §3.4.5). */
function descriptor({ base, limit, type, s, dpl, present, avl, l, db, g }: Segment): bigint {
  const units = BigInt(g ? limit >>> 12 : limit);
  const access = BigInt(type | (s << 4) | (dpl << 5) | (present << 7));
  const flags = BigInt(avl | (l << 1) | (db << 2) | (g << 3));
  return (
    (units & 0xffffn) |
    ((base & 0xff_ffffn) << 16n) |
    (access << 40n) |
    ((units >> 16n) << 48n) |
    (flags << 52n) |
    ((base >> 24n) << 56n)
  );
}

/** PML4, PDPT and four page directories that map the first 4 GiB to themselves with 2 MiB pages. */
function identityMap(at: number): Uint8Array {
  const PRESENT_WRITABLE = 0x3;
  const LARGE_PAGE = 0x80;
  const DIRECTORIES = 4;
  const ENTRIES = PAGE_SIZE / 8;
  const tables = new BigUint64Array((2 + DIRECTORIES) * ENTRIES);
  tables[0] = BigInt((at + PAGE_SIZE) | PRESENT_WRITABLE);
  for (let i = 0; i < DIRECTORIES; i++) tables[ENTRIES + i] = BigInt((at + (2 + i) * PAGE_SIZE) | PRESENT_WRITABLE);
  for (let i = 0; i < DIRECTORIES * ENTRIES; i++)
    tables[2 * ENTRIES + i] = BigInt(i * 0x20_0000) | BigInt(PRESENT_WRITABLE | LARGE_PAGE);
  return new Uint8Array(tables.buffer);
}
