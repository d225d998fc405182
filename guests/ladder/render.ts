// A README on a terminal: paragraphs and lists wrapped to its width, links as their text, code as it is.
// Our own; just as much of CommonMark as the READMEs here use.

export interface RenderOptions {
  readonly columns: number;
  /** Bold, underlined and dim by escape sequences; else plain text. */
  readonly colour: boolean;
}

const ESC = '\u001B';
const STYLES = { bold: `${ESC}[1m`, dim: `${ESC}[2m`, underline: `${ESC}[4m`, plain: `${ESC}[0m` } as const;
/** Long lines are hard to read, however wide the window is. */
const WIDEST = 100;

export function renderMarkdown(text: string, { columns, colour }: RenderOptions): string {
  const width = Math.min(columns, WIDEST);
  const style = (name: keyof typeof STYLES, part: string): string =>
    colour ? `${STYLES[name]}${part}${STYLES.plain}` : part;
  const inline = (part: string): string =>
    part
      .replaceAll(/\[([^\]]+)\]\([^)]+\)/g, '$1')
      .replaceAll(/\*\*([^*]+)\*\*/g, (_, bold: string) => style('bold', bold))
      .replaceAll(/`([^`]+)`/g, (_, code: string) => style('dim', code))
      .replaceAll(/(^|\s)_([^_]+)_/g, '$1$2');
  return blocksOf(text)
    .map((block) => {
      const heading = /^#+ (.*)$/.exec(block);
      if (heading) return style('underline', style('bold', heading[1] ?? ''));
      if (block.startsWith('```'))
        return block
          .replaceAll(/^```.*\n?/gm, '')
          .replaceAll(/^/gm, '    ')
          .trimEnd();
      if (block.startsWith('|')) return block;
      const [, mark = ''] = /^((?:\d+\.|[-*]) +)/.exec(block) ?? [];
      const words = inline(block.slice(mark.length).replaceAll(/\s*\n\s*/g, ' '));
      return mark + wrap(words, width - mark.length).join(`\n${' '.repeat(mark.length)}`);
    })
    .reduce((page, block) => page + (isList(page, block) ? '\n' : '\n\n') + block)
    .concat('\n');
}

/** Items of one list stand under each other without a gap. */
function isList(page: string, block: string): boolean {
  const last = page.slice(page.lastIndexOf('\n\n') + 1).trimStart();
  return [last, block].every((text) => /^(?:\d+\.|[-*]) /.test(text));
}

/** Headings, fenced code, list items, paragraphs: what stands by itself. */
function blocksOf(text: string): string[] {
  const blocks: string[] = [];
  let isCode = false;
  let isOpen = false;
  for (const line of text.split('\n')) {
    const isFence = line.startsWith('```');
    const isBlank = line.trim() === '';
    const starts = !isOpen || isFence || /^(?:#|\d+\. |[-*] )/.test(line);
    if (isCode || (isOpen && !starts && !isBlank)) blocks.push(`${blocks.pop() ?? ''}\n${line}`);
    else if (!isBlank) blocks.push(line);
    if (isFence) isCode = !isCode;
    isOpen = !isBlank && !isFence && !line.startsWith('#');
  }
  return blocks;
}

function wrap(text: string, width: number): string[] {
  const lines: string[] = [];
  let line = '';
  for (const word of text.split(' ')) {
    if (line !== '' && shown(line) + 1 + shown(word) > width) {
      lines.push(line);
      line = word;
    } else line = line === '' ? word : `${line} ${word}`;
  }
  return [...lines, line];
}

/** Columns that a text takes: escape sequences take none. */
function shown(text: string): number {
  return text.replaceAll(new RegExp(`${ESC}\\[\\d+m`, 'g'), '').length;
}
