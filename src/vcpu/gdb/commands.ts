// The packets that a debugger may send, one row each, and their replies. Pure but for what the target does.
// GDB manual, appendix "Remote Serial Protocol": Packets, General Query Packets, Stop Reply Packets.
import { PACKET_MAX } from './packets.js';
import { decodeRegister, decodeRegisters, encodeRegister, encodeRegisters, TARGET_XML } from './registers.js';
import {
  GdbRefusal,
  POINT_KINDS,
  type GdbStop,
  type GdbTarget,
  type Point,
  type PointResult,
  type ThreadAction,
  type ThreadIndex,
} from './target.js';

/** Errors of the protocol; gdb shows the number, which it does not interpret. They are those of errno. */
const ERROR = { FAILED: 'E01', FAULT: 'E0e', INVALID: 'E16', FULL: 'E1c' } as const;
const UNSUPPORTED = '';
const OK = 'OK';

/** Signals by the numbers of the protocol, which are gdb's own. */
const SIGNAL = { NONE: '00', INT: '02', TRAP: '05', SEGV: '0b' } as const;

/** Bytes of memory that one `m` gets at most; gdb asks for the rest. */
const MEMORY_MAX = (PACKET_MAX - 64) / 2;

/** What the connection is to do beside sending the reply. */
export interface GdbReply {
  readonly data: string;
  /** From now on neither side acknowledges. */
  readonly noAcknowledgment?: boolean;
  /** The session is over: the machine goes on without a debugger. */
  readonly ends?: boolean;
}

interface CommandRow {
  /** What the packet starts with; or all of it, where `isWhole`. */
  readonly word: string;
  readonly isWhole?: boolean;
  readonly answer: (session: GdbSession, rest: string) => string | GdbReply | Promise<string | GdbReply>;
}

/** In the order in which they are tried: a longer word before a shorter one that it starts with. */
const COMMANDS: readonly CommandRow[] = [
  { word: 'qSupported', answer: () => SUPPORTED },
  { word: 'QStartNoAckMode', isWhole: true, answer: () => ({ data: OK, noAcknowledgment: true }) },
  { word: 'qXfer:features:read:target.xml:', answer: (_, range) => transfer(TARGET_XML, range) },
  { word: 'qXfer:threads:read::', answer: (session, range) => transfer(threadsXml(session.target), range) },
  { word: 'qfThreadInfo', isWhole: true, answer: ({ target }) => `m${threadNumbers(target).join(',')}` },
  { word: 'qsThreadInfo', isWhole: true, answer: () => 'l' },
  { word: 'qThreadExtraInfo,', answer: (session, rest) => session.threadInfo(rest) },
  // An existing process: gdb lets it go when it quits, instead of killing it.
  { word: 'qAttached', answer: () => '1' },
  { word: 'qC', isWhole: true, answer: (session) => `QC${threadNumber(session.stopped)}` },
  { word: 'qSymbol::', isWhole: true, answer: () => OK },
  { word: 'qRcmd,', answer: (session, rest) => session.monitor(rest) },
  { word: 'vCont?', isWhole: true, answer: () => 'vCont;c;C;s;S' },
  { word: 'vCont;', answer: (session, rest) => session.resumeEach(rest) },
  { word: 'vKill;', answer: (session) => session.kill(OK) },
  { word: 'Hg', answer: (session, rest) => session.select(rest) },
  { word: 'Hc', answer: (session, rest) => session.selectForRun(rest) },
  { word: 'T', answer: ({ target }, rest) => (threadOf(target, rest) === undefined ? ERROR.INVALID : OK) },
  { word: '?', isWhole: true, answer: (session) => session.stopReply() },
  { word: 'g', isWhole: true, answer: (session) => session.readAll() },
  { word: 'G', answer: (session, rest) => session.writeAll(rest) },
  { word: 'p', answer: (session, rest) => session.readOne(rest) },
  { word: 'P', answer: (session, rest) => session.writeOne(rest) },
  { word: 'm', answer: (session, rest) => session.readMemory(rest) },
  { word: 'M', answer: (session, rest) => session.writeMemory(rest, (digits) => bytesOf(digits)) },
  { word: 'X', answer: (session, rest) => session.writeMemory(rest, (data) => Buffer.from(data, 'latin1')) },
  { word: 'Z', answer: (session, rest) => session.insert(rest) },
  { word: 'z', answer: (session, rest) => session.remove(rest) },
  { word: 'c', isWhole: true, answer: (session) => session.resumeAll('continue') },
  { word: 's', isWhole: true, answer: (session) => session.resumeAll('step') },
  { word: 'D', answer: () => ({ data: OK, ends: true }) },
  { word: 'k', answer: (session) => session.kill('') },
];

