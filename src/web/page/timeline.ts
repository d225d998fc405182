// The timeline of the trace: a lane a vCPU, its time in the guest, and each exit as long as it took to be served.
// Drawn on a canvas; of a recording, its parts are asked for as they come into sight.
import type { Connection, Handlers } from './connection.js';
import { byId, colour, fill, found, h, hex, onTheme, seriesColour, SERIES, time } from './dom.js';
import { Names } from './names.js';
import type { ExitRow, RecordingSummary } from '../protocol.js';

const KEPT = 20_000;
const LANE = 30;
const AXIS = 20;
const GUTTER = 62;
/** What is in sight at first, and the least that can be, in milliseconds. */
const FIRST_MS = 2000;
const LEAST_MS = 0.002;
const ZOOM = 1.6;
/** An exit is found by the pointer within so many pixels. */
const NEAR = 6;

interface View {
  from: number;
  to: number;
}

export class Timeline {
  readonly handlers: Handlers;
  readonly #canvas = found('timeline-canvas', HTMLCanvasElement);
  readonly #legend = byId('timeline-legend');
  readonly #tip = byId('tip');
  readonly #span = byId('timeline-span');
  #names = new Names([]);
  #khz = 1;
  #cpus = 1;
  #rows: ExitRow[] = [];
  #view: View = { from: 0, to: FIRST_MS };
  #isFollowing = true;
  #isLive = true;
  #owners: string[] = [];
  #summary: RecordingSummary | undefined;
  #isWhole = true;
  #asked = 0;
  #pointer: { readonly x: number; readonly y: number } | undefined;
  #isDrawing = false;
  #isTraced = true;

