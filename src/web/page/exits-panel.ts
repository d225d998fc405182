// Exits per second by reason, as a chart, and by port and register, as a table. Of a recording: its totals.
// uPlot draws the chart; the counters are those of ExitStatistics.
import uPlot from 'uplot';
import type { Handlers } from './connection.js';
import { byId, colour, empty, fill, h, hex, onTheme, seriesColour, SERIES, short, time } from './dom.js';
import { Names, shortReason } from './names.js';
import type { Hello, PlaceCount, RecordingSummary, Tick, VcpuCounters } from '../protocol.js';

const SPAN_S = 60;
const POINTS_MAX = 600;
const ROWS_MAX = 60;
/** Rates are those of the last two seconds: a look every fifth of one is too short for a steady number. */
const RATE_LOOKS = 10;
/** Nobody reads a table that changes more often than every so many looks. */
const TABLE_LOOKS = 3;

export class ExitsPanel {
  readonly handlers: Handlers;
  readonly #chartHost = h('div', { class: 'chart' });
  readonly #legend = h('div', { class: 'legend chart-legend' });
  readonly #tableHost = h('div', { class: 'scroll' });
  #hello: Hello | undefined;
  #names = new Names([]);
  #ticks: Tick[] = [];
  #times: number[] = [];
  #series = new Map<string, number[]>();
  #plot: uPlot | undefined;
  #start = 0;
  #looks = 0;

