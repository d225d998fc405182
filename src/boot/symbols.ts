// A kernel's symbols, for reports: from the ELF file's own table, or from a System.map. Read only when somebody asks.
// System V ABI, "Symbol Table" and "Sections"; nm(1) for System.map.
import { ELF_MAGIC } from './elf.js';
import { BootError } from './errors.js';
import { ImageFile, type FileSource } from './image-file.js';

export interface SymbolTable {
  /** `name+0x12` of the last symbol at or before `address`; undefined when it lies in none. */
  nameOf(address: bigint): string | undefined;
  readonly size: number;
}

interface Symbol {
  readonly address: bigint;
  readonly name: string;
}

/** How a segment's physical addresses become those it was linked for, for a kernel that has no page tables yet. */
interface Shift {
  readonly paddr: bigint;
  readonly vaddr: bigint;
  readonly size: bigint;
}

const SHT_SYMTAB = 2;
const SHF_EXECINSTR = 4n;
const PT_LOAD = 1;
const STT_FUNC = 2;
const STT_NOTYPE = 0;
const SYMBOL_BYTES = 24;
const SECTION_BYTES = 64;
const SEGMENT_BYTES = 56;
/** More than any kernel has; what is beyond is not read. */
const SYMBOLS_MAX = 1_000_000;
const STRINGS_MAX = 64 << 20;
const SECTIONS_MAX = 4096;
const SEGMENTS_MAX = 512;
/** Farther from its symbol an address is in none of them. */
const REACH = 1n << 20n;

/**
 * @returns undefined when the file has no symbols, or is of a kind that is not known here
 * @throws BootError when it cannot be read, or is cut off
 */
export function readSymbols(source: FileSource): SymbolTable | undefined {
  using file = ImageFile.open(source, 'kernel');
  const start = file.readStart(64);
  if (ELF_MAGIC.every((byte, i) => start[i] === byte)) return start[4] === 2 ? elfSymbols(file) : undefined;
  return /^[0-9a-f]{16} \S /.test(Buffer.from(start).toString('latin1')) ? systemMap(file) : undefined;
}

function elfSymbols(file: ImageFile): SymbolTable | undefined {
  const header = viewOf(file.read(0, 64, 'e_ident'));
  const sections = tableOf(
    file,
    header.getBigUint64(40, true),
    header.getUint16(60, true),
    SECTION_BYTES,
    SECTIONS_MAX,
  );
  const symtab = sections.find((section) => section.getUint32(4, true) === SHT_SYMTAB);
  const strtab = symtab && sections[symtab.getUint32(40, true)];
  if (symtab === undefined || strtab === undefined) return undefined;
  const isCode = sections.map((section) => (section.getBigUint64(8, true) & SHF_EXECINSTR) !== 0n);
  const count = Math.min(Number(symtab.getBigUint64(32, true)) / SYMBOL_BYTES, SYMBOLS_MAX);
  const rows = viewOf(file.read(offsetOf(symtab), Math.floor(count) * SYMBOL_BYTES, 'symbol table'));
  const strings = Buffer.from(
    file.read(offsetOf(strtab), Math.min(Number(strtab.getBigUint64(32, true)), STRINGS_MAX), 'string table'),
  );
  const symbols: Symbol[] = [];
  for (let at = 0; at + SYMBOL_BYTES <= rows.byteLength; at += SYMBOL_BYTES) {
    const type = rows.getUint8(at + 4) & 0xf;
    const address = rows.getBigUint64(at + 8, true);
    // What lies in no section of code is a constant, or data.
    if ((type !== STT_FUNC && type !== STT_NOTYPE) || !isCode[rows.getUint16(at + 6, true)]) continue;
    const name = rows.getUint32(at, true);
    const end = strings.indexOf(0, name);
    if (name > 0 && end > name) symbols.push({ address, name: strings.toString('latin1', name, end) });
  }
  return symbols.length === 0 ? undefined : table(symbols, shiftsOf(file, header));
}

function shiftsOf(file: ImageFile, header: DataView): Shift[] {
  const segments = tableOf(
    file,
    header.getBigUint64(32, true),
    header.getUint16(56, true),
    SEGMENT_BYTES,
    SEGMENTS_MAX,
  );
  return segments
    .filter((segment) => segment.getUint32(0, true) === PT_LOAD)
    .map((segment) => ({
      vaddr: segment.getBigUint64(16, true),
      paddr: segment.getBigUint64(24, true),
      size: segment.getBigUint64(40, true),
    }));
}

function systemMap(file: ImageFile): SymbolTable | undefined {
  if (file.size > STRINGS_MAX) throw new BootError(file.name, 'size', 'it is too long for a System.map');
  const symbols: Symbol[] = [];
  for (const line of Buffer.from(file.read(0, file.size, 'System.map'))
    .toString('latin1')
    .split('\n')) {
    const [, address, name] = /^([0-9a-f]{16}) [tTwW] (\S+)/.exec(line) ?? [];
    if (address !== undefined && name !== undefined && symbols.length < SYMBOLS_MAX)
      symbols.push({ address: BigInt(`0x${address}`), name });
  }
  return symbols.length === 0 ? undefined : table(symbols, []);
}

function table(unsorted: readonly Symbol[], shifts: readonly Shift[]): SymbolTable {
  const symbols = unsorted.toSorted((a, b) => (a.address < b.address ? -1 : a.address > b.address ? 1 : 0));
  const find = (address: bigint): string | undefined => {
    let low = 0;
    let high = symbols.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((symbols[middle] as Symbol).address <= address) low = middle + 1;
      else high = middle;
    }
    const symbol = symbols[low - 1];
    if (symbol === undefined || address - symbol.address > REACH) return undefined;
    return `${symbol.name}+0x${(address - symbol.address).toString(16)}`;
  };
  return {
    size: symbols.length,
    nameOf(address) {
      const shift = shifts.find(({ paddr, size }) => address >= paddr && address < paddr + size);
      return find(address) ?? (shift && find(address - shift.paddr + shift.vaddr));
    },
  };
}

function tableOf(file: ImageFile, offset: bigint, count: number, bytes: number, most: number): DataView[] {
  if (count === 0 || count > most) return [];
  const all = file.read(Number(offset), count * bytes, 'section or program headers');
  return Array.from({ length: count }, (_, index) => viewOf(all.subarray(index * bytes, (index + 1) * bytes)));
}

function offsetOf(section: DataView): number {
  return Number(section.getBigUint64(24, true));
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