  constructor(private readonly connection: () => Connection) {
    onTheme(() => this.#draw());
    new ResizeObserver(() => this.#draw()).observe(this.#canvas);
    this.#listen();
    this.handlers = {
      hello: ({ devices, tscKhz, cpus, mode, isTraced }) => {
        this.#names = new Names(devices);
        this.#khz = tscKhz;
        this.#cpus = cpus;
        this.#isLive = mode === 'live';
        this.#isTraced = isTraced;
        this.#rows = [];
        this.#owners = [];
        this.#isFollowing = this.#isLive;
        byId('timeline').style.setProperty('--lanes', String(Math.min(cpus, 4)));
        byId('follow').hidden = !this.#isLive;
        this.#draw();
      },
      exits: ({ rows }) => this.#add(rows),
      recording: ({ summary }) => {
        this.#summary = summary;
        this.whole();
      },
    };
  }

  /** The newest exits, and those to come. */
  follow(): void {
    if (!this.#isLive) return this.whole();
    this.#isFollowing = true;
    const length = this.#view.to - this.#view.from;
    this.#set({ from: this.#end() - length, to: this.#end() });
  }

  /** All that there is. */
  whole(): void {
    if (this.#summary !== undefined) return this.#set({ from: 0, to: Math.max(this.#summary.durationMs, LEAST_MS) });
    const first = this.#rows[0];
    if (first !== undefined) this.#set({ from: this.#ms(first.entered), to: this.#end() });
  }

  /** @param factor below 1 looks closer @param at the time that stays where it is; default the middle, or the end */
  zoom(factor: number, at?: number): void {
    const { from, to } = this.#view;
    const middle = at ?? (this.#isFollowing ? to : (from + to) / 2);
    if ((to - from) * factor < LEAST_MS && factor < 1) return;
    this.#set({ from: middle - (middle - from) * factor, to: middle + (to - middle) * factor });
  }

  /** @param share of what is in sight */
  move(share: number): void {
    const by = (this.#view.to - this.#view.from) * share;
    this.#isFollowing = false;
    this.#set({ from: this.#view.from + by, to: this.#view.to + by });
  }

  #listen(): void {
    const canvas = this.#canvas;
    canvas.addEventListener(
      'wheel',
      (event) => {
        event.preventDefault();
        if (Math.abs(event.deltaX) > Math.abs(event.deltaY)) this.move(Math.sign(event.deltaX) * 0.08);
        else this.zoom(event.deltaY > 0 ? ZOOM : 1 / ZOOM, this.#isFollowing ? undefined : this.#timeAt(event.offsetX));
      },
      { passive: false },
    );
    let held: number | undefined;
    canvas.addEventListener('pointerdown', (event) => {
      held = event.offsetX;
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener('pointerup', () => (held = undefined));
    canvas.addEventListener('pointermove', (event) => {
      this.#pointer = { x: event.offsetX, y: event.offsetY };
      if (held !== undefined && event.offsetX !== held) {
        this.move((held - event.offsetX) / (canvas.clientWidth - GUTTER));
        held = event.offsetX;
      }
      this.#point();
    });
    canvas.addEventListener('pointerleave', () => {
      this.#pointer = undefined;
      this.#tip.hidden = true;
    });
    const keys: Readonly<Record<string, () => void>> = {
      ArrowLeft: () => this.move(-0.2),
      ArrowRight: () => this.move(0.2),
      '+': () => this.zoom(1 / ZOOM),
      '=': () => this.zoom(1 / ZOOM),
      '-': () => this.zoom(ZOOM),
      Home: () => this.whole(),
      End: () => this.follow(),
    };
    canvas.addEventListener('keydown', (event) => {
      const act = keys[event.key];
      if (act === undefined) return;
      event.preventDefault();
      act();
    });
    byId('zoom-in').addEventListener('click', () => this.zoom(1 / ZOOM));
    byId('zoom-out').addEventListener('click', () => this.zoom(ZOOM));
    byId('whole').addEventListener('click', () => this.whole());
    byId('follow').addEventListener('click', () => this.follow());
  }

  #ms(cycles: number): number {
    return cycles / this.#khz;
  }

  #end(): number {
    if (this.#summary !== undefined) return this.#summary.durationMs;
    let end = 0;
    for (const { exited, served } of this.#rows.slice(-64)) end = Math.max(end, exited + Math.max(served, 0));
    return this.#ms(end);
  }

  #add(rows: readonly ExitRow[]): void {
    // What was not served when it came last time, and comes again now.
    const again = new Set(rows.map(({ vcpu, exited }) => `${vcpu} ${exited}`));
    const kept = this.#rows.filter((row) => row.served >= 0 || !again.has(`${row.vcpu} ${row.exited}`));
    this.#rows = [...kept, ...rows].slice(-KEPT);
    if (this.#isFollowing && rows.length > 0) this.follow();
    else this.#draw();
  }

  #set(view: View): void {
    this.#view = view;
    if (this.#summary !== undefined) void this.#fetch();
    this.#draw();
  }

  async #fetch(): Promise<void> {
    const asked = ++this.#asked;
    const { from, to } = this.#view;
    const answer = await this.connection().ask({ type: 'span', from: Math.max(from, 0), to: Math.max(to, 0) });
    if (asked !== this.#asked || !('exits' in answer)) return;
    this.#rows = [...answer.exits];
    this.#isWhole = answer.isWhole;
    this.#draw();
  }

  #timeAt(x: number): number {
    const { from, to } = this.#view;
    return from + ((x - GUTTER) / Math.max(this.#canvas.clientWidth - GUTTER, 1)) * (to - from);
  }

  #draw(): void {
    if (this.#isDrawing) return;
    this.#isDrawing = true;
    requestAnimationFrame(() => {
      this.#isDrawing = false;
      this.#paint();
      this.#point();
    });
  }

  #paint(): void {
    const canvas = this.#canvas;
    const { clientWidth: width, clientHeight: height } = canvas;
    const context = canvas.getContext('2d');
    if (context === null || width === 0) return;
    const scale = devicePixelRatio;
    canvas.width = width * scale;
    canvas.height = height * scale;
    context.scale(scale, scale);
    const { from, to } = this.#view;
    this.#span.textContent = this.#isTraced
      ? `${time(to - from)} in sight`
      : 'not traced: create the machine with trace: true';
    this.#axis(context, width, height);
    const area = width - GUTTER;
    const x = (ms: number): number => GUTTER + ((ms - from) / (to - from)) * area;
    context.font = '12px system-ui, sans-serif';
    for (let vcpu = 0; vcpu < this.#cpus; vcpu++) {
      const y = AXIS + vcpu * LANE;
      context.fillStyle = colour('ink-2');
      context.textAlign = 'left';
      context.fillText(`vCPU ${vcpu}`, 10, y + LANE / 2 + 4);
      context.fillStyle = colour('lane');
      context.fillRect(GUTTER, y + 4, area, LANE - 8);
    }
    context.save();
    context.beginPath();
    context.rect(GUTTER, 0, area, height);
    context.clip();
    if (this.#summary !== undefined && !this.#isWhole) this.#density(context, x);
    else this.#exits(context, x);
    context.restore();
    this.#showLegend();
  }

  #exits(context: CanvasRenderingContext2D, x: (ms: number) => number): void {
    const from = this.#view.from * this.#khz;
    const to = this.#view.to * this.#khz;
    /** By vCPU: the column of pixels of the last exit that was less than one wide. Another one there would not be seen. */
    const columns = Array.from({ length: this.#cpus }, () => -1);
    for (const row of this.#rows) {
      const { vcpu, entered, exited, served } = row;
      if (exited + Math.max(served, 0) < from || entered > to) continue;
      const start = x(this.#ms(exited));
      const end = served < 0 ? start : x(this.#ms(exited + served));
      const column = Math.floor(end);
      if (column === columns[vcpu]) continue;
      columns[vcpu] = column;
      this.#exit(context, row, { entered: x(this.#ms(entered)), start, end });
    }
  }

  #exit(
    context: CanvasRenderingContext2D,
    row: ExitRow,
    { entered, start, end }: { readonly entered: number; readonly start: number; readonly end: number },
  ): void {
    const y = AXIS + row.vcpu * LANE + 4;
    // Time in the guest and in the kernel, where it can be seen.
    if (start - entered > 2) {
      context.fillStyle = colour('guest');
      context.fillRect(entered, y + LANE - 12, start - entered, 4);
    }
    context.fillStyle = this.#colourOf(row);
    context.fillRect(start, y, Math.max(end - start, 1), LANE - 8);
    if (end - start < 70) return;
    context.fillStyle = colour('on-series');
    context.save();
    context.beginPath();
    context.rect(start, y, end - start - 4, LANE - 8);
    context.clip();
    context.fillText(this.#names.exit(row), Math.max(start, GUTTER) + 6, y + 15);
    context.restore();
  }

  /** Too many exits to draw: how many there were. */
  #density(context: CanvasRenderingContext2D, x: (ms: number) => number): void {
    const { timeline = [], durationMs = 1 } = this.#summary ?? {};
    context.fillStyle = seriesColour(0);
    for (const [vcpu, parts] of timeline.entries()) {
      const most = Math.max(...parts, 1);
      const y = AXIS + vcpu * LANE + 4;
      for (const [index, count] of parts.entries()) {
        const left = x((index / parts.length) * durationMs);
        const right = x(((index + 1) / parts.length) * durationMs);
        const tall = count === 0 ? 0 : Math.max(Math.sqrt(count / most) * (LANE - 8), 1);
        context.fillRect(left, y + LANE - 8 - tall, Math.max(right - left - 0.5, 0.5), tall);
      }
    }
  }

  #axis(context: CanvasRenderingContext2D, width: number, height: number): void {
    const { from, to } = this.#view;
    const rough = ((to - from) / (width - GUTTER)) * 110;
    const unit = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((each) => each * unit).find((each) => each >= rough) ?? unit * 10;
    context.font = '11px system-ui, sans-serif';
    context.textAlign = 'left';
    for (let at = Math.ceil(from / step) * step; at < to; at += step) {
      const left = GUTTER + ((at - from) / (to - from)) * (width - GUTTER);
      context.fillStyle = colour('line');
      context.fillRect(Math.round(left), AXIS - 4, 1, height - AXIS);
      context.fillStyle = colour('ink-2');
      const label = label10(at, step);
      if (left + context.measureText(label).width + 8 < width) context.fillText(label, left + 3, AXIS - 7);
    }
  }

  #colourOf(row: ExitRow): string {
    const owner = this.#names.owner(row);
    let index = this.#owners.indexOf(owner);
    if (index < 0) index = this.#owners.push(owner) - 1;
    // The last colour is everybody else's.
    return seriesColour(Math.min(index, SERIES - 1));
  }

  #showLegend(): void {
    const owners = this.#owners.slice(0, SERIES - 1);
    const words = this.#owners.length >= SERIES ? [...owners, 'others'] : owners;
    const isDense = this.#summary !== undefined && !this.#isWhole;
    const shown = isDense ? ['exits; look closer to tell them apart'] : words;
    const text = shown.join('\n');
    if (this.#legend.dataset['shown'] === text) return;
    this.#legend.dataset['shown'] = text;
    fill(
      this.#legend,
      ...shown.map((word, index) => {
        const dot = h('i', {});
        dot.style.background = `var(--series-${index})`;
        return h('span', { class: 'key' }, dot, word);
      }),
    );
  }

  #point(): void {
    const row = this.#pointer && this.#rowAt(this.#pointer.x, this.#pointer.y);
    if (row === undefined || this.#pointer === undefined) {
      this.#tip.hidden = true;
      return;
    }
    fill(this.#tip, ...this.#words(row).map((line) => h('div', {}, line)));
    this.#tip.hidden = false;
    const box = this.#canvas.getBoundingClientRect();
    const left = Math.min(box.left + this.#pointer.x + 12, innerWidth - this.#tip.offsetWidth - 8);
    this.#tip.style.left = `${left}px`;
    this.#tip.style.top = `${box.top + this.#pointer.y - this.#tip.offsetHeight - 12}px`;
  }

  #rowAt(x: number, y: number): ExitRow | undefined {
    if (this.#summary !== undefined && !this.#isWhole) return undefined;
    const vcpu = Math.floor((y - AXIS) / LANE);
    const perPixel = (this.#view.to - this.#view.from) / Math.max(this.#canvas.clientWidth - GUTTER, 1);
    const at = this.#timeAt(x);
    let best: ExitRow | undefined;
    let nearest = NEAR * perPixel;
    for (const row of this.#rows) {
      if (row.vcpu !== vcpu) continue;
      const start = this.#ms(row.exited);
      const end = this.#ms(row.exited + Math.max(row.served, 0));
      const distance = at < start ? start - at : Math.max(at - end, 0);
      if (distance < nearest || (distance === 0 && nearest === 0)) {
        best = row;
        nearest = distance;
      }
    }
    return best;
  }

  #words(row: ExitRow): string[] {
    const { access } = row;
    const items = access === undefined || access.count === 1 ? '' : ` × ${access.count}`;
    return [
      this.#names.exit(row),
      ...(access === undefined
        ? []
        : [
            `${hex(access.address)}: ${hex(access.value, access.size * 2)} (${access.size} byte${access.size === 1 ? '' : 's'}${items})`,
          ]),
      row.served < 0 ? 'not seen to be served' : `served in ${time(this.#ms(row.served))}`,
      `after ${time(this.#ms(row.exited - row.entered))} in the guest and the kernel`,
    ];
  }
}

/** A time of the axis, as exact as its step. */
function label10(ms: number, step: number): string {
  const [divisor, unit] = ms >= 1000 || step >= 1000 ? [1000, 's'] : step >= 1 ? [1, 'ms'] : [1, 'ms'];
  const digits = Math.max(0, Math.ceil(-Math.log10(step / divisor)));
  return `${(ms / divisor).toFixed(digits)} ${unit}`;
}
