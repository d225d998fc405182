// The exit explorer of a running machine: a page on this machine that shows it and steers it.
// While no page is open nothing is looked at or traced for it; while one is, the machine is looked at a few times a second.
import { System } from '../kvm/system.js';
import { debugFacilities } from '../machine/host-quirks.js';
import type { Vm } from '../machine/vm.js';
import { ControlRefusal, Controls, stepLimit } from './controls.js';
import { lastWords } from './end-report.js';
import { MachineView } from './machine-view.js';
import { servePage, type PageClient, type PageHandlers, type PageServer } from './page-server.js';
import type { Hello, MachineState, PageRequest, ServerMessage } from './protocol.js';

export interface ExploreOptions {
  /** Of 127.0.0.1; 0, the default, for any free one. */
  readonly port?: number;
  /** Where the page saves the machine; default `microvisor-snapshot`. */
  readonly snapshotFolder?: string;
  /** What the page calls the machine; default `the machine`. */
  readonly name?: string;
}

/** An open explorer. */
export interface Explorer extends AsyncDisposable {
  /** The page's address, with its token. Whoever has it has the whole machine. */
  readonly url: string;
  close(): Promise<void>;
}

const PERIOD_MS = 200;
/** Every so many looks the page gets the histograms. */
const LATENCY_PERIODS = 5;
/** What the guest printed and a page that opens later is shown. */
const SCROLLBACK_BYTES = 256 << 10;
const PIECE_BYTES = 4096;
/** Typed bytes that wait for the guest; further ones are refused. */
const TYPE_AHEAD = 4096;

/** As `explore` in index.ts. */
export async function openExplorer(vm: Vm, options: ExploreOptions = {}): Promise<Explorer> {
  if (vm.gdbAddress !== undefined)
    throw new Error('explore: gdb may stop and step the machine, so the page cannot; create it without gdb');
  const session = new LiveSession(vm, options);
  const server = await servePage(options.port ?? 0, session);
  void vm.outcome.then((outcome) => session.end(lastWords(outcome)));
  return new OpenExplorer(server, session);
}

class OpenExplorer implements Explorer {
  constructor(
    private readonly server: PageServer,
    private readonly session: LiveSession,
  ) {}

  get url(): string {
    return this.server.url;
  }

  async close(): Promise<void> {
    this.session.close();
    await this.server.close();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}

class LiveSession implements PageHandlers {
  readonly #vm: Vm;
  readonly #options: ExploreOptions;
  readonly #view: MachineView;
  readonly #controls: Controls;
  readonly #stepLimit: string | undefined;
  readonly #fields: Hello['fields'];
  readonly #clients = new Set<PageClient>();
  #scrollback: Uint8Array[] = [];
  #scrollbackBytes = 0;
  #timer: NodeJS.Timeout | undefined;
  #looks = 0;
  #told = '';
  #ended: readonly ServerMessage[] | undefined;
  readonly #print = (bytes: Buffer): void => this.#onOutput(bytes);

