// A user-mode network that needs no privileges: Debian's passt as a child, its DHCP server, and ports of the host.
// passt(1); the socket pair is the child's file descriptor 3.
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import type { Socket } from 'node:net';
import { arpProbe, isProbeAnswer } from './arp-probe.js';
import { FRAME_MAX } from './ethernet.js';
import { FrameReader, packFrame } from './frame-stream.js';
import type { NetBackend, NetLink } from './net-backend.js';

export interface PasstForward {
  readonly host: number;
  readonly guest: number;
}

export interface PasstOptions {
  /** TCP and UDP ports of the host that lead to ports of the guest. */
  readonly forwards?: readonly PasstForward[];
  /** Where the host's ports are bound. Default 127.0.0.1: what the guest serves is for this machine. */
  readonly forwardAddress?: string;
  /** The program. Default: passt, as PATH finds it. */
  readonly program?: string;
}

const SOCKET_FD = 3;
/** How long passt may take to answer, or to say why it does not. */
const START_MS = 2000;
const PROBE_EVERY_MS = 20;
const END_MS = 1000;
const RESTART_MS = { FIRST: 250, LAST: 5000 } as const;
/** Bytes for passt that wait here: then the guest's wait in its ring. */
const WAITING_MAX = 256 << 10;
/** The last words that are kept of it. */
const WORDS_MAX = 4096;

/** A passt that runs. */
interface Child {
  readonly process: ChildProcess;
  readonly socket: Socket;
  readonly reader: FrameReader;
  words: string;
  isReady: boolean;
}

export class PasstBackend implements NetBackend {
  readonly #options: PasstOptions;
  #link: NetLink | undefined;
  #child: Child | undefined;
  #isClosed = false;
  #timer: NodeJS.Timeout | undefined;
  #delay: number = RESTART_MS.FIRST;
  readonly #counters = { passtStarts: 0, passtLost: 0 };

  constructor(options: PasstOptions = {}) {
    this.#options = options;
  }

  async open(link: NetLink): Promise<void> {
    this.#link = link;
    this.#child = await this.#start(link);
  }

  send(frame: Uint8Array): boolean {
    const child = this.#child;
    // The cable is out: what is sent is lost, as in real life.
    if (child === undefined || !child.socket.writable) return true;
    const { socket } = child;
    if (socket.writableLength > WAITING_MAX) return false;
    if (socket.writableCorked === 0) {
      // The frames of one turn go out with one system call.
      socket.cork();
      queueMicrotask(() => socket.uncork());
    }
    socket.write(packFrame(frame));
    return true;
  }