const SUPPORTED = [
  `PacketSize=${PACKET_MAX.toString(16)}`,
  'qXfer:features:read+',
  'qXfer:threads:read+',
  'swbreak+',
  'hwbreak+',
  'vContSupported+',
  'QStartNoAckMode+',
].join(';');

/** One debugger's session. The machine stands still when it begins, and between one resume and the next. */
export class GdbSession {
  #stop: GdbStop = { kind: 'interrupted', thread: 0 };
  /** The thread whose registers and memory are meant; and the one that `c` and `s` mean, undefined for all. */
  #selected: ThreadIndex = 0;
  #selectedForRun: ThreadIndex | undefined;

  constructor(readonly target: GdbTarget) {}

  /** The thread that stopped last. */
  get stopped(): ThreadIndex {
    return 'thread' in this.#stop ? this.#stop.thread : 0;
  }

  /** @param packet the packet's data; anything at all, an empty reply says that it is unknown */
  async answer(packet: string): Promise<GdbReply> {
    const row = COMMANDS.find(({ word, isWhole }) => (isWhole === true ? packet === word : packet.startsWith(word)));
    if (row === undefined) return { data: UNSUPPORTED };
    try {
      const reply = await row.answer(this, packet.slice(row.word.length));
      return typeof reply === 'string' ? { data: reply } : reply;
    } catch (error) {
      // A machine that ends between two packets has no registers any more.
      return { data: error instanceof GdbRefusal ? `E.${error.message}` : ERROR.FAILED };
    }
  }

  stopReply(): string {
    const stop = this.#stop;
    if (stop.kind === 'ended') return `W${(stop.status & 0xff).toString(16).padStart(2, '0')}`;
    const { signal, detail } = STOPS[stop.kind];
    return `T${signal}thread:${threadNumber(stop.thread)};${detail(stop)}`;
  }

  select(rest: string): string {
    const thread = rest === '0' || rest === '-1' ? this.stopped : threadOf(this.target, rest);
    if (thread === undefined) return ERROR.INVALID;
    this.#selected = thread;
    return OK;
  }

  selectForRun(rest: string): string {
    const isAny = rest === '0' || rest === '-1';
    const thread = isAny ? undefined : threadOf(this.target, rest);
    if (!isAny && thread === undefined) return ERROR.INVALID;
    this.#selectedForRun = thread;
    return OK;
  }

  threadInfo(rest: string): string {
    const thread = threadOf(this.target, rest);
    return thread === undefined ? ERROR.INVALID : hexOf(Buffer.from(`vCPU ${thread}`));
  }

