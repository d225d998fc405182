// Reads an ELF file's headers: entry point, loadable segments and notes, for both classes, little-endian x86.
// System V ABI, "Object Files"; elf(5); XEN_ELFNOTE_PHYS32_ENTRY from Xen's public/elfnote.h.
import { defineStruct, type Fields, type Rows, type Struct } from '../memory/struct.js';
import { BootError, hex } from './errors.js';
import type { ImageFile } from './image-file.js';

/** One PT_LOAD or PT_NOTE row. Numbers beyond 2^53 are rounded, but stay beyond every file and all RAM. */
export interface ElfSegment {
  /** Row in the program header table, for messages. */
  readonly index: number;
  readonly offset: number;
  readonly vaddr: number;
  readonly paddr: number;
  readonly filesz: number;
  readonly memsz: number;
}

export interface ElfNote {
  readonly name: string;
  readonly type: number;
  readonly desc: Uint8Array;
}

export interface ElfImage {
  readonly bits: 32 | 64;
  /** Physical entry point: e_entry, moved from virtual to physical when it names a virtual address of a segment. */
  readonly entry: number;
  /** PT_LOAD rows with a size in memory. */
  readonly segments: readonly ElfSegment[];
  readonly notes: readonly ElfNote[];
}

export const ELF_MAGIC: readonly number[] = [0x7f, 0x45, 0x4c, 0x46];

/** The 32-bit entry point of the PVH boot protocol, when the file has one. */
export function pvhEntry(elf: ElfImage): number | undefined {
  const note = elf.notes.find(({ name, type }) => name === 'Xen' && type === XEN_ELFNOTE_PHYS32_ENTRY);
  if (note === undefined || note.desc.byteLength < 4) return undefined;
  // Four or eight bytes, but a 32-bit address either way.
  return new DataView(note.desc.buffer, note.desc.byteOffset).getUint32(0, true);
}

/** True for Linux, which has signed its kernels with notes of this name since 4.19. */
export function isLinux(elf: ElfImage): boolean {
  return elf.notes.some(({ name }) => name === 'Linux');
}

/** True when a segment's bytes in the file cover `gpa`. */
export function holdsCode(elf: ElfImage, gpa: number): boolean {
  return elf.segments.some(({ paddr, filesz }) => gpa >= paddr && gpa < paddr + filesz);
}

/** @throws BootError for everything that is not a whole x86 executable */
export function readElf(file: ImageFile): ElfImage {
  const elfClass = readClass(file);
  const ehdr = readHeader(file, elfClass);
  const rows = readProgramHeaders(file, elfClass, ehdr);
  const segments = rows.filter(({ type, memsz }) => type === PT_LOAD && memsz > 0);
  if (segments.length === 0)
    throw new BootError(
      file.name,
      'p_type',
      'no program header is PT_LOAD, so there is nothing to load; link an executable',
    );
  const notes = rows.filter(({ type }) => type === PT_NOTE).flatMap((row) => readNotes(file, row));
  return { bits: elfClass.bits, entry: physical(Number(ehdr.e_entry), segments), segments, notes };
}

const XEN_ELFNOTE_PHYS32_ENTRY = 18;
const ELFDATA2LSB = 1;
const EV_CURRENT = 1;
const ET_EXEC = 2;
const ET_DYN = 3;
const EM_386 = 3;
const EM_X86_64 = 62;
const PT_LOAD = 1;
const PT_NOTE = 4;
/** More program headers than any kernel has; a bound for a damaged file. */
const PHNUM_MAX = 512;
/** Bytes of a note segment that are looked at; Linux has a few hundred. */
const NOTES_MAX = 0x1_0000;

const EI_CLASS = 4;
const EI_DATA = 5;
const EI_VERSION = 6;
const EI_NIDENT = 16;

/** What differs between the classes: where the fields lie. */
interface ElfClass {
  readonly bits: 32 | 64;
  readonly ehdr: Struct<Rows>;
  readonly phdr: Struct<Rows>;
}

const CLASSES: Readonly<Record<number, ElfClass>> = {
  1: {
    bits: 32,
    ehdr: defineStruct('Elf32_Ehdr', 52, {
      e_type: [16, 'u16'],
      e_machine: [18, 'u16'],
      e_version: [20, 'u32'],
      e_entry: [24, 'u32'],
      e_phoff: [28, 'u32'],
      e_phentsize: [42, 'u16'],
      e_phnum: [44, 'u16'],
    }),
    phdr: defineStruct('Elf32_Phdr', 32, {
      p_type: [0, 'u32'],
      p_offset: [4, 'u32'],
      p_vaddr: [8, 'u32'],
      p_paddr: [12, 'u32'],
      p_filesz: [16, 'u32'],
      p_memsz: [20, 'u32'],
      p_align: [28, 'u32'],
    }),
  },
  2: {
    bits: 64,
    ehdr: defineStruct('Elf64_Ehdr', 64, {
      e_type: [16, 'u16'],
      e_machine: [18, 'u16'],
      e_version: [20, 'u32'],
      e_entry: [24, 'u64'],
      e_phoff: [32, 'u64'],
      e_phentsize: [54, 'u16'],
      e_phnum: [56, 'u16'],
    }),
    phdr: defineStruct('Elf64_Phdr', 56, {
      p_type: [0, 'u32'],
      p_offset: [8, 'u64'],
      p_vaddr: [16, 'u64'],
      p_paddr: [24, 'u64'],
      p_filesz: [32, 'u64'],
      p_memsz: [40, 'u64'],
      p_align: [48, 'u64'],
    }),
  },
};

interface ProgramHeader extends ElfSegment {
  readonly type: number;
  readonly align: number;
}

