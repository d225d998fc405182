// Latency histograms: how long the exits of each kind took to be served, in powers of two of nanoseconds.
// The counts are those of web/latencies.ts.
import type { Handlers } from './connection.js';
import { byId, colour, empty, fill, h, onTheme, short, time } from './dom.js';
import { head } from './exits-panel.js';
import { shortReason } from './names.js';
import type { LatencyRow } from '../protocol.js';

const KINDS_SHOWN = 24;
/** A label of the axis needs so much room. */
const LABEL_PIXELS = 50;

export class LatencyPanel {
  readonly handlers: Handlers;
  readonly #chart = h('canvas', { class: 'histogram', role: 'img', 'aria-label': 'histogram of the chosen kind' });
  readonly #title = h('h3', {});
  readonly #list = h('div', { class: 'scroll' });
  #rows: readonly LatencyRow[] = [];
  #chosen: string | undefined;

  constructor() {
    const host = byId('tab-latencies');
    host.append(this.#title, this.#chart, this.#list);
    onTheme(() => this.#draw());
    new ResizeObserver(() => this.#draw()).observe(this.#chart);
    this.handlers = {
      hello: ({ isTraced }) => {
        this.#rows = [];
        this.#show(
          isTraced ? 'No exit has been timed yet.' : 'This machine is not traced: create it with trace: true.',
        );
      },
      latencies: ({ rows }) => {
        this.#rows = rows;
        this.show();
      },
    };
  }

  /** The panel has come to the front. */
  show(): void {
    this.#show('No exit has been timed yet.');
  }

  #show(nothing: string): void {
    if (this.#rows.length === 0) {
      this.#chart.hidden = true;
      fill(this.#title);
      fill(this.#list, empty(nothing));
      return;
    }
    this.#chart.hidden = false;
    if (this.#list.clientHeight === 0) return;
    const chosen = this.#row();
    this.#chosen = chosen?.name;
    fill(this.#title, `From exit to entry: ${shortReason(chosen?.name ?? '')}`);
    const hadFocus = this.#list.contains(document.activeElement);
    fill(
      this.#list,
      h(
        'table',
        { class: 'grid choose' },
        head(['Exit', '#Timed', '#Median', '#99 %', '#Longest']),
        h('tbody', {}, ...this.#rows.slice(0, KINDS_SHOWN).map((row) => this.#line(row))),
      ),
    );
    if (hadFocus) this.#list.querySelector<HTMLElement>('[aria-pressed="true"]')?.focus();
    this.#draw();
  }

  #line(row: LatencyRow): HTMLElement {
    const isChosen = row.name === this.#chosen;
    const choose = (): void => {
      this.#chosen = row.name;
      this.#show('');
    };
    return h(
      'tr',
      { ...(isChosen ? { class: 'chosen' } : {}), onclick: choose },
      h(
        'th',
        { scope: 'row' },
        h('button', { class: 'plain', 'aria-pressed': String(isChosen) }, shortReason(row.name)),
      ),
      h('td', { class: 'number' }, short(row.count)),
      ...[0.5, 0.99, 1].map((share) => h('td', { class: 'number' }, bound(quantile(row, share)))),
    );
  }

  #row(): LatencyRow | undefined {
    return this.#rows.find(({ name }) => name === this.#chosen) ?? this.#rows[0];
  }

  #draw(): void {
    const row = this.#row();
    const { clientWidth: width, clientHeight: height } = this.#chart;
    const context = this.#chart.getContext('2d');
    if (row === undefined || context === null || width === 0) return;
    const scale = devicePixelRatio;
    this.#chart.width = width * scale;
    this.#chart.height = height * scale;
    context.scale(scale, scale);
    const first = Math.max(row.buckets.findIndex((count) => count > 0) - 1, 0);
    const last = Math.max(row.buckets.findLastIndex((count) => count > 0) + 1, first + 11);
    const shown = row.buckets.slice(first, last + 1);
    const most = Math.max(...shown, 1);
    const step = width / shown.length;
    const floor = height - 22;
    context.font = '11px system-ui, sans-serif';
    context.textAlign = 'center';
    for (const [index, count] of shown.entries()) {
      const x = index * step;
      context.fillStyle = colour('ink-2');
      // The bar's upper end, at its place; where they are dense, every other.
      if (index < shown.length - 1 && (step >= LABEL_PIXELS || index % 2 === 1))
        context.fillText(upperEnd(first + index), x + step, height - 6);
      const tall = count === 0 ? 0 : Math.max((count / most) * (floor - 20), 2);
      context.fillStyle = colour('series-0');
      context.beginPath();
      context.roundRect(x + step * 0.12, floor - tall, step * 0.76, tall, [3, 3, 0, 0]);
      context.fill();
      context.fillStyle = colour('ink');
      if (count > 0) context.fillText(short(count), x + step / 2, floor - tall - 5);
    }
    context.fillStyle = colour('line');
    context.fillRect(0, floor, width, 1);
  }
}

/** The bucket in which this share of the times ends. */
function quantile({ buckets, count }: LatencyRow, share: number): number {
  let seen = 0;
  return buckets.findIndex((each) => (seen += each) >= count * share && seen > 0);
}

function upperEnd(bucket: number): string {
  return time(2 ** (bucket + 1) / 1e6).replace(/\.\d+/, '');
}

function bound(bucket: number): string {
  return `< ${upperEnd(bucket)}`;
}
