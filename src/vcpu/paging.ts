// Page walks: from a linear address to a GPA, with every step, for reports, the assist and the debugger.
// Intel SDM vol. 3A §4.3 (32-bit paging), §4.4 (PAE), §4.5 (4-level and 5-level paging).
import type { GuestMemory } from '../memory/guest-memory.js';
import { PAGE_SIZE } from '../memory/layout.js';

/** The registers that decide how a linear address is translated. `Sregs` has them all. */
export interface PagingRegisters {
  readonly cr0: bigint;
  readonly cr3: bigint;
  readonly cr4: bigint;
  readonly efer: bigint;
}

export type PagingMode = 'none' | '32-bit' | 'PAE' | '4-level' | '5-level';

/** One entry that the walk read. */
export interface WalkStep {
  /** The SDM's name of the entry: PML5E, PML4E, PDPTE, PDE or PTE. */
  readonly name: string;
  /** GPA of the entry. */
  readonly entryGpa: number;
  readonly entry: bigint;
}

export interface Walk {
  readonly mode: PagingMode;
  readonly linear: bigint;
  readonly steps: readonly WalkStep[];
  /** Undefined when the address is mapped; else why it is not. */
  readonly fault?: 'not canonical' | 'not present' | 'entry outside RAM';
  /** The translation; undefined when there is a fault. */
  readonly gpa?: number;
  /** Size of the page in bytes; with paging off that of a 4 KiB page. */
  readonly pageSize: number;
  /** R/W, U/S and NX, all levels taken together. Meaningless when there is a fault. */
  readonly writeable: boolean;
  readonly user: boolean;
  readonly executable: boolean;
}

const CR0_PG = 1n << 31n;
const CR4_PSE = 1n << 4n;
const CR4_PAE = 1n << 5n;
const CR4_LA57 = 1n << 12n;
const EFER_LMA = 1n << 10n;
const EFER_NXE = 1n << 11n;

const PRESENT = 1n << 0n;
const WRITEABLE = 1n << 1n;
const USER = 1n << 2n;
const PAGE_SIZE_BIT = 1n << 7n;
const NO_EXECUTE = 1n << 63n;
/** Bits 51:12 of an entry: the frame of the next table or of the page. */
const FRAME = 0xf_ffff_ffff_f000n;

interface Level {
  readonly name: string;
  /** Lowest bit of the linear address that indexes this table; a page mapped here has this many offset bits. */
  readonly shift: bigint;
  readonly indexBits: bigint;
  /** Whether bit 7 makes the entry map a page. */
  readonly mayMap: boolean;
  /** PAE's PDPTEs have no R/W, U/S or NX bit. */
  readonly hasRights: boolean;
}

const LONG_LEVELS: readonly Level[] = [
  { name: 'PML5E', shift: 48n, indexBits: 9n, mayMap: false, hasRights: true },
  { name: 'PML4E', shift: 39n, indexBits: 9n, mayMap: false, hasRights: true },
  { name: 'PDPTE', shift: 30n, indexBits: 9n, mayMap: true, hasRights: true },
  { name: 'PDE', shift: 21n, indexBits: 9n, mayMap: true, hasRights: true },
  { name: 'PTE', shift: 12n, indexBits: 9n, mayMap: false, hasRights: true },
];

/** By mode: bytes of an entry, the levels from the top, and the bits of CR3 that hold the top table's address. */
const MODES: Readonly<
  Record<Exclude<PagingMode, 'none'>, { entryBytes: 4 | 8; levels: readonly Level[]; root: bigint; bits: bigint }>
> = {
  '32-bit': {
    entryBytes: 4,
    root: 0xffff_f000n,
    bits: 32n,
    levels: [
      { name: 'PDE', shift: 22n, indexBits: 10n, mayMap: true, hasRights: true },
      { name: 'PTE', shift: 12n, indexBits: 10n, mayMap: false, hasRights: true },
    ],
  },
  PAE: {
    entryBytes: 8,
    root: 0xffff_ffe0n,
    bits: 32n,
    levels: [
      { name: 'PDPTE', shift: 30n, indexBits: 2n, mayMap: false, hasRights: false },
      { name: 'PDE', shift: 21n, indexBits: 9n, mayMap: true, hasRights: true },
      { name: 'PTE', shift: 12n, indexBits: 9n, mayMap: false, hasRights: true },
    ],
  },
  '4-level': { entryBytes: 8, root: FRAME, bits: 48n, levels: LONG_LEVELS.slice(1) },
  '5-level': { entryBytes: 8, root: FRAME, bits: 57n, levels: LONG_LEVELS },
};

export function pagingMode({ cr0, cr4, efer }: PagingRegisters): PagingMode {
  if ((cr0 & CR0_PG) === 0n) return 'none';
  if ((efer & EFER_LMA) !== 0n) return (cr4 & CR4_LA57) === 0n ? '4-level' : '5-level';
  return (cr4 & CR4_PAE) === 0n ? '32-bit' : 'PAE';
}

