// Elements in a line, colours of the theme, and numbers as a person reads them.
// W3C DOM; nothing of what a guest or a file says is ever parsed as HTML.

type Child = Node | string;
type Properties = Readonly<Record<string, string | boolean | ((event: Event) => void)>>;

/** An element with attributes, `on…` listeners and children. */
export function h<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  properties: Properties = {},
  ...children: readonly Child[]
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (typeof value === 'function') element.addEventListener(name.replace(/^on/, ''), value);
    else if (typeof value === 'boolean') element.toggleAttribute(name, value);
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

/** The element that index.html has under this id. */
export function byId(id: string): HTMLElement {
  return found(id, HTMLElement);
}

/** The same, where its own properties are needed. */
export function found<T extends HTMLElement>(id: string, kind: new () => T): T {
  const element = document.getElementById(id);
  if (!(element instanceof kind)) throw new Error(`the page lacks ${kind.name} #${id}`);
  return element;
}

/** Of the present theme: the browser takes long to say what a property comes to, and is asked for each thing drawn. */
const colours = new Map<string, string>();

/** The colour that a custom property stands for in the present theme. */
export function colour(name: string): string {
  const known = colours.get(name);
  if (known !== undefined) return known;
  const probe = byId('probe');
  probe.style.color = `var(--${name})`;
  const computed = getComputedStyle(probe).color;
  colours.set(name, computed);
  return computed;
}

/** Series of a chart, in the order in which they are given out; the colours are those of page.css. */
export const SERIES = 8;

export function seriesColour(index: number): string {
  return colour(`series-${index % SERIES}`);
}

/** What is to be drawn anew when the theme changes. */
const painters = new Set<() => void>();

export function onTheme(paint: () => void): void {
  painters.add(paint);
}

export function themeChanged(): void {
  colours.clear();
  for (const paint of painters) paint();
}

/** 1234567 → `1.23 M`. */
export function short(value: number): string {
  if (value >= 1e9) return `${(value / 1e9).toFixed(2)} G`;
  if (value >= 1e6) return `${(value / 1e6).toFixed(2)} M`;
  if (value >= 1e4) return `${(value / 1e3).toFixed(1)} k`;
  if (value >= 100 || Number.isInteger(value)) return value.toFixed(0);
  return value.toFixed(1);
}

/** With the unit that leaves a readable number. */
export function time(ms: number): string {
  const size = Math.abs(ms);
  if (size >= 1000) return `${(ms / 1000).toFixed(2)} s`;
  if (size >= 1) return `${ms.toFixed(2)} ms`;
  if (size >= 0.001) return `${(ms * 1000).toFixed(2)} µs`;
  return `${(ms * 1e6).toFixed(0)} ns`;
}

export function hex(value: number, digits = 0): string {
  return `0x${value.toString(16).padStart(digits, '0')}`;
}

/** Replaces what is in `parent`. */
export function fill(parent: Element, ...children: readonly Child[]): void {
  parent.replaceChildren(...children);
}

/** A sentence where there is nothing to show. */
export function empty(text: string): HTMLElement {
  return h('p', { class: 'empty' }, text);
}