  async monitor(digits: string): Promise<string> {
    const text = bytesOf(digits)?.toString();
    if (text === undefined) return ERROR.INVALID;
    const answer = await this.target.monitor(this.#selected, text.trim());
    return hexOf(Buffer.from(answer.slice(0, MEMORY_MAX)));
  }

  resumeAll(action: ThreadAction): Promise<string> {
    const thread = this.#selectedForRun;
    if (thread !== undefined) return this.#resume(new Map([[thread, action]]));
    // A step of all is one of the thread that gdb looks at; the others go on.
    const actions = everyThread(this.target, 'continue');
    if (action === 'step') actions.set(this.#selected, 'step');
    return this.#resume(actions);
  }

  /** `c:1;s:2;c`: for each thread the first action that names it, or names none. */
  resumeEach(rest: string): string | Promise<string> {
    const actions = new Map<ThreadIndex, ThreadAction>();
    for (const item of rest.split(';')) {
      const [what = '', who] = item.split(':');
      // The signal of C and S means nothing to a machine.
      const action = /^(c|C[0-9a-f]{2})$/i.test(what) && what[0]?.toLowerCase() === 'c' ? 'continue' : 'step';
      if (!/^(c|s|C[0-9a-f]{2}|S[0-9a-f]{2})$/.test(what)) return ERROR.INVALID;
      const thread = who === undefined || who === '-1' ? undefined : threadOf(this.target, who);
      if (who !== undefined && who !== '-1' && thread === undefined) return ERROR.INVALID;
      const meant = thread === undefined ? [...everyThread(this.target, action).keys()] : [thread];
      for (const index of meant) if (!actions.has(index)) actions.set(index, action);
    }
    return this.#resume(actions);
  }

  kill(data: string): GdbReply {
    this.target.kill();
    return { data, ends: true };
  }

  async readAll(): Promise<string> {
    return encodeRegisters(await this.target.readRegisters(this.#selected));
  }

  async writeAll(digits: string): Promise<string> {
    const state = decodeRegisters(await this.target.readRegisters(this.#selected), digits);
    if (state === undefined) return ERROR.INVALID;
    await this.target.writeRegisters(this.#selected, state);
    return OK;
  }

  async readOne(digits: string): Promise<string> {
    const number = numberOf(digits);
    if (number === undefined) return ERROR.INVALID;
    return encodeRegister(await this.target.readRegisters(this.#selected), number) ?? ERROR.INVALID;
  }

  async writeOne(rest: string): Promise<string> {
    const [name = '', digits = ''] = rest.split('=');
    const number = numberOf(name);
    if (number === undefined) return ERROR.INVALID;
    const state = decodeRegister(await this.target.readRegisters(this.#selected), number, digits);
    if (state === undefined) return ERROR.INVALID;
    await this.target.writeRegisters(this.#selected, state);
    return OK;
  }

  async readMemory(rest: string): Promise<string> {
    const place = placeOf(rest);
    if (place === undefined) return ERROR.INVALID;
    const bytes = await this.target.readMemory(this.#selected, place.address, Math.min(place.length, MEMORY_MAX));
    return bytes.length === 0 && place.length > 0 ? ERROR.FAULT : hexOf(bytes);
  }

  async writeMemory(rest: string, decode: (data: string) => Uint8Array | undefined): Promise<string> {
    const colon = rest.indexOf(':');
    const place = placeOf(rest.slice(0, Math.max(colon, 0)));
    const bytes = decode(rest.slice(colon + 1));
    if (place === undefined || bytes?.length !== place.length) return ERROR.INVALID;
    // gdb asks with an empty X whether there is one.
    if (bytes.length === 0) return OK;
    return (await this.target.writeMemory(this.#selected, place.address, bytes)) ? OK : ERROR.FAULT;
  }

  async insert(rest: string): Promise<string> {
    const point = pointOf(rest);
    return point === undefined ? ERROR.INVALID : INSERTED[await this.target.insert(this.#selected, point)];
  }

  remove(rest: string): string {
    const point = pointOf(rest);
    if (point === undefined) return ERROR.INVALID;
    this.target.remove(point);
    return OK;
  }

  async #resume(actions: ReadonlyMap<ThreadIndex, ThreadAction>): Promise<string> {
    if (this.#stop.kind !== 'ended') this.#stop = await this.target.resume(actions);
    this.#selected = this.stopped;
    return this.stopReply();
  }
}

const INSERTED: Readonly<Record<PointResult, string>> = {
  ok: OK,
  unsupported: UNSUPPORTED,
  'no-memory': ERROR.FAULT,
  full: ERROR.FULL,
};

type LivingStop = Exclude<GdbStop, { kind: 'ended' }>;
const WATCH_WORDS = { write: 'watch', access: 'awatch' } as const;

/** By the kind of stop: the signal that gdb shows, and what it is told beside. */
const STOPS: Readonly<Record<LivingStop['kind'], { signal: string; detail: (stop: LivingStop) => string }>> = {
  interrupted: { signal: SIGNAL.INT, detail: () => '' },
  stepped: { signal: SIGNAL.TRAP, detail: () => '' },
  'software-breakpoint': { signal: SIGNAL.TRAP, detail: () => 'swbreak:;' },
  'hardware-breakpoint': { signal: SIGNAL.TRAP, detail: () => 'hwbreak:;' },
  watchpoint: {
    signal: SIGNAL.TRAP,
    detail: (stop) => (stop.kind === 'watchpoint' ? `${WATCH_WORDS[stop.access]}:${stop.address.toString(16)};` : ''),
  },
  failed: { signal: SIGNAL.SEGV, detail: () => '' },
};

/** A part of a text: `offset,length` in hexadecimal digits; `m` before it when more follows, `l` when not. */
function transfer(text: string, range: string): string {
  const place = placeOf(range);
  if (place === undefined) return ERROR.INVALID;
  const start = Number(place.address);
  const length = Math.min(place.length, PACKET_MAX - 64);
  return `${start + length < text.length ? 'm' : 'l'}${text.slice(start, start + length)}`;
}

function threadsXml({ threads }: GdbTarget): string {
  const rows = Array.from(
    { length: threads },
    (_, index) => `<thread id="${threadNumber(index)}" core="${index}" name="vCPU ${index}"/>`,
  );
  return `<?xml version="1.0"?><threads>${rows.join('')}</threads>`;
}

function everyThread({ threads }: GdbTarget, action: ThreadAction): Map<ThreadIndex, ThreadAction> {
  return new Map(Array.from({ length: threads }, (_, index) => [index, action]));
}

function threadNumbers({ threads }: GdbTarget): string[] {
  return Array.from({ length: threads }, (_, index) => threadNumber(index));
}

function threadNumber(index: ThreadIndex): string {
  return (index + 1).toString(16);
}

/** Undefined for a number that no thread has. */
function threadOf({ threads }: GdbTarget, digits: string): ThreadIndex | undefined {
  const number = numberOf(digits);
  return number !== undefined && number >= 1 && number <= threads ? number - 1 : undefined;
}

function numberOf(digits: string): number | undefined {
  return /^[0-9a-f]{1,8}$/i.test(digits) ? Number.parseInt(digits, 16) : undefined;
}

/** `address,length`. */
function placeOf(text: string): { readonly address: bigint; readonly length: number } | undefined {
  const [, address, length] = /^([0-9a-f]{1,16}),([0-9a-f]{1,8})$/i.exec(text) ?? [];
  if (address === undefined || length === undefined) return undefined;
  return { address: BigInt(`0x${address}`), length: Number.parseInt(length, 16) };
}

/** `kind,address,length`; conditions and commands behind them are gdb's affair, since they were not announced. */
function pointOf(text: string): Point | undefined {
  const kind = POINT_KINDS[/^[0-4],/.test(text) ? Number(text[0]) : -1];
  const place = placeOf(text.slice(2));
  return kind === undefined || place === undefined ? undefined : { kind, ...place };
}

function bytesOf(digits: string): Buffer | undefined {
  return /^([0-9a-f]{2})*$/i.test(digits) ? Buffer.from(digits, 'hex') : undefined;
}

function hexOf(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('hex');
}
