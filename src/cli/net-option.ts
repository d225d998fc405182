// `--net`: a virtio network card of the guest, and what it is connected with.
// Our own; words as in QEMU's -nic; IEEE 802 for addresses, netdevice(7) for interface names.
import type { NetConfig, PortForward } from '../machine/device-config.js';
import { parseNumber, type NumberRow } from './numbers.js';
import { parseWords, splitWords, type Word, type WordRow } from './suboptions.js';
import { UsageError } from './usage-error.js';

const OPTION = '--net';
/** IFNAMSIZ without its NUL. */
const INTERFACE_BYTES = 15;
const MAC = /^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/i;

/** What the words of one --net come to. */
interface Parts {
  readonly mac: string;
  readonly pcap: string;
  readonly forwards: readonly PortForward[];
}

export const PORT_ROW = {
  option: '--net forward',
  unit: '',
  form: 'whole',
  low: 1,
  high: 65_535,
  example: '--net user,forward=8080:80',
} as const satisfies NumberRow;

function parseForward(text: string): PortForward {
  const [host = '', guest, ...rest] = text.split(':');
  if (guest === undefined || rest.length > 0)
    throw new UsageError(
      PORT_ROW.option,
      `takes HOST:GUEST, two ports, not ${JSON.stringify(text)}; for example ${PORT_ROW.example}`,
    );
  return { host: parseNumber(PORT_ROW, host), guest: parseNumber(PORT_ROW, guest) };
}

function parseMac(text: string): string {
  if (!MAC.test(text))
    throw new UsageError(
      '--net mac',
      `takes six pairs of hexadecimal digits, as 52:54:00:12:34:56, not ${JSON.stringify(text)}`,
    );
  // The lowest bit of the first byte says that an address is a group's.
  if ((Number.parseInt(text.slice(0, 2), 16) & 1) === 1 || /^[0:]+$/.test(text))
    throw new UsageError(
      '--net mac',
      `takes the address of one station, its first byte even and not all zeros, not ${text}`,
    );
  return text.toLowerCase();
}

const ROWS: readonly WordRow<Parts>[] = [
  { key: 'mac', form: 'mac=ADDRESS', parse: (text) => ({ mac: parseMac(text) }) },
  { key: 'pcap', form: 'pcap=FILE', parse: (pcap) => ({ pcap }) },
  {
    key: 'forward',
    form: 'forward=HOST:GUEST',
    repeats: true,
    parse: (text, { forwards = [] }) => ({ forwards: [...forwards, parseForward(text)] }),
  },
];

type Backend = Extract<NetConfig['backend'], { readonly kind: string }>;

interface KindRow {
  readonly key: string;
  readonly form: string;
  readonly backend: (name: string, forwards: readonly PortForward[]) => Backend;
}

function interfaceName(name: string): string {
  if (Buffer.byteLength(name) > INTERFACE_BYTES || /[/\s]/.test(name) || name === '.' || name === '..')
    throw new UsageError(
      '--net tap',
      `takes the name of an interface, at most ${INTERFACE_BYTES} bytes without blanks and slashes, not ${JSON.stringify(name)}`,
    );
  return name;
}

const KIND_ROWS: readonly KindRow[] = [
  { key: 'user', form: 'user', backend: (_, forwards) => ({ kind: 'user', forwards }) },
  { key: 'tap', form: 'tap=NAME', backend: (name) => ({ kind: 'tap', name: interfaceName(name) }) },
  { key: 'switch', form: 'switch=NAME', backend: (name) => ({ kind: 'switch', name }) },
];

const NONE = 'none';
export const NET_FORM = `${KIND_ROWS.map(({ form }) => form).join('|')}|${NONE}[,mac=ADDRESS][,pcap=FILE][,forward=HOST:GUEST]...`;

function kindOf({ key, value }: Word): { readonly row: KindRow; readonly name: string } {
  const row = KIND_ROWS.find((candidate) => candidate.key === key);
  if (row === undefined || row.form.includes('=') !== (value !== undefined && value !== '')) {
    const forms = [...KIND_ROWS.map(({ form }) => form), NONE].join(', ');
    throw new UsageError(
      OPTION,
      `starts with one of ${forms}, not ${JSON.stringify(value === undefined ? key : `${key}=${value}`)}`,
    );
  }
  return { row, name: value ?? '' };
}

function parseOne(words: readonly Word[]): NetConfig {
  const [first = { key: '', value: undefined }, ...rest] = words;
  const { row, name } = kindOf(first);
  const { forwards = [], ...parts } = parseWords(OPTION, ROWS, rest);
  if (forwards.length > 0 && row.key !== 'user')
    throw new UsageError('--net forward', `goes with user only; leave it out, or use --net user`);
  return { backend: row.backend(name, forwards), ...parts };
}

/** What no two cards can share. */
const UNIQUE_ROWS: readonly {
  readonly what: string;
  readonly values: (net: NetConfig) => readonly (string | number)[];
}[] = [
  { what: 'mac', values: ({ mac }) => (mac === undefined ? [] : [mac]) },
  { what: 'pcap', values: ({ pcap }) => (pcap === undefined ? [] : [pcap]) },
  { what: 'tap', values: ({ backend }) => ('kind' in backend && backend.kind === 'tap' ? [backend.name] : []) },
  {
    what: 'forward from port',
    values: ({ backend }) =>
      'kind' in backend && backend.kind === 'user' ? (backend.forwards ?? []).map(({ host }) => host) : [],
  },
];

function refuseTwice(nets: readonly NetConfig[]): void {
  for (const { what, values } of UNIQUE_ROWS) {
    const all = nets.flatMap(values);
    const twice = all.find((value, index) => all.indexOf(value) !== index);
    if (twice !== undefined)
      throw new UsageError(OPTION, `has ${what} ${twice} twice; change or leave out one of them`);
  }
}

/**
 * The cards of the options before, and of this one. `none` gives an empty list and stands alone.
 * @throws UsageError
 */
export function parseNet(text: string, before: readonly NetConfig[] | undefined): readonly NetConfig[] {
  const isNone = text === NONE;
  if (before !== undefined && (isNone || before.length === 0))
    throw new UsageError(OPTION, `${NONE} means no network at all; leave out it or the other --net`);
  if (isNone) return [];
  const nets = [...(before ?? []), parseOne(splitWords(text))];
  refuseTwice(nets);
  return nets;
}
