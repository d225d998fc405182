// The explorer's page: its panels, its keys, and what it says when the guest has ended or the server has gone.
// index.html has the places, page.css the looks.
import { Connection } from './connection.js';
import { ConsolePanel } from './console-panel.js';
import { DevicesPanel } from './devices-panel.js';
import { byId, fill, found, h, short, themeChanged, time } from './dom.js';
import { ExitsPanel, type Totals } from './exits-panel.js';
import { LatencyPanel } from './latency-panel.js';
import { listenForKeys, type Command } from './keys.js';
import { MemoryPanel } from './memory-panel.js';
import { ProcessorPanel } from './processor-panel.js';
import { Timeline } from './timeline.js';
import type { EndReport, Hello, MachineState } from '../protocol.js';

const TABS = ['exits', 'latencies', 'devices', 'processor', 'memory'] as const;
const NOTICE_MS = 6000;
const THEME = 'microvisor-theme';

const STATES: Readonly<Record<MachineState, string>> = {
  created: 'Not started',
  running: 'Running',
  paused: 'Paused',
  ending: 'Ending',
  ended: 'Ended',
};

const chooser = found('vcpu', HTMLSelectElement);
const vcpu = (): number => Number(chooser.value);
let hello: Hello | undefined;
let state: MachineState = 'created';
let isStepping = false;
let isGone = false;

const consolePanel = new ConsolePanel(() => connection);
const exits = new ExitsPanel(showTotals);
const latencies = new LatencyPanel();
const devices = new DevicesPanel();
const processor = new ProcessorPanel(
  () => connection,
  () => vcpu(),
);
const memory = new MemoryPanel(
  () => connection,
  () => vcpu(),
);
const timeline = new Timeline(() => connection);

const connection = new Connection(
  [
    {
      hello: greet,
      state: (message) => {
        ({ state, isStepping } = message);
        showState();
      },
      notice: ({ kind, text }) => notice(kind, text),
      ended: ({ report }) => end(report),
      recording: ({ summary }) => {
        showTiles([
          ['Exits recorded', short(summary.exits)],
          ['Duration', time(summary.durationMs)],
          ['In guest and kernel', time(summary.insideMs)],
          ['Serving exits', time(summary.outsideMs)],
          ['Lost', short(summary.lost)],
        ]);
      },
    },
    ...[consolePanel, exits, latencies, devices, processor, memory, timeline].map(({ handlers }) => handlers),
  ],
  (bytes) => consolePanel.write(bytes),
  gone,
);

function greet(message: Hello): void {
  hello = message;
  const isRecording = message.mode === 'recording';
  document.body.classList.toggle('recording', isRecording);
  document.title = `${message.name} – Microvisor`;
  const memoryWords = message.memoryMiB > 0 ? ` · ${message.memoryMiB} MiB` : '';
  fill(byId('name'), message.name);
  const kind = isRecording ? ' · recorded exits only: no console, registers or memory' : '';
  fill(byId('facts'), `${message.cpus} vCPU${message.cpus === 1 ? '' : 's'}${memoryWords}${kind}`);
  byId('facts').title = message.cmdline;
  fill(
    chooser,
    ...Array.from({ length: message.cpus }, (_, index) => h('option', { value: String(index) }, `vCPU ${index}`)),
  );
  chooser.hidden = isRecording || message.cpus === 1;
  byId('controls').hidden = isRecording;
  byId('snapshot').title = `Save the machine in ${message.snapshotFolder} (S)`;
  byId('step-instruction').title = ['Step one instruction (I or F10)', message.stepLimit ?? ''].join('\n').trim();
  byId('limit').hidden = message.stepLimit === undefined;
  fill(byId('limit'), message.stepLimit ?? '');
  if (isRecording) setPill('recording', 'Recording');
  choose('exits');
}

function showState(): void {
  if (hello?.mode === 'recording' || isGone) return;
  if (isStepping && state === 'running') setPill('stepping', 'Stepping…');
  else setPill(state, STATES[state]);
  const isAlive = state === 'running' || state === 'paused';
  const toggle = found('run', HTMLButtonElement);
  toggle.disabled = !isAlive;
  fill(toggle, state === 'paused' ? '▶ Resume' : '❚❚ Pause');
  toggle.title = `${state === 'paused' ? 'Resume' : 'Pause'} the machine (P or F8)`;
  for (const id of ['step-exit', 'step-instruction', 'nmi', 'snapshot'])
    found(id, HTMLButtonElement).disabled = !isAlive || isStepping;
  document.body.classList.toggle('paused', state === 'paused');
}

function setPill(kind: string, text: string): void {
  const pill = byId('state');
  pill.className = `pill ${kind}`;
  fill(pill, text);
}

function showTotals({ rate, exits: count, busy, meanMs }: Totals): void {
  showTiles([
    ['Exits per second', short(rate)],
    ['Exits so far', short(count)],
    ['Serving an exit, mean', count === 0 ? '–' : time(meanMs)],
    ['Processor time', `${(busy * 100).toFixed(0)} %`],
  ]);
}

function showTiles(tiles: readonly (readonly [label: string, value: string])[]): void {
  fill(
    byId('tiles'),
    ...tiles.map(([label, value]) =>
      h('div', { class: 'tile' }, h('span', { class: 'label' }, label), h('span', { class: 'figure' }, value)),
    ),
  );
}

function end({ title, isFailure, details }: EndReport): void {
  state = 'ended';
  showState();
  setPill(isFailure ? 'failed' : 'ended', isFailure ? 'Failed' : 'Ended');
  banner(isFailure ? 'problem' : 'ended', title, details);
}

