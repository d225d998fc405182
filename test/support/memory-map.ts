// Draws docs/memory-map.md from src/memory/layout.ts: every address with the comment that stands above it there.
// MICROVISOR_UPDATE_DOCS=1 lets test/unit/docs.test.ts write it anew.
import * as layout from '../../src/memory/layout.js';

/** Numbers of layout.ts that are no address: sizes, and values of registers. */
const NO_ADDRESS = new Set(['PAGE_SIZE', 'CMDLINE_MAX', 'VIRTIO_MMIO_STRIDE', 'SLP_TYP_S5', 'ACPI_RESET_VALUE']);

/** What the address space is made of, by first address. */
const ZONES: readonly (readonly [first: number, what: string])[] = [
  [0, 'RAM'],
  [layout.EBDA, 'reserved'],
  [layout.VIDEO_HOLE, 'nothing'],
  [layout.ACPI_RSDP, 'reserved'],
  [layout.HIGH_MEMORY, 'RAM'],
  [layout.LOW_RAM_END, 'devices'],
  [layout.HIGH_RAM_START, 'RAM'],
];

interface Mark {
  readonly name: string;
  readonly value: number;
  readonly doc: string;
}

/** Exported numbers, in ascending order. @param source the text of layout.ts, for its comments */
function addresses(source: string): readonly Mark[] {
  return Object.entries(layout)
    .flatMap(([name, value]) => (typeof value === 'number' && !NO_ADDRESS.has(name) ? [{ name, value }] : []))
    .map((mark) => ({ ...mark, doc: docOf(source, mark.name) }))
    .toSorted((a, b) => a.value - b.value);
}

function docOf(source: string, name: string): string {
  return (
    new RegExp(`/\\*\\* ((?:(?!\\*/).)*) \\*/\\nexport const ${name} =`).exec(source)?.[1]?.replace(/\.$/, '') ?? ''
  );
}

function gpa(value: number): string {
  const digits = value.toString(16).padStart(9, '0');
  return `0x${digits[0]}_${digits.slice(1, 5)}_${digits.slice(5)}`;
}

/** The picture, without fences. */
export function drawMemoryMap(source: string): string {
  const lines: string[] = [];
  const marks = addresses(source);
  const width = Math.max(...marks.map(({ name }) => name.length)) + 2;
  for (const [index, [first, what]] of ZONES.entries()) {
    const end = ZONES[index + 1]?.[0] ?? Infinity;
    lines.push(`${gpa(first)} ${index === 0 ? '┌' : '├'}─ ${`${what} `.padEnd(width + 1, '─')}`);
    for (const { name, value, doc } of marks.filter(({ value }) => value >= first && value < end))
      lines.push(`${gpa(value)} │ ${name.padEnd(width)} ${doc}`.trimEnd());
  }
  return `${[...lines, `${' '.repeat(gpa(0).length)} └─`].join('\n')}\n`;
}

/** The ports and the interrupts, as rows of a table. */
export function drawPorts(): string {
  const rows = Object.entries(layout.PORT).toSorted(([, a], [, b]) => a - b);
  return rows.map(([name, port]) => `0x${port.toString(16).padStart(3, '0')}  ${name}\n`).join('');
}

export function drawGsis(): string {
  const rows = Object.entries(layout.GSI).filter(([name]) => name !== 'COUNT');
  const own = rows.map(([name, gsi]) => [gsi, name] as const);
  const virtio = layout.VIRTIO_GSIS.map((gsi, index) => [gsi, `virtio device ${index + 1}`] as const);
  const all = [...own, ...virtio].toSorted(([a], [b]) => a - b);
  return all.map(([gsi, name]) => `${String(gsi).padStart(2)}  ${name}\n`).join('');
}
