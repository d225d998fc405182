// `microvisor check` for a person: an aligned table that fits the terminal, with colour only where it is seen.
// ECMA-48 SGR for the colours.
import type { CheckedRow, CheckResult, FindingState } from './check-rows.js';

export interface TableStyle {
  readonly columns: number;
  readonly colour: boolean;
}

const STATES: Readonly<Record<FindingState, { readonly label: string; readonly sgr: number }>> = {
  ok: { label: 'ok', sgr: 32 },
  note: { label: 'note', sgr: 33 },
  bad: { label: 'BAD', sgr: 31 },
};

const STATE_WIDTH = 6;
const GAP = 2;

/** Cuts `text` into lines of at most `width`, at spaces where there are any. */
export function wrap(text: string, width: number): string[] {
  const lines: string[] = [];
  let line = '';
  for (const word of text.split(' ')) {
    let rest = word;
    if (line !== '' && line.length + 1 + rest.length > width) {
      lines.push(line);
      line = '';
    }
    while (rest.length > width) {
      lines.push(rest.slice(0, width));
      rest = rest.slice(width);
    }
    line = line === '' ? rest : `${line} ${rest}`;
  }
  return [...lines, line];
}

function formatRow(row: CheckedRow, titleWidth: number, style: TableStyle): string {
  const { label, sgr } = STATES[row.state];
  const padded = label.padEnd(STATE_WIDTH);
  const state = style.colour ? `\x1b[${sgr}m${padded}\x1b[0m` : padded;
  const indent = STATE_WIDTH + titleWidth + GAP;
  const width = Math.max(style.columns - indent - 1, 20);
  const lines = wrap(row.found, width);
  if (row.remedy !== undefined) lines.push(...wrap(`→ ${row.remedy}`, width));
  return `${state}${row.title.padEnd(titleWidth + GAP)}${lines.join(`\n${' '.repeat(indent)}`)}`;
}

function formatRows(rows: readonly CheckedRow[], style: TableStyle): string[] {
  const titleWidth = Math.max(...rows.map(({ title }) => title.length));
  return rows.map((row) => formatRow(row, titleWidth, style));
}

function verdict({ usable, quirks, host }: CheckResult): string {
  const bad = [...host, ...quirks].filter(({ state }) => state === 'bad').length;
  const found = quirks.filter(({ state }) => state === 'note').length;
  if (!usable) return `VMs cannot run here: ${bad} of the points above ${bad === 1 ? 'is' : 'are'} in the way.`;
  if (found === 0) return 'VMs can run here.';
  return `VMs can run here; this KVM has ${found} quirk${found === 1 ? '' : 's'}, with the remedies above.`;
}

export function formatCheck(result: CheckResult, style: TableStyle): string {
  const quirks =
    result.quirks.length === 0
      ? []
      : ['', 'Quirks of this KVM, found by probing:', ...formatRows(result.quirks, style)];
  const options =
    result.kernelOptions === ''
      ? []
      : [
          '',
          'For a Linux kernel of your own (the default guest gets these by itself):',
          ...wrap(result.kernelOptions, style.columns - 3).map((line) => `  ${line}`),
        ];
  return [...formatRows(result.host, style), ...quirks, ...options, '', verdict(result), ''].join('\n');
}