/** A field that must have one of some values. */
interface Expectation {
  readonly field: string;
  readonly allowed: readonly number[];
  readonly remedy: string;
}

const REBUILD = 'build the kernel for x86';
const EHDR_EXPECTATIONS: readonly Expectation[] = [
  { field: 'e_type', allowed: [ET_EXEC, ET_DYN], remedy: 'use the linked kernel, not an object file' },
  { field: 'e_machine', allowed: [EM_386, EM_X86_64], remedy: REBUILD },
  { field: 'e_version', allowed: [EV_CURRENT], remedy: 'the file is damaged, get it anew' },
];

function readClass(file: ImageFile): ElfClass {
  const ident = file.read(0, EI_NIDENT, 'e_ident');
  const elfClass = CLASSES[ident[EI_CLASS] ?? 0];
  if (elfClass === undefined) throw unexpected(file, 'e_ident[EI_CLASS]', ident[EI_CLASS], [1, 2], REBUILD);
  if (ident[EI_DATA] !== ELFDATA2LSB)
    throw unexpected(file, 'e_ident[EI_DATA]', ident[EI_DATA], [ELFDATA2LSB], REBUILD);
  if (ident[EI_VERSION] !== EV_CURRENT)
    throw unexpected(file, 'e_ident[EI_VERSION]', ident[EI_VERSION], [EV_CURRENT], REBUILD);
  return elfClass;
}

function readHeader(file: ImageFile, { bits, ehdr, phdr }: ElfClass): Fields<Rows> {
  const header = ehdr.decode(file.read(0, ehdr.size, ehdr.name));
  for (const { field, allowed, remedy } of EHDR_EXPECTATIONS) {
    const value = Number(header[field]);
    if (!allowed.includes(value)) throw unexpected(file, field, value, allowed, remedy);
  }
  if (bits === 32 && header['e_machine'] !== EM_386)
    throw unexpected(file, 'e_machine', Number(header['e_machine']), [EM_386], REBUILD);
  const count = Number(header['e_phnum']);
  if (count === 0 || count > PHNUM_MAX)
    throw new BootError(
      file.name,
      'e_phnum',
      `e_phnum is ${count}, but a kernel has 1 to ${PHNUM_MAX} program headers; use the linked kernel`,
    );
  if (Number(header['e_phentsize']) !== phdr.size)
    throw unexpected(
      file,
      'e_phentsize',
      Number(header['e_phentsize']),
      [phdr.size],
      'the file is damaged, get it anew',
    );
  return header;
}

function readProgramHeaders(file: ImageFile, { phdr }: ElfClass, ehdr: Fields<Rows>): ProgramHeader[] {
  const count = Number(ehdr['e_phnum']);
  const table = file.read(Number(ehdr['e_phoff']), count * phdr.size, 'the program header table (e_phoff)');
  const headers = Array.from({ length: count }, (_, index) =>
    programHeader(index, phdr.decode(table.subarray(index * phdr.size))),
  );
  for (const { index, type, offset, filesz, memsz } of headers) {
    if (type !== PT_LOAD && type !== PT_NOTE) continue;
    file.require(offset, filesz, `segment ${index} (p_offset, p_filesz)`);
    if (type === PT_LOAD && filesz > memsz)
      throw new BootError(
        file.name,
        'p_memsz',
        `segment ${index} has more bytes in the file (p_filesz ${hex(filesz)}) than in memory (p_memsz ${hex(memsz)}); the file is damaged, get it anew`,
      );
  }
  return headers;
}

function programHeader(index: number, row: Fields<Rows>): ProgramHeader {
  const value = (field: string) => Number(row[field]);
  return {
    index,
    type: value('p_type'),
    offset: value('p_offset'),
    vaddr: value('p_vaddr'),
    paddr: value('p_paddr'),
    filesz: value('p_filesz'),
    memsz: value('p_memsz'),
    align: value('p_align'),
  };
}

/** The notes of a PT_NOTE segment; a malformed note ends the walk, for notes are only hints. */
function readNotes(file: ImageFile, { offset, filesz, align, index }: ProgramHeader): ElfNote[] {
  const bytes = file.read(offset, Math.min(filesz, NOTES_MAX), `note segment ${index}`);
  const view = new DataView(bytes.buffer);
  const pad = align === 8 ? 8 : 4;
  const notes: ElfNote[] = [];
  for (let at = 0; at + 12 <= bytes.byteLength;) {
    const nameAt = at + 12;
    const nameEnd = nameAt + view.getUint32(at, true);
    const descAt = alignUp(nameEnd, pad);
    const descEnd = descAt + view.getUint32(at + 4, true);
    if (descEnd > bytes.byteLength) break;
    const name = Buffer.from(bytes.buffer, nameAt, nameEnd - nameAt)
      .toString('latin1')
      .replace(/\0.*$/s, '');
    notes.push({ name, type: view.getUint32(at + 8, true), desc: bytes.slice(descAt, descEnd) });
    at = alignUp(descEnd, pad);
  }
  return notes;
}

/** Some kernels name a virtual address as their entry; the loader starts without their page tables. */
function physical(entry: number, segments: readonly ElfSegment[]): number {
  if (segments.some(({ paddr, memsz }) => entry >= paddr && entry < paddr + memsz)) return entry;
  const home = segments.find(({ vaddr, memsz }) => entry >= vaddr && entry < vaddr + memsz);
  return home ? entry - home.vaddr + home.paddr : entry;
}

function alignUp(value: number, to: number): number {
  return Math.ceil(value / to) * to;
}

function unexpected(
  file: ImageFile,
  field: string,
  found: number | undefined,
  allowed: readonly number[],
  remedy: string,
): BootError {
  return new BootError(file.name, field, `${field} is ${found}, but must be ${allowed.join(' or ')}; ${remedy}`);
}
