// The exit benchmark as a picture: tier by tier, nanoseconds on a logarithmic axis, one dot a case.
// SVG 1.1; the colours follow the reader's light or dark scheme (Media Queries 5, prefers-color-scheme).

export interface Series {
  readonly title: string;
  /** Nanoseconds by tier's title; a tier that is missing has no dot. */
  readonly values: ReadonlyMap<string, number>;
}

export interface Picture {
  readonly title: string;
  /** Machine, kernel, Node, date. */
  readonly caption: string;
  /** Titles of the rows, from the top. */
  readonly tiers: readonly string[];
  readonly series: readonly Series[];
}

const WIDTH = 760;
const LEFT = 220;
const RIGHT = 24;
const TOP = 74;
const ROW = 30;
const BOTTOM = 58;
/** Readable on white and on near-black alike. */
const COLOURS = ['#2f81f7', '#d97706', '#2da44e', '#bf4b8a', '#8250df', '#6e7781'];
const STYLE = [
  'text{font:13px system-ui,sans-serif;fill:#1f2328}',
  '.small{font-size:11px;fill:#59636e}.title{font-size:15px;font-weight:600}',
  '.grid{stroke:#d1d9e0}.axis{stroke:#818b98}',
  '@media(prefers-color-scheme:dark){text{fill:#e6edf3}.small{fill:#9198a1}.grid{stroke:#3d444d}.axis{stroke:#656c76}}',
].join('');

export function drawPicture({ title, caption, tiers, series }: Picture): string {
  const values = series.flatMap((one) => [...one.values.values()]).filter((value) => value > 0);
  const low = 10 ** Math.floor(Math.log10(Math.min(...values, 1000)));
  const high = 10 ** Math.ceil(Math.log10(Math.max(...values, low * 10)));
  const height = TOP + tiers.length * ROW + BOTTOM;
  const bottom = TOP + tiers.length * ROW;
  const x = (ns: number): string =>
    (LEFT + (Math.log(ns / low) / Math.log(high / low)) * (WIDTH - LEFT - RIGHT)).toFixed(1);
  const y = (row: number): number => TOP + row * ROW + ROW / 2;
  const grid = decades(low, high).map(
    (ns) =>
      `<line class="grid" x1="${x(ns)}" x2="${x(ns)}" y1="${TOP}" y2="${bottom}"/>` +
      `<text class="small" x="${x(ns)}" y="${bottom + 16}" text-anchor="middle">${formatTime(ns)}</text>`,
  );
  const rows = tiers.map(
    (tier, row) => `<text x="${LEFT - 12}" y="${y(row) + 4}" text-anchor="end">${escape(tier)}</text>`,
  );
  const dots = series.flatMap((one, i) =>
    tiers.flatMap((tier, row) => {
      const ns = one.values.get(tier);
      if (ns === undefined || !(ns > 0)) return [];
      // Dots of one tier lie above each other, so that equal ones stay apart.
      const offset = (i - (series.length - 1) / 2) * Math.min(6, (ROW - 8) / series.length);
      const words = `${one.title}, ${tier}: ${formatTime(ns)}`;
      return [
        `<circle cx="${x(ns)}" cy="${(y(row) + offset).toFixed(1)}" r="4" fill="${colour(i)}"><title>${escape(words)}</title></circle>`,
      ];
    }),
  );
  const legend = series.map((one, i) => {
    const at = LEFT + (i * (WIDTH - LEFT - RIGHT)) / series.length;
    return `<circle cx="${at + 4}" cy="${TOP - 18}" r="4" fill="${colour(i)}"/><text class="small" x="${at + 13}" y="${TOP - 14}">${escape(one.title)}</text>`;
  });
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" width="${WIDTH}" height="${height}" role="img">`,
    `<title>${escape(title)}</title><style>${STYLE}</style>`,
    `<text class="title" x="16" y="26">${escape(title)}</text>`,
    ...legend,
    ...grid,
    `<line class="axis" x1="${LEFT}" x2="${WIDTH - RIGHT}" y1="${bottom}" y2="${bottom}"/>`,
    ...rows,
    ...dots,
    `<text class="small" x="16" y="${height - 12}">${escape(caption)}</text>`,
    '</svg>',
    '',
  ].join('\n');
}

function decades(low: number, high: number): number[] {
  const marks: number[] = [];
  for (let ns = low; ns <= high * 1.0001; ns *= 10) marks.push(Math.round(ns * 1000) / 1000);
  return marks;
}

function colour(index: number): string {
  return COLOURS[index % COLOURS.length] ?? '';
}

function formatTime(ns: number): string {
  if (ns < 1000) return `${Number(ns.toPrecision(3))} ns`;
  return ns < 1e6 ? `${Number((ns / 1000).toPrecision(3))} µs` : `${Number((ns / 1e6).toPrecision(3))} ms`;
}

function escape(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('"', '&quot;');
}