  constructor(onTotals: (totals: Totals) => void) {
    byId('tab-exits').append(this.#chartHost, this.#legend, this.#tableHost);
    onTheme(() => this.#rebuild());
    new ResizeObserver(() => this.#resize()).observe(this.#chartHost);
    this.handlers = {
      hello: (hello) => {
        this.#hello = hello;
        this.#names = new Names(hello.devices);
        this.#ticks = [];
        this.#times = [];
        this.#series = new Map();
        this.#plot?.destroy();
        this.#plot = undefined;
        fill(this.#chartHost);
        this.#chartHost.hidden = true;
        this.#legend.hidden = true;
      },
      tick: (tick) => {
        const isFirst = this.#ticks.length === 0;
        if (isFirst) this.#start = tick.at;
        this.#ticks.push(tick);
        if (this.#ticks.length > RATE_LOOKS + 1) this.#ticks.shift();
        const before = this.#ticks[0] as Tick;
        onTotals(totalsOf(before, tick, this.#hello?.tscKhz ?? 1));
        if (!isFirst) this.#plotTick(this.#ticks.at(-2) as Tick, tick);
        if (isFirst || ++this.#looks % TABLE_LOOKS === 0) this.#table(before, tick);
      },
      recording: ({ summary }) => this.#recording(summary),
    };
  }

  #plotTick(before: Tick, now: Tick): void {
    const seconds = (now.at - before.at) / 1000;
    if (seconds <= 0) return;
    this.#times.push((now.at - this.#start) / 1000);
    const old = reasonCounts(before);
    const counts = reasonCounts(now);
    let isNew = false;
    for (const [reason, count] of counts) {
      let values = this.#series.get(reason);
      if (values === undefined) {
        values = Array.from({ length: this.#times.length - 1 }, () => 0);
        this.#series.set(reason, values);
        isNew = true;
      }
      values.push((count - (old.get(reason) ?? 0)) / seconds);
    }
    if (this.#times.length > POINTS_MAX) {
      this.#times.shift();
      for (const values of this.#series.values()) values.shift();
    }
    this.#chartHost.hidden = this.#series.size === 0;
    this.#legend.hidden = this.#series.size === 0;
    if (isNew || this.#plot === undefined) this.#rebuild();
    else this.#plot.setData(this.#data());
    if (this.#plot?.cursor.idx === undefined || this.#plot.cursor.idx === null) this.#showLegend();
  }

  #data(): uPlot.AlignedData {
    return [this.#times, ...this.#series.values()];
  }

  #rebuild(): void {
    this.#plot?.destroy();
    this.#plot = undefined;
    if (this.#series.size === 0 || this.#chartHost.clientWidth === 0) return;
    const axis = { stroke: colour('ink-2'), grid: { stroke: colour('line'), width: 1 }, ticks: { show: false } };
    this.#plot = new uPlot(
      {
        width: this.#chartHost.clientWidth,
        height: 190,
        padding: [10, 22, 0, 0],
        scales: {
          x: { time: false, range: (_plot, _low, high) => [Math.max(0, high - SPAN_S), Math.max(high, 10)] },
          y: { range: (_plot, _low, high) => [0, Math.max(high * 1.1, 10)] },
        },
        axes: [
          { ...axis, size: 28, values: (_plot, splits) => splits.map((value) => `${value} s`) },
          { ...axis, size: 56, values: (_plot, splits) => splits.map((value) => short(value)) },
        ],
        legend: { show: false },
        cursor: { y: false, points: { size: 6 } },
        hooks: { setCursor: [({ cursor }) => this.#showLegend(cursor.idx ?? undefined)] },
        series: [
          {},
          ...[...this.#series.keys()].map((_reason, index) => ({
            stroke: seriesColour(index),
            width: 2,
            points: { show: false },
          })),
        ],
      },
      this.#data(),
      this.#chartHost,
    );
  }

  /** The panel has come to the front. */
  show(): void {
    const now = this.#ticks.at(-1);
    if (now !== undefined) this.#table(this.#ticks[0] as Tick, now);
  }

  /** @param at the point under the cursor; else the newest */
  #showLegend(at = this.#times.length - 1): void {
    fill(
      this.#legend,
      ...[...this.#series].map(([reason, values], index) => {
        const dot = h('i', {});
        dot.style.background = `var(--series-${index % SERIES})`;
        return h('span', { class: 'key' }, dot, shortReason(reason), h('b', {}, `${short(values[at] ?? 0)}/s`));
      }),
    );
  }

  #resize(): void {
    if (this.#plot === undefined) this.#rebuild();
    else if (this.#chartHost.clientWidth > 0) this.#plot.setSize({ width: this.#chartHost.clientWidth, height: 190 });
  }

  #table(before: Tick, now: Tick): void {
    if (this.#tableHost.clientHeight === 0) return;
    const seconds = Math.max((now.at - before.at) / 1000, 1e-3);
    const old = new Map(placesOf(before).map((place) => [keyOf(place), place.count]));
    const khz = this.#hello?.tscKhz ?? 1;
    const rows = placesOf(now)
      .map((place) => ({ place, rate: (place.count - (old.get(keyOf(place)) ?? 0)) / seconds }))
      .toSorted((a, b) => b.rate - a.rate || b.place.count - a.place.count)
      .slice(0, ROWS_MAX);
    if (rows.length === 0) {
      fill(this.#tableHost, empty('No port or MMIO exit yet.'));
      return;
    }
    const most = Math.max(...rows.map(({ rate }) => rate), 1);
    fill(
      this.#tableHost,
      h(
        'table',
        { class: 'grid' },
        head(['Register', 'Access', 'Address', '#Exits/s', '#Total', '#Mean time']),
        h(
          'tbody',
          {},
          ...rows.map(({ place, rate }) =>
            h(
              'tr',
              rate > 0 ? {} : { class: 'quiet' },
              h('th', { scope: 'row' }, this.#names.device(place), ' ', h('b', {}, this.#names.register(place))),
              h('td', {}, this.#names.verb(place)),
              h('td', { class: 'mono' }, hex(place.address)),
              h(
                'td',
                { class: 'number' },
                bar(rate / most),
                h('span', { class: 'beside' }, rate > 0 ? short(rate) : '–'),
              ),
              h('td', { class: 'number' }, short(place.count)),
              h('td', { class: 'number' }, time(place.cycles / khz / Math.max(place.count, 1))),
            ),
          ),
        ),
      ),
    );
  }

  #recording({ kinds, devices }: RecordingSummary): void {
    const byTime = kinds.toSorted((a, b) => b.totalMs - a.totalMs).slice(0, ROWS_MAX);
    const most = Math.max(...byTime.map(({ totalMs }) => totalMs), 1e-9);
    fill(
      this.#tableHost,
      h(
        'div',
        { class: 'tables' },
        h(
          'div',
          {},
          h('h3', {}, 'Exits by the time they took'),
          h(
            'table',
            { class: 'grid' },
            head(['Exit', '#Count', '#Time', '#Mean', '#Longest']),
            h(
              'tbody',
              {},
              ...byTime.map(({ name, count, totalMs, longestMs }) =>
                h(
                  'tr',
                  {},
                  h('th', { scope: 'row' }, shortReason(name)),
                  h('td', { class: 'number' }, short(count)),
                  h('td', { class: 'number' }, bar(totalMs / most), h('span', { class: 'beside' }, time(totalMs))),
                  h('td', { class: 'number' }, time(totalMs / Math.max(count, 1))),
                  h('td', { class: 'number' }, time(longestMs)),
                ),
              ),
            ),
          ),
        ),
        h(
          'div',
          {},
          h('h3', {}, 'What each device did'),
          h(
            'table',
            { class: 'grid' },
            head(['Device', '#Reads', '#Writes', '#Bytes', '#From', '#Until']),
            h(
              'tbody',
              {},
              ...devices.map(({ name, reads, writes, bytes, firstMs, lastMs }) =>
                h(
                  'tr',
                  {},
                  h('th', { scope: 'row' }, name),
                  ...[short(reads), short(writes), short(bytes), time(firstMs), time(lastMs)].map((text) =>
                    h('td', { class: 'number' }, text),
                  ),
                ),
              ),
            ),
          ),
        ),
      ),
    );
  }
}

/** What the tiles show. */
export interface Totals {
  readonly rate: number;
  readonly exits: number;
  /** Of one processor, all vCPUs together. */
  readonly busy: number;
  readonly meanMs: number;
}

function totalsOf(before: Tick, now: Tick, khz: number): Totals {
  const sum = (tick: Tick, pick: (vcpu: VcpuCounters) => number): number =>
    tick.vcpus.reduce((total, vcpu) => total + pick(vcpu), 0);
  const exits = (vcpu: VcpuCounters): number => vcpu.entries - vcpu.interrupted;
  const cycles = (vcpu: VcpuCounters): number => vcpu.reasons.reduce((total, reason) => total + reason.cycles, 0);
  const ms = now.at - before.at;
  const count = sum(now, exits);
  return {
    rate: ms > 0 ? ((count - sum(before, exits)) / ms) * 1000 : 0,
    exits: count,
    busy: ms > 0 ? Math.max(sum(now, ({ cpuMs }) => cpuMs) - sum(before, ({ cpuMs }) => cpuMs), 0) / ms : 0,
    meanMs: count > 0 ? sum(now, cycles) / khz / count : 0,
  };
}

function reasonCounts({ vcpus }: Tick): Map<string, number> {
  const counts = new Map<string, number>();
  for (const { reasons } of vcpus)
    for (const { reason, count } of reasons) counts.set(reason, (counts.get(reason) ?? 0) + count);
  return counts;
}

/** Of all vCPUs together. */
function placesOf({ vcpus }: Tick): readonly PlaceCount[] {
  if (vcpus.length === 1) return vcpus[0]?.places ?? [];
  const all = new Map<string, PlaceCount>();
  for (const place of vcpus.flatMap(({ places }) => places)) {
    const known = all.get(keyOf(place));
    all.set(keyOf(place), {
      ...place,
      count: place.count + (known?.count ?? 0),
      cycles: place.cycles + (known?.cycles ?? 0),
    });
  }
  return [...all.values()];
}

function keyOf({ space, address, isWrite }: PlaceCount): string {
  return `${space} ${address} ${isWrite}`;
}

/** A title that begins with # is one of numbers. */
export function head(titles: readonly string[]): HTMLElement {
  return h(
    'thead',
    {},
    h(
      'tr',
      {},
      ...titles.map((title) =>
        h('th', { scope: 'col', ...(title.startsWith('#') ? { class: 'number' } : {}) }, title.replace('#', '')),
      ),
    ),
  );
}

function bar(share: number): HTMLElement {
  const element = h('span', { class: 'bar' });
  element.style.setProperty('--share', String(Math.min(Math.max(share, 0), 1)));
  return element;
}