/** Walks the guest's page tables in memory as they are now; the processor may hold older translations in its TLB. */
export function walk(memory: GuestMemory, registers: PagingRegisters, linear: bigint): Walk {
  const mode = pagingMode(registers);
  const steps: WalkStep[] = [];
  const rights = { writeable: true, user: true, executable: true };
  if (mode === 'none')
    return { mode, linear, steps, gpa: Number(linear & 0xffff_ffffn), pageSize: PAGE_SIZE, ...rights };
  const { entryBytes, levels, root, bits } = MODES[mode];
  const failed = (fault: NonNullable<Walk['fault']>): Walk => ({ mode, linear, steps, fault, pageSize: 0, ...rights });
  if (bits > 32n && BigInt.asIntN(Number(bits), linear) !== BigInt.asIntN(64, linear)) return failed('not canonical');
  const address = bits === 32n ? linear & 0xffff_ffffn : linear;
  const pse = mode !== '32-bit' || (registers.cr4 & CR4_PSE) !== 0n;
  const nxe = (registers.efer & EFER_NXE) !== 0n;
  let table = registers.cr3 & root;
  for (const { name, shift, indexBits, mayMap, hasRights } of levels) {
    const index = (address >> shift) & ((1n << indexBits) - 1n);
    const entryGpa = Number(table) + Number(index) * entryBytes;
    if (!memory.contains(entryGpa, entryBytes)) return failed('entry outside RAM');
    const entry = entryBytes === 8 ? memory.readU64(entryGpa) : BigInt(memory.readU32(entryGpa));
    steps.push({ name, entryGpa, entry });
    if ((entry & PRESENT) === 0n) return failed('not present');
    if (hasRights) {
      rights.writeable &&= (entry & WRITEABLE) !== 0n;
      rights.user &&= (entry & USER) !== 0n;
      rights.executable &&= !nxe || entryBytes === 4 || (entry & NO_EXECUTE) === 0n;
    }
    const isLarge = mayMap && pse && (entry & PAGE_SIZE_BIT) !== 0n;
    if (isLarge || shift === 12n) {
      const offset = (1n << shift) - 1n;
      const frame = isLarge && mode === '32-bit' ? pse36Frame(entry) : entry & FRAME & ~offset;
      return { mode, linear, steps, gpa: Number(frame | (address & offset)), pageSize: 2 ** Number(shift), ...rights };
    }
    table = entry & FRAME;
  }
  return failed('not present');
}

/** PSE-36: bits 20:13 of a 4 MiB page's entry are bits 39:32 of its frame (SDM vol. 3A table 4-4). */
function pse36Frame(entry: bigint): bigint {
  return (entry & 0xffc0_0000n) | (((entry >> 13n) & 0xffn) << 32n);
}

/**
 * The same walk for long mode, without steps, rights and allocations, for paths that run on every exit.
 * @param cr3Low bits 31:0 of CR3, `cr3High` bits 63:32; likewise for the linear address
 * @returns the GPA, or -1 where it is not mapped
 */
export function translateLong(
  memory: GuestMemory,
  isLa57: boolean,
  cr3Low: number,
  cr3High: number,
  low: number,
  high: number,
): number {
  let table = (cr3High & 0xf_ffff) * 0x1_0000_0000 + ((cr3Low & 0xffff_f000) >>> 0);
  for (let level = isLa57 ? 5 : 4; level > 0; level--) {
    const index =
      level === 1
        ? (low >>> 12) & 0x1ff
        : level === 2
          ? (low >>> 21) & 0x1ff
          : level === 3
            ? ((high << 2) | (low >>> 30)) & 0x1ff
            : level === 4
              ? (high >>> 7) & 0x1ff
              : (high >>> 16) & 0x1ff;
    const at = table + index * 8;
    const region = memory.regionOf(at, 8);
    if (region === undefined) return -1;
    const entryLow = region.view.getUint32(at - region.base, true);
    if ((entryLow & 1) === 0) return -1;
    const frameHigh = (region.view.getUint32(at - region.base + 4, true) & 0xf_ffff) * 0x1_0000_0000;
    if (level === 1) return frameHigh + ((entryLow & 0xffff_f000) >>> 0) + (low & 0xfff);
    if ((entryLow & 0x80) !== 0 && level === 2) return frameHigh + ((entryLow & 0xffe0_0000) >>> 0) + (low & 0x1f_ffff);
    if ((entryLow & 0x80) !== 0 && level === 3)
      return frameHigh + ((entryLow & 0xc000_0000) >>> 0) + (low & 0x3fff_ffff);
    table = frameHigh + ((entryLow & 0xffff_f000) >>> 0);
  }
  return -1;
}

/**
 * A copy of up to `length` bytes at a linear address, page by page. Shorter, down to empty, where a page is not mapped
 * or not RAM.
 */
export function readLinear(
  memory: GuestMemory,
  registers: PagingRegisters,
  linear: bigint,
  length: number,
): Uint8Array {
  const bytes = new Uint8Array(length);
  let done = 0;
  while (done < length) {
    const { gpa } = walk(memory, registers, linear + BigInt(done));
    const chunk = Math.min(length - done, PAGE_SIZE - Number((linear + BigInt(done)) & 0xfffn));
    if (gpa === undefined || !memory.contains(gpa, chunk)) break;
    bytes.set(memory.window(gpa, chunk), done);
    done += chunk;
  }
  return bytes.subarray(0, done);
}

/**
 * Copies `bytes` to a linear address, page by page, whatever the pages' rights say.
 * @returns false when not all of it is RAM; then nothing was written
 */
export function writeLinear(
  memory: GuestMemory,
  registers: PagingRegisters,
  linear: bigint,
  bytes: Uint8Array,
): boolean {
  const windows: Uint8Array[] = [];
  for (let done = 0; done < bytes.length;) {
    const { gpa } = walk(memory, registers, linear + BigInt(done));
    const chunk = Math.min(bytes.length - done, PAGE_SIZE - Number((linear + BigInt(done)) & 0xfffn));
    if (gpa === undefined || !memory.contains(gpa, chunk)) return false;
    windows.push(memory.window(gpa, chunk));
    done += chunk;
  }
  let at = 0;
  for (const window of windows) {
    window.set(bytes.subarray(at, at + window.length));
    at += window.length;
  }
  return true;
}