  constructor(vm: Vm, options: ExploreOptions) {
    const inspected = vm.inspect();
    using system = System.open();
    const facilities = debugFacilities(system, inspected.quirks);
    this.#vm = vm;
    this.#options = options;
    this.#view = new MachineView(vm, inspected);
    this.#controls = new Controls(vm, facilities);
    this.#stepLimit = stepLimit(facilities);
    this.#fields = inspected.fields.map(({ device, name, doc }) => ({ device, name, doc }));
    vm.console.output.on('data', this.#print);
  }

  onOpen(client: PageClient): void {
    const hello = this.#hello();
    client.send(hello);
    for (const bytes of this.#scrollback) client.sendBytes(bytes);
    client.send({ type: 'tick', at: performance.now(), vcpus: this.#view.counters(), fields: this.#view.allFields() });
    client.send(this.#stateMessage());
    this.#clients.add(client);
    if (this.#ended !== undefined) for (const message of this.#ended) client.send(message);
    else if (this.#vm.state === 'paused') void this.#sendProcessors([client]);
    if (this.#timer === undefined && this.#ended === undefined) {
      this.#view.lookAgain();
      this.#timer = setInterval(() => this.#look(), PERIOD_MS);
      this.#timer.unref();
    }
  }

  onClose(client: PageClient): void {
    this.#clients.delete(client);
    if (this.#clients.size === 0) this.#rest();
  }

  onRequest(client: PageClient, request: PageRequest): void {
    this.#serve(client, request).catch((error: unknown) => {
      const text = error instanceof Error ? error.message : String(error);
      client.send({
        type: 'notice',
        kind: 'problem',
        text: error instanceof ControlRefusal ? text : `It failed: ${text}`,
      });
    });
  }

  /** The last look, and how it ended. */
  end(messages: readonly ServerMessage[]): void {
    this.#look();
    this.#looks = 0;
    this.#broadcast({ type: 'latencies', rows: this.#view.latencies.rows() });
    this.#rest();
    this.#ended = messages;
    for (const message of messages) this.#broadcast(message);
  }

  close(): void {
    this.#rest();
    this.#vm.console.output.off('data', this.#print);
  }

  async #serve(client: PageClient, request: PageRequest): Promise<void> {
    switch (request.type) {
      case 'input':
        this.#type(request.text);
        return;
      case 'memory':
      case 'walk':
      case 'span':
        client.send({ type: 'answer', id: request.id, ...(await this.#view.answer(request)) });
        return;
      default:
        await this.#steer(request, client);
    }
  }

  async #steer(
    request: Extract<PageRequest, { type: 'pause' | 'resume' | 'snapshot' | 'step-exit' | 'step-instruction' | 'nmi' }>,
    client: PageClient,
  ): Promise<void> {
    if (this.#ended !== undefined) throw new ControlRefusal('The machine has ended.');
    if ('vcpu' in request && request.vcpu >= this.#vm.vcpus.length)
      throw new ControlRefusal(`There is no vCPU ${request.vcpu}.`);
    const say = (text: string): void => client.send({ type: 'notice', kind: 'done', text });
    const { snapshotFolder = 'microvisor-snapshot' } = this.#options;
    const act = async (): Promise<void> => {
      switch (request.type) {
        case 'pause':
          return this.#controls.pause();
        case 'resume':
          return this.#controls.resume();
        case 'nmi':
          await this.#controls.nmi(request.vcpu);
          return say(`An NMI was sent to vCPU ${request.vcpu}.`);
        case 'snapshot':
          await this.#controls.snapshot(snapshotFolder);
          return say(`Saved in ${snapshotFolder}. It goes on with: microvisor restore ${snapshotFolder}`);
        default: {
          const word = this.#controls.step(request.vcpu, request.type === 'step-exit' ? 'exit' : 'step');
          // A step may take as long as it likes; the page is to say so.
          setTimeout(() => this.#tellState(), PERIOD_MS).unref();
          const problem = await word;
          if (problem !== undefined) client.send({ type: 'notice', kind: 'problem', text: problem });
        }
      }
    };
    try {
      await act();
    } finally {
      // After a short step the machine is paused as it was, but elsewhere.
      if ('vcpu' in request) this.#told = '';
      this.#look();
      if (this.#vm.state === 'paused') this.#view.stoodStill();
    }
  }

  #type(text: string): void {
    const { input } = this.#vm.console;
    if (this.#ended === undefined && input.writable && input.writableLength <= TYPE_AHEAD) input.write(text);
  }

  #onOutput(bytes: Buffer): void {
    const last = this.#scrollback.at(-1);
    // A guest prints byte by byte, and a piece of one byte takes a hundred.
    if (last !== undefined && last.length < PIECE_BYTES)
      this.#scrollback[this.#scrollback.length - 1] = Buffer.concat([last, bytes]);
    else this.#scrollback.push(bytes);
    this.#scrollbackBytes += bytes.length;
    while (this.#scrollbackBytes > SCROLLBACK_BYTES) this.#scrollbackBytes -= this.#scrollback.shift()?.length ?? 0;
    for (const client of this.#clients) client.sendBytes(bytes);
  }

  #look(): void {
    if (this.#clients.size === 0) return;
    const fields = this.#view.changedFields();
    this.#broadcast({ type: 'tick', at: performance.now(), vcpus: this.#view.counters(), fields });
    if (this.#view.isTraced) this.#broadcast(this.#view.exits());
    if (this.#looks++ % LATENCY_PERIODS === 0 && this.#view.isTraced)
      this.#broadcast({ type: 'latencies', rows: this.#view.latencies.rows() });
    this.#tellState();
  }

  #tellState(): void {
    const message = this.#stateMessage();
    const word = JSON.stringify(message);
    if (word === this.#told) return;
    this.#told = word;
    this.#broadcast(message);
    if (this.#vm.state === 'paused' && !this.#controls.isStepping) void this.#sendProcessors(this.#clients);
  }

  async #sendProcessors(clients: Iterable<PageClient>): Promise<void> {
    try {
      const processors = await this.#view.processors();
      for (const client of clients) client.send(processors);
    } catch {
      // It went on, or ended, meanwhile; or a vCPU is not parked yet, and the next look asks again.
      this.#told = '';
    }
  }

  #stateMessage(): ServerMessage {
    return { type: 'state', state: this.#vm.state satisfies MachineState, isStepping: this.#controls.isStepping };
  }

  #rest(): void {
    if (this.#timer !== undefined) this.#view.lookAway();
    clearInterval(this.#timer);
    this.#timer = undefined;
  }

  #broadcast(message: ServerMessage): void {
    for (const client of this.#clients) client.send(message);
  }

  #hello(): Hello {
    const { kernel, memoryMiB } = this.#vm.report();
    return {
      type: 'hello',
      mode: 'live',
      name: this.#options.name ?? 'the machine',
      cmdline: kernel.cmdline,
      cpus: this.#vm.vcpus.length,
      memoryMiB,
      tscKhz: this.#view.tscKhz,
      devices: this.#vm.deviceMap(),
      fields: this.#fields,
      stepLimit: this.#stepLimit,
      isTraced: this.#view.isTraced,
      snapshotFolder: this.#options.snapshotFolder ?? 'microvisor-snapshot',
    };
  }
}
