// Every register of every device, live, as it lies in the register file: by device, what changed last is marked.
// Names and words are those of the devices' own tables.
import type { Handlers } from './connection.js';
import { byId, empty, fill, h, hex } from './dom.js';
import type { Hello } from '../protocol.js';

/** How long a changed value stays marked, as page.css fades it. */
const MARKED_MS = 1200;

interface Cell {
  readonly value: HTMLElement;
  readonly decimal: HTMLElement;
}

export class DevicesPanel {
  readonly handlers: Handlers;
  readonly #list = h('div', { class: 'devices', role: 'listbox', 'aria-label': 'devices' });
  readonly #table = h('div', { class: 'scroll' });
  #fields: Hello['fields'] = [];
  #values: number[] = [];
  #chosen = '';
  #cells = new Map<number, Cell>();
  #changes = new Map<string, HTMLElement>();

  constructor() {
    const host = byId('tab-devices');
    this.handlers = {
      hello: ({ fields, mode }) => {
        if (mode === 'recording') {
          fill(host, empty('A recording has no device registers: it holds exits, not what the devices were.'));
          return;
        }
        fill(host, h('div', { class: 'split' }, this.#list, this.#table));
        this.#fields = fields;
        this.#values = fields.map(() => 0);
        this.#offer();
      },
      tick: ({ fields }) => this.#update(fields),
    };
  }

  #offer(): void {
    const devices = [...new Set(this.#fields.map(({ device }) => device))];
    this.#changes = new Map();
    if (!devices.includes(this.#chosen)) this.#chosen = devices[0] ?? '';
    fill(
      this.#list,
      ...devices.map((device) => {
        const mark = h('span', { class: 'mark' });
        this.#changes.set(device, mark);
        return h(
          'button',
          {
            class: 'plain device',
            role: 'option',
            'aria-selected': String(device === this.#chosen),
            onclick: () => this.#choose(device),
          },
          device,
          mark,
        );
      }),
    );
    this.#choose(this.#chosen);
  }

  #choose(device: string): void {
    this.#chosen = device;
    for (const button of this.#list.querySelectorAll('button'))
      button.setAttribute('aria-selected', String(button.firstChild?.textContent === device));
    this.#cells = new Map();
    const rows = [...this.#fields.entries()].filter(([, field]) => field.device === device);
    fill(
      this.#table,
      h(
        'table',
        { class: 'grid registers' },
        h(
          'tbody',
          {},
          ...rows.map(([index, { name, doc }]) => {
            const cell: Cell = {
              value: h('td', { class: 'mono value' }),
              decimal: h('td', { class: 'number quiet' }),
            };
            this.#cells.set(index, cell);
            this.#write(cell, this.#values[index] ?? 0);
            return h(
              'tr',
              {},
              h('th', { scope: 'row' }, name),
              cell.value,
              cell.decimal,
              h('td', { class: 'doc' }, doc),
            );
          }),
        ),
      ),
    );
  }

  #update(fields: readonly (readonly [number, number])[]): void {
    for (const [index, value] of fields) {
      if (this.#values[index] === value) continue;
      this.#values[index] = value;
      const cell = this.#cells.get(index);
      if (cell !== undefined) {
        this.#write(cell, value);
        mark(cell.value);
      }
      const device = this.#changes.get(this.#fields[index]?.device ?? '');
      if (device !== undefined) mark(device);
    }
  }

  #write({ value, decimal }: Cell, number: number): void {
    value.textContent = hex(number, 8);
    decimal.textContent = String(number);
  }
}

const timers = new WeakMap<HTMLElement, number>();

function mark(element: HTMLElement): void {
  element.classList.add('changed');
  clearTimeout(timers.get(element));
  timers.set(
    element,
    setTimeout(() => element.classList.remove('changed'), MARKED_MS),
  );
}