  resume(): void {
    const child = this.#child;
    if (child !== undefined && this.#take(child, Buffer.alloc(0))) child.socket.resume();
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    clearTimeout(this.#timer);
    const child = this.#child;
    this.#child = undefined;
    if (child !== undefined) await end(child);
  }

  counters(): Readonly<Record<string, number>> {
    return this.#counters;
  }

  /** @throws Error when passt is missing, or ends instead of answering */
  async #start(link: NetLink): Promise<Child> {
    const { program = 'passt' } = this.#options;
    this.#counters.passtStarts++;
    // A session of its own: ^C in the terminal is this process's to handle. It ends when its socket is closed.
    const process = spawn(program, passtArguments(this.#options), {
      stdio: ['ignore', 'ignore', 'pipe', 'pipe'],
      detached: true,
    });
    // `once` rejects when the process emits an error instead: it could not be started.
    await once(process, 'spawn').catch((error: unknown) => {
      throw startError(program, error);
    });
    const socket = process.stdio[SOCKET_FD] as Socket;
    const child: Child = { process, socket, reader: new FrameReader(FRAME_MAX), words: '', isReady: false };
    process.stderr?.on('data', (bytes: Buffer) => (child.words = (child.words + bytes.toString()).slice(-WORDS_MAX)));
    // Its end is seen by 'exit'; a socket that breaks is its end, too.
    socket.on('error', () => undefined);
    process.on('error', () => undefined);
    socket.on('data', (piece) => void this.#take(child, piece));
    socket.on('drain', () => link.ready());
    const hasExited = new Promise<void>((resolve) => process.once('exit', () => resolve())).then(() => lastSaid(child));
    if ((await this.#answer(child, link.mac, hasExited)) === 'exited') {
      socket.destroy();
      await hasExited;
      throw new Error(
        `the user network's ${program} ended at once: ${lastWords(child.words)}; it needs an interface with an ` +
          'address and a default route, and its ports free (forward)',
      );
    }
    void hasExited.then(() => this.#onEnd(child));
    if (this.#isClosed) await end(child);
    return child;
  }

  /** Asks until passt answers: then its sockets are bound and its namespaces made. */
  async #answer(child: Child, mac: Uint8Array, hasExited: Promise<void>): Promise<'ready' | 'exited'> {
    // Without IPv4 it never answers; then it is taken for ready when it lived for so long.
    for (const until = performance.now() + START_MS; !child.isReady && performance.now() < until;) {
      if (child.socket.writable) child.socket.write(packFrame(arpProbe(mac)));
      let timer: NodeJS.Timeout | undefined;
      await Promise.race([hasExited, new Promise((resolve) => (timer = setTimeout(resolve, PROBE_EVERY_MS)))]);
      clearTimeout(timer);
      if (hasEnded(child)) return 'exited';
    }
    child.isReady = true;
    return 'ready';
  }

  /** Hands frames to the guest. @returns false when it has no room: the socket stands still until `resume` */
  #take(child: Child, piece: Buffer): boolean {
    const result = child.reader.push(piece, (frame) => {
      if (isProbeAnswer(frame)) {
        child.isReady = true;
        return true;
      }
      // Until it is ready the cable is out. A guest without room would stop its answer, too, and `resume` not know of it.
      return frame.length === 0 || this.#child !== child || (this.#link?.receive(frame) ?? true);
    });
    if (result === 'stopped') child.socket.pause();
    else if (result === 'broken') child.socket.destroy();
    return result === 'all';
  }

  #onEnd(child: Child): void {
    child.socket.destroy();
    if (this.#isClosed || this.#child !== child) return;
    this.#child = undefined;
    this.#counters.passtLost++;
    this.#link?.setLinkUp(false);
    this.#link?.warn(`passt ended (${lastWords(child.words)}); the guest's cable is out until it runs again`);
    // What the guest wanted to send is for nobody now.
    this.#link?.ready();
    this.#restartLater();
  }

  #restartLater(): void {
    this.#timer = setTimeout(() => void this.#restart(), this.#delay);
    this.#timer.unref();
    this.#delay = Math.min(this.#delay * 2, RESTART_MS.LAST);
  }

  async #restart(): Promise<void> {
    const link = this.#link;
    if (this.#isClosed || link === undefined) return;
    try {
      this.#child = await this.#start(link);
    } catch {
      if (!this.#isClosed) this.#restartLater();
      return;
    }
    this.#delay = RESTART_MS.FIRST;
    link.setLinkUp(true);
  }
}

function passtArguments({ forwards = [], forwardAddress = '127.0.0.1' }: PasstOptions): string[] {
  const ports = forwards.map(({ host, guest }) => `${forwardAddress}/${host}:${guest}`);
  const specs = ports.length === 0 ? ['none'] : ports;
  // `-u` too: passt would forward the UDP ports of the same numbers untranslated.
  const options = specs.flatMap((spec) => ['-t', spec, '-u', spec]);
  return ['--foreground', '--stderr', '--fd', `${SOCKET_FD}`, ...options];
}

/** Closes the socket, which is the sign for passt to end, and waits; a passt that does not listen is killed. */
async function end(child: Child): Promise<void> {
  const { process, socket } = child;
  socket.destroy();
  if (hasEnded(child)) return;
  const timer = setTimeout(() => process.kill('SIGKILL'), END_MS);
  await once(process, 'exit');
  clearTimeout(timer);
}

/** What a process said last may come after the news of its exit. Who holds its standard error open is not waited for long. */
async function lastSaid({ process: { stderr } }: Child): Promise<void> {
  if (stderr === null || stderr.closed) return;
  let timer: NodeJS.Timeout | undefined;
  await Promise.race([once(stderr, 'close'), new Promise((resolve) => (timer = setTimeout(resolve, END_MS)))]);
  clearTimeout(timer);
}

function hasEnded({ process }: Child): boolean {
  return process.exitCode !== null || process.signalCode !== null;
}

function startError(program: string, error: unknown): Error {
  const { code, message } = error as NodeJS.ErrnoException;
  const what = `the user network needs ${program}`;
  if (code === 'ENOENT')
    return new Error(`${what}, which is not installed; on Debian or Ubuntu: sudo apt-get install passt`);
  return new Error(`${what}, which cannot be started: ${message}`, { cause: error });
}

/** Its last line that is no complaint about the system log. */
function lastWords(words: string): string {
  const lines = words.split('\n').filter((line) => line.trim() !== '' && !line.endsWith('to syslog'));
  return lines.at(-1)?.trim() ?? 'without a word';
}
