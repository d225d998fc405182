// Guest memory in hexadecimal: by guest-physical address at any time, by linear address while the machine is paused.
// The bytes are the guest's own, live.
import type { Connection, Handlers } from './connection.js';
import { byId, empty, fill, h } from './dom.js';
import { addressOf } from './processor-panel.js';
import type { MachineState } from '../protocol.js';

const ROW = 16;
const ROWS = 24;
const PAGE = ROW * ROWS;
const PERIOD_MS = 1000;
const HIGHEST = (1n << 64n) - BigInt(PAGE);

export class MemoryPanel {
  readonly handlers: Handlers;
  readonly #host = byId('tab-memory');
  readonly #space = h(
    'select',
    { 'aria-label': 'kind of address', onchange: () => void this.#read() },
    h('option', { value: 'physical' }, 'physical'),
    h('option', { value: 'linear' }, 'linear'),
  );
  readonly #input = h('input', { class: 'mono', size: '18', value: '0', spellcheck: 'false', 'aria-label': 'address' });
  readonly #dump = h('div', { class: 'scroll hex' });
  #address = 0n;
  #before: { readonly address: bigint; readonly bytes: string } | undefined;
  #state: MachineState = 'created';
  #isLive = false;

  constructor(
    private readonly connection: () => Connection,
    private readonly vcpu: () => number,
  ) {
    const turn = (pages: number) => (): void => {
      const next = this.#address + BigInt(pages * PAGE);
      this.#goTo(next < 0n ? 0n : next > HIGHEST ? HIGHEST : next);
    };
    const form = h(
      'form',
      {
        class: 'line',
        onsubmit: (event) => {
          event.preventDefault();
          const address = addressOf(this.#input.value);
          if (address === undefined) fill(this.#dump, empty('An address is up to 16 hexadecimal digits.'));
          else this.#goTo(BigInt(`0x${address}`));
        },
      },
      this.#space,
      this.#input,
      h('button', {}, 'Show'),
      h('span', { class: 'spring' }),
      h('button', { type: 'button', title: 'the page before', onclick: turn(-1) }, '↑ Before'),
      h('button', { type: 'button', title: 'the page after', onclick: turn(1) }, '↓ After'),
    );
    setInterval(() => {
      if (this.#isLive && this.#state === 'running' && this.#host.clientHeight > 0) void this.#read();
    }, PERIOD_MS);
    this.handlers = {
      hello: ({ mode }) => {
        this.#isLive = mode === 'live';
        if (this.#isLive) fill(this.#host, form, this.#dump);
        else fill(this.#host, empty('A recording has no memory: it holds exits, not what the guest had in its RAM.'));
      },
      state: ({ state }) => {
        this.#state = state;
        this.show();
      },
      processors: () => this.show(),
    };
  }

  /** The panel has come to the front, or what it shows may have changed. */
  show(): void {
    if (this.#isLive && this.#host.clientHeight > 0) void this.#read();
  }

  #goTo(address: bigint): void {
    this.#address = address - (address % BigInt(ROW));
    this.#input.value = this.#address.toString(16);
    void this.#read();
  }

  async #read(): Promise<void> {
    const address = this.#address;
    const answer = await this.connection().ask({
      type: 'memory',
      space: this.#space.value === 'linear' ? 'linear' : 'physical',
      vcpu: this.vcpu(),
      address: address.toString(16),
      length: PAGE,
    });
    if ('error' in answer) {
      fill(this.#dump, empty(answer.error));
      return;
    }
    if (!('bytes' in answer) || address !== this.#address) return;
    if (answer.bytes === '') {
      fill(this.#dump, empty(`There is no RAM at 0x${address.toString(16)}.`));
      return;
    }
    const old = this.#before?.address === address ? this.#before.bytes : answer.bytes;
    this.#before = { address, bytes: answer.bytes };
    fill(this.#dump, ...rowsOf(address, answer.bytes, old));
  }
}

function rowsOf(address: bigint, bytes: string, old: string): HTMLElement[] {
  const rows: HTMLElement[] = [];
  for (let at = 0; at < bytes.length; at += 2 * ROW) {
    const digits = bytes.slice(at, at + 2 * ROW);
    const cells: HTMLElement[] = [];
    let text = '';
    for (let i = 0; i < digits.length; i += 2) {
      const byte = digits.slice(i, i + 2);
      const code = Number.parseInt(byte, 16);
      const isMoved = byte !== old.slice(at + i, at + i + 2);
      cells.push(h('span', { class: isMoved ? 'byte moved' : byte === '00' ? 'byte zero' : 'byte' }, byte));
      text += code >= 0x20 && code < 0x7f ? String.fromCharCode(code) : '·';
    }
    rows.push(
      h(
        'div',
        { class: 'hex-row' },
        h('span', { class: 'at' }, (address + BigInt(at / 2)).toString(16).padStart(12, '0')),
        h('span', { class: 'hex-bytes' }, ...cells),
        h('span', { class: 'text' }, text),
      ),
    );
  }
  return rows;
}