function gone(): void {
  isGone = true;
  consolePanel.freeze();
  for (const button of byId('controls').querySelectorAll('button')) button.disabled = true;
  if (state === 'ended') {
    byId('banner-after').textContent =
      'The microvisor process is gone as well; what is shown here is the last that was seen.';
    return;
  }
  setPill('gone', 'No connection');
  const isNew = hello === undefined;
  banner(
    'problem',
    isNew ? 'This page cannot be opened' : 'The server has gone',
    isNew
      ? ['The address is no longer good, or too many pages are open. Take the one that microvisor printed last.']
      : ['The microvisor process has ended, or the connection broke. What is shown here is the last that was seen.'],
  );
}

function banner(kind: string, title: string, details: readonly string[]): void {
  const [first = '', ...rest] = details;
  const element = byId('banner');
  element.className = `banner ${kind}`;
  element.hidden = false;
  fill(
    element,
    h('strong', {}, title),
    h('span', {}, first),
    h('span', { id: 'banner-after' }),
    ...(rest.length === 0
      ? []
      : [
          h(
            'details',
            { open: kind === 'problem' },
            h('summary', {}, 'What the boot doctor says'),
            h('pre', {}, rest.join('\n')),
          ),
        ]),
  );
}

function notice(kind: 'done' | 'problem', text: string): void {
  const element = h('div', { class: `notice ${kind}`, role: 'status' }, text);
  byId('notices').append(element);
  setTimeout(() => element.remove(), NOTICE_MS);
}

function choose(tab: (typeof TABS)[number]): void {
  const hadFocus = byId('tabs').contains(document.activeElement);
  for (const each of TABS) {
    byId(`tab-${each}`).hidden = each !== tab;
    byId(`choose-${each}`).setAttribute('aria-selected', String(each === tab));
    byId(`choose-${each}`).tabIndex = each === tab ? 0 : -1;
  }
  if (hadFocus) byId(`choose-${tab}`).focus();
  SHOWN[tab]?.();
}

/** What is brought up to date only while it is in sight. */
const SHOWN: Partial<Record<(typeof TABS)[number], () => void>> = {
  exits: () => exits.show(),
  latencies: () => latencies.show(),
  memory: () => memory.show(),
};

function toggleTheme(): void {
  const isDark = getComputedStyle(byId('probe')).colorScheme === 'dark' || (themeOf() === '' && prefersDark.matches);
  applyTheme(isDark ? 'light' : 'dark');
}

const prefersDark = matchMedia('(prefers-color-scheme: dark)');

function themeOf(): string {
  return document.documentElement.style.colorScheme;
}

function applyTheme(theme: string): void {
  document.documentElement.style.colorScheme = theme;
  try {
    localStorage.setItem(THEME, theme);
  } catch {
    // A browser that keeps nothing: the choice lasts as long as the page.
  }
  themeChanged();
}

const COMMANDS: Readonly<Record<Command, () => void>> = {
  run: () => {
    if (state === 'paused') connection.send({ type: 'resume' });
    else if (state === 'running') connection.send({ type: 'pause' });
  },
  'step-exit': () => connection.send({ type: 'step-exit', vcpu: vcpu() }),
  'step-instruction': () => {
    choose('processor');
    connection.send({ type: 'step-instruction', vcpu: vcpu() });
  },
  nmi: () => connection.send({ type: 'nmi', vcpu: vcpu() }),
  snapshot: () => connection.send({ type: 'snapshot' }),
  theme: toggleTheme,
  help: () => found('keys', HTMLDialogElement).showModal(),
  console: () => {
    if (!consolePanel.hasFocus) consolePanel.focus();
    else {
      consolePanel.blur();
      byId(`choose-${TABS.find((tab) => !byId(`tab-${tab}`).hidden) ?? 'exits'}`).focus();
    }
  },
  exits: () => choose('exits'),
  latencies: () => choose('latencies'),
  devices: () => choose('devices'),
  processor: () => choose('processor'),
  memory: () => choose('memory'),
  'zoom-in': () => timeline.zoom(1 / 1.6),
  'zoom-out': () => timeline.zoom(1.6),
  earlier: () => timeline.move(-0.2),
  later: () => timeline.move(0.2),
  follow: () => timeline.follow(),
};

const MACHINE_COMMANDS: readonly Command[] = ['run', 'step-exit', 'step-instruction', 'nmi', 'snapshot'];

function obey(command: Command): void {
  const isForMachine = MACHINE_COMMANDS.includes(command);
  if (isForMachine && (isGone || hello?.mode !== 'live' || (state !== 'running' && state !== 'paused'))) return;
  if (isForMachine && isStepping && command !== 'run') return;
  COMMANDS[command]();
}

for (const id of ['run', 'step-exit', 'step-instruction', 'nmi', 'snapshot', 'theme', 'help'] as const)
  byId(id).addEventListener('click', () => obey(id));
for (const tab of TABS) byId(`choose-${tab}`).addEventListener('click', () => choose(tab));
byId('tabs').addEventListener('keydown', (event) => {
  const by = event.key === 'ArrowRight' ? 1 : event.key === 'ArrowLeft' ? -1 : 0;
  if (by === 0) return;
  event.preventDefault();
  const now = TABS.findIndex((tab) => !byId(`tab-${tab}`).hidden);
  const next = TABS[(now + by + TABS.length) % TABS.length] ?? 'exits';
  choose(next);
});
chooser.addEventListener('change', () => {
  processor.show();
  memory.show();
});
byId('keys').addEventListener('click', () => found('keys', HTMLDialogElement).close());
prefersDark.addEventListener('change', themeChanged);
listenForKeys(obey, () => consolePanel.hasFocus);
try {
  applyTheme(localStorage.getItem(THEME) ?? '');
} catch {
  themeChanged();
}
