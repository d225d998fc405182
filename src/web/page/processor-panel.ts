// A paused vCPU: its registers, the code at RIP, and the page walk of any address.
// Intel SDM vol. 1 §3.4 (registers), vol. 3A §4 (paging). While the machine runs nobody asks a vCPU.
import type { Connection, Handlers } from './connection.js';
import { byId, empty, fill, h } from './dom.js';
import type { VcpuState } from '../../vcpu/dump.js';
import { CONTROL_REGISTERS, GENERAL_REGISTER_ROWS, RFLAGS_BITS } from '../../vcpu/register-names.js';
import type { DisassembledInstruction } from '../../vcpu/disassemble.js';
import type { Answer, MachineState } from '../protocol.js';

/** Flags from here on are set by few programs, and shown when they are set. */
const RARE_FLAG = 12;

export class ProcessorPanel {
  readonly handlers: Handlers;
  readonly #host = byId('tab-processor');
  readonly #registers = h('div', { class: 'registers-block' });
  readonly #code = h('div', { class: 'code' });
  readonly #walkResult = h('div', { class: 'walk', 'aria-live': 'polite' });
  readonly #walkInput = h('input', {
    class: 'mono',
    size: '20',
    spellcheck: 'false',
    'aria-label': 'linear address',
    placeholder: 'linear address, hex',
  });
  readonly #walkEnd = h('span', { class: 'mono quiet' });
  /** The walk shown is that of RIP. */
  #isRip = true;
  #states: readonly VcpuState[] = [];
  #before: readonly VcpuState[] = [];
  #instructions: readonly (readonly DisassembledInstruction[])[] = [];
  #mode: 'live' | 'recording' = 'live';
  #state: MachineState = 'created';

  constructor(
    private readonly connection: () => Connection,
    private readonly vcpu: () => number,
  ) {
    this.handlers = {
      hello: ({ mode }) => {
        this.#mode = mode;
        this.#states = [];
        this.show();
      },
      state: ({ state }) => {
        this.#state = state;
        if (state !== 'paused') this.#before = this.#states;
        if (state === 'ended' || state === 'running') this.#states = [];
        this.show();
      },
      processors: ({ states, code }) => {
        if (this.#states.length > 0) this.#before = this.#states;
        this.#states = states;
        this.#instructions = code;
        this.show();
      },
    };
  }

  /** The vCPU that was chosen. */
  show(): void {
    const state = this.#states[this.vcpu()];
    if (this.#mode === 'recording') {
      fill(this.#host, empty('A recording has no processor registers: it holds exits, not what the guest computed.'));
      return;
    }
    if (state === undefined) {
      fill(this.#host, empty(this.#nothing()));
      return;
    }
    fill(this.#registers, ...this.#registerRows(state));
    fill(this.#code, ...codeLines(this.#instructions[this.vcpu()] ?? []));
    if (!this.#host.contains(this.#walkInput)) {
      fill(
        this.#host,
        h(
          'div',
          { class: 'processor' },
          this.#registers,
          h('h3', {}, 'Code at RIP'),
          this.#code,
          h(
            'details',
            { class: 'walk-block' },
            h('summary', {}, h('b', {}, 'Page walk'), this.#walkEnd),
            h(
              'form',
              { class: 'line', onsubmit: (event) => void this.#walk(event) },
              this.#walkInput,
              h('button', {}, 'Walk'),
              h('button', { type: 'button', onclick: () => this.#showRip() }, 'RIP'),
            ),
            this.#walkResult,
          ),
        ),
      );
    }
    // An address of the person's own stays, and is looked up anew: the tables may have changed.
    if (this.#isRip) this.#showRip();
    else void this.#ask(this.#walkInput.value);
  }

  #showRip(): void {
    const state = this.#states[this.vcpu()];
    if (state === undefined) return;
    this.#isRip = true;
    this.#walkInput.value = state.code.linear.slice(2);
    void this.#ask(this.#walkInput.value);
  }

  #nothing(): string {
    if (this.#state === 'ended' || this.#state === 'ending')
      return 'The machine has ended, and its registers are gone.';
    return 'Pause the machine (P or F8) to see its registers, its code and its page tables.';
  }

  #registerRows(state: VcpuState): HTMLElement[] {
    const { regs, control, segments } = state;
    const before = this.#before[this.vcpu()];
    const register = (name: string, value: string | undefined, old: string | undefined, digits = 16): HTMLElement =>
      h(
        'div',
        { class: value === old || old === undefined ? 'register' : 'register moved' },
        h('span', { class: 'name' }, name.toUpperCase()),
        h('span', { class: 'mono' }, (value ?? '0x0').slice(2).padStart(digits, '0')),
      );
    return [
      h(
        'p',
        { class: 'facts' },
        `${state.mode} mode · ${state.codeBits}-bit code · CPL ${state.cpl} · ` +
          `paging ${state.paging}${state.exception === undefined ? '' : ` · exception ${state.exception} under way`}`,
      ),
      h(
        'div',
        { class: 'register-grid' },
        ...GENERAL_REGISTER_ROWS.flat().map((name) => register(name, regs[name], before?.regs[name])),
        register('rip', regs['rip'], before?.regs['rip']),
        ...CONTROL_REGISTERS.map((name) => register(name, control[name], before?.control[name])),
        register('gs', segments['gs']?.base, before?.segments['gs']?.base),
        register('rflags', regs['rflags'], before?.regs['rflags'], 8),
      ),
      h(
        'p',
        { class: 'flags', 'aria-label': 'RFLAGS' },
        ...flagMarks(BigInt(regs['rflags'] ?? '0x0')),
        h('span', { class: 'mono segments' }, segmentWords(segments)),
      ),
    ];
  }

  async #walk(event: Event): Promise<void> {
    event.preventDefault();
    this.#isRip = false;
    await this.#ask(this.#walkInput.value);
  }

  async #ask(text: string): Promise<void> {
    const address = addressOf(text);
    if (address === undefined) {
      fill(this.#walkResult, empty('An address is up to 16 hexadecimal digits.'));
      return;
    }
    const answer = await this.connection().ask({ type: 'walk', vcpu: this.vcpu(), address });
    if (text !== this.#walkInput.value) return;
    fill(this.#walkResult, ...walkLines(answer));
    fill(
      this.#walkEnd,
      `0x${address} → ${'walk' in answer ? (answer.walk.gpa ?? answer.walk.fault ?? '') : 'unknown'}`,
    );
  }
}

function flagMarks(rflags: bigint): HTMLElement[] {
  return RFLAGS_BITS.flatMap(([name, bit]) => {
    const isSet = ((rflags >> BigInt(bit)) & 1n) === 1n;
    return isSet || bit < RARE_FLAG ? [h('span', { class: isSet ? 'flag on' : 'flag' }, name)] : [];
  });
}

function segmentWords(segments: VcpuState['segments']): string {
  return ['cs', 'ss', 'ds']
    .map((name) => `${name.toUpperCase()} ${(segments[name]?.selector ?? 0).toString(16).padStart(4, '0')}`)
    .join('  ');
}

function codeLines(instructions: readonly DisassembledInstruction[]): HTMLElement[] {
  if (instructions.length === 0) return [empty('Nothing is mapped at RIP.')];
  return instructions.map(({ address, bytes, text }, index) =>
    h(
      'div',
      index === 0 ? { class: 'instruction now', 'aria-current': 'true' } : { class: 'instruction' },
      h('span', { class: 'at' }, address.slice(2).padStart(8, '0')),
      h('span', { class: 'bytes' }, bytes),
      h('span', { class: 'text' }, text),
    ),
  );
}

function walkLines(answer: Answer): HTMLElement[] {
  if ('error' in answer) return [empty(answer.error)];
  if (!('walk' in answer)) return [];
  const { mode, steps, gpa, pageSize, rights, fault } = answer.walk;
  const end = gpa === undefined ? (fault ?? 'unknown') : gpa;
  const size = pageSize >= 2 ** 20 ? `${pageSize / 2 ** 20} MiB` : `${pageSize / 1024} KiB`;
  return [
    ...steps.map(({ name, gpa: at, entry }) =>
      h(
        'div',
        { class: 'step' },
        h('span', { class: 'name' }, name),
        h('span', { class: 'mono' }, entry),
        h('span', { class: 'quiet' }, 'at ', h('span', { class: 'mono' }, at)),
      ),
    ),
    h(
      'div',
      { class: gpa === undefined ? 'step end fault' : 'step end' },
      h('span', { class: 'name' }, gpa === undefined ? 'Fault' : 'GPA'),
      h('span', { class: 'mono' }, end),
      h(
        'span',
        { class: 'quiet' },
        mode === 'none' ? 'paging is off' : gpa === undefined ? `paging ${mode}` : `${size} page · ${rights}`,
      ),
    ),
  ];
}

/** Without 0x, spaces and underscores; undefined for what is no address. */
export function addressOf(text: string): string | undefined {
  const digits = text.trim().replace(/^0x/i, '').replaceAll(/[_ `]/g, '');
  return /^[0-9a-f]{1,16}$/i.test(digits) ? digits : undefined;
}
