// The door for gdb: a loopback port or a Unix socket, one debugger at a time. The protocol itself is vcpu/gdb/.
// GDB manual, appendix "Remote Serial Protocol": Overview, Packet Acknowledgment, Interrupts.
import { chmodSync, lstatSync, rmSync } from 'node:fs';
import { once } from 'node:events';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { GdbSession } from '../vcpu/gdb/commands.js';
import { frame, PacketReader, type GdbInput } from '../vcpu/gdb/packets.js';
import { MachineTarget, type DebuggedMachine } from './gdb-target.js';

export interface GdbConfig {
  /** A TCP port on 127.0.0.1, 0 for any free one; or the path of a Unix socket, which only its owner can open. */
  readonly listen: number | string;
  /** The machine does not start before a debugger lets it. Default false. */
  readonly wait?: boolean | undefined;
}

const HOST = '127.0.0.1';
/** Packets that a peer may send ahead; gdb waits for each reply. */
const QUEUE_MAX = 64;
/** How long the last reply may take to be sent. */
const FAREWELL_MS = 500;

export class GdbServer {
  readonly #server: Server;
  #connection: Connection | undefined;
  #machine: DebuggedMachine | undefined;
  #isClosed = false;

  private constructor(
    server: Server,
    /** As gdb's `target remote` takes it. */
    readonly address: string,
    private readonly warn: (message: string) => void,
  ) {
    this.#server = server;
    server.on('connection', (socket) => void this.#accept(socket));
  }

  /** @throws Error that names the address when it cannot be had */
  static async listen({ listen }: GdbConfig, warn: (message: string) => void): Promise<GdbServer> {
    const server = createServer();
    if (typeof listen === 'string') await removeDeadSocket(listen);
    try {
      const listening = once(server, 'listening');
      if (typeof listen === 'string') server.listen(listen);
      else server.listen(listen, HOST);
      await listening;
    } catch (error) {
      const { code = 'unknown' } = error as NodeJS.ErrnoException;
      const remedy = code === 'EADDRINUSE' ? 'something else listens there; choose another' : 'choose another';
      throw new Error(`gdb: no debugger can connect to ${String(listen)} (${code}); ${remedy}`, { cause: error });
    }
    if (typeof listen === 'string') chmodSync(listen, 0o600);
    const bound = server.address();
    const address = typeof bound === 'object' && bound !== null ? `${HOST}:${bound.port}` : String(bound);
    return new GdbServer(server, address, warn);
  }

  /** From now on debuggers are served; until then they wait at the door. */
  serve(machine: DebuggedMachine): void {
    this.#machine = machine;
    this.#connection?.begin(machine);
  }

  /** The machine has ended: the debugger is told, and the door is shut. Without a status, only the latter. */
  async close(status?: number): Promise<void> {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#server.close();
    await this.#connection?.end(status);
  }

  async #accept(socket: Socket): Promise<void> {
    // A peer that breaks off is one that has gone; also one that still waits here.
    socket.on('error', () => undefined);
    // One that has gone may still be letting the guest go.
    if (this.#connection?.isOpen === false) await this.#connection.ended;
    if (this.#connection !== undefined || this.#isClosed || socket.destroyed) {
      socket.destroy();
      return;
    }
    const connection = new Connection(socket, this.warn);
    this.#connection = connection;
    if (this.#machine !== undefined) connection.begin(this.#machine);
    await connection.ended;
    if (this.#connection === connection) this.#connection = undefined;
  }
}

/** One debugger. */
class Connection {
  /** Resolves when the debugger is gone and the machine goes on without it. */
  readonly ended: Promise<void>;
  readonly #reader = new PacketReader();
  readonly #packets: string[] = [];
  #target: MachineTarget | undefined;
  #session: GdbSession | undefined;
  #isBusy = false;
  #acknowledges = true;
  #lastReply: Buffer = Buffer.alloc(0);
  readonly #closed: Promise<unknown>;

  constructor(
    private readonly socket: Socket,
    private readonly warn: (message: string) => void,
  ) {
    socket.setNoDelay(true);
    socket.on('data', (bytes) => {
      for (const input of this.#reader.push(bytes)) this.#take(input);
    });
    this.#closed = new Promise((resolve) => socket.once('close', resolve));
    this.ended = this.#closed.then(() => this.#target?.detach().catch(() => undefined));
  }

  begin(machine: DebuggedMachine): void {
    const target = new MachineTarget(machine);
    this.#target = target;
    void machine.hold().then(() => {
      this.#session = new GdbSession(target);
      void this.#serve();
    });
  }

  get isOpen(): boolean {
    return !this.socket.destroyed && !this.socket.writableEnded && !this.socket.readableEnded;
  }

  async end(status: number | undefined): Promise<void> {
    this.#target?.end(status ?? 0);
    // The reply to the `continue` under way says how it ended; it is on its way to the socket now.
    await new Promise((resolve) => setImmediate(resolve));
    this.socket.end();
    setTimeout(() => this.socket.destroy(), FAREWELL_MS).unref();
    await this.#closed;
  }

  #take(input: GdbInput): void {
    switch (input.kind) {
      case 'interrupt':
        if (this.#isBusy) this.#target?.interrupt();
        return;
      case 'not-acknowledged':
        if (this.#acknowledges) this.#send(this.#lastReply);
        return;
      case 'acknowledged':
        return;
      case 'corrupt':
        if (this.#acknowledges) this.#send(Buffer.from('-'));
        return;
      case 'foreign':
        // Such as a browser that a page has sent here: what it says is not listened to.
        if (!this.socket.destroyed) this.warn('a peer that does not speak the GDB protocol was sent away');
        this.socket.destroy();
        return;
      case 'packet':
        if (this.#acknowledges) this.#send(Buffer.from('+'));
        if (this.#packets.length >= QUEUE_MAX || this.socket.destroyed) this.socket.destroy();
        else this.#packets.push(input.data);
        void this.#serve();
    }
  }

  async #serve(): Promise<void> {
    if (this.#isBusy || this.#session === undefined) return;
    this.#isBusy = true;
    for (let packet = this.#packets.shift(); packet !== undefined; packet = this.#packets.shift()) {
      const { data, noAcknowledgment, ends } = await this.#session.answer(packet);
      if (this.socket.destroyed) break;
      this.#lastReply = frame(data);
      const isTaken = this.#send(this.#lastReply);
      if (noAcknowledgment === true) this.#acknowledges = false;
      if (ends === true) this.socket.end();
      else if (!isTaken) await Promise.race([once(this.socket, 'drain'), this.#closed]);
    }
    this.#isBusy = false;
  }

  #send(bytes: Buffer): boolean {
    return this.socket.destroyed || !this.socket.writable || this.socket.write(bytes);
  }
}

/** A socket that a killed process left behind is nobody's; one that answers is somebody's, and stays. */
async function removeDeadSocket(path: string): Promise<void> {
  if (lstatSync(path, { throwIfNoEntry: false })?.isSocket() !== true) return;
  const probe = connect(path);
  const isDead = await new Promise<boolean>((resolve) => {
    probe.once('connect', () => resolve(false));
    probe.once('error', (error: NodeJS.ErrnoException) => resolve(error.code === 'ECONNREFUSED'));
  });
  probe.destroy();
  if (isDead) rmSync(path, { force: true });
}
