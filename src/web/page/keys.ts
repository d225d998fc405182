// The keys of the page: letters outside the console and the fields, function keys everywhere.
// The list of keys that the page shows is made of the same rows.
import { byId, fill, h } from './dom.js';

export type Command =
  | 'run'
  | 'step-exit'
  | 'step-instruction'
  | 'nmi'
  | 'snapshot'
  | 'theme'
  | 'help'
  | 'console'
  | 'exits'
  | 'latencies'
  | 'devices'
  | 'processor'
  | 'memory'
  | 'zoom-in'
  | 'zoom-out'
  | 'earlier'
  | 'later'
  | 'follow';

interface KeyRow {
  readonly command: Command;
  readonly keys: readonly string[];
  readonly does: string;
}

const ROWS: readonly KeyRow[] = [
  { command: 'run', keys: ['F8', 'p'], does: 'Pause or resume' },
  { command: 'step-exit', keys: ['F9', 'e'], does: 'Run to the next exit' },
  { command: 'step-instruction', keys: ['F10', 'i'], does: 'Step one instruction' },
  { command: 'nmi', keys: ['n'], does: 'Send an NMI' },
  { command: 'snapshot', keys: ['s'], does: 'Save a snapshot' },
  { command: 'console', keys: ['F6'], does: 'To the console, and out of it' },
  { command: 'exits', keys: ['1'], does: 'Exits' },
  { command: 'latencies', keys: ['2'], does: 'Latencies' },
  { command: 'devices', keys: ['3'], does: 'Devices' },
  { command: 'processor', keys: ['4'], does: 'Processor' },
  { command: 'memory', keys: ['5'], does: 'Memory' },
  { command: 'zoom-in', keys: ['+', '='], does: 'Timeline: look closer' },
  { command: 'zoom-out', keys: ['-'], does: 'Timeline: see more' },
  { command: 'earlier', keys: ['['], does: 'Timeline: earlier' },
  { command: 'later', keys: [']'], does: 'Timeline: later' },
  { command: 'follow', keys: ['f'], does: 'Timeline: follow the newest exit' },
  { command: 'theme', keys: ['t'], does: 'Day or night' },
  { command: 'help', keys: ['?'], does: 'These keys' },
];

export function listenForKeys(obey: (command: Command) => void, isAtConsole: () => boolean): void {
  fill(
    byId('key-list'),
    ...ROWS.map(({ keys, does }) =>
      h(
        'div',
        { class: 'key-row' },
        h(
          'span',
          {},
          ...keys.filter((key) => key !== '=').map((key) => h('kbd', {}, key.length === 1 ? key.toUpperCase() : key)),
        ),
        h('span', {}, does),
      ),
    ),
  );
  addEventListener('keydown', (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const isTyping = isAtConsole() || (event.target instanceof HTMLElement && event.target.matches('input, select'));
    const row = ROWS.find(({ keys }) => keys.includes(event.key.length === 1 ? event.key.toLowerCase() : event.key));
    if (row === undefined || (isTyping && event.key.length === 1)) return;
    event.preventDefault();
    obey(row.command);
  });
}
