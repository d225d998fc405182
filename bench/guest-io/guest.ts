// The default guest as a load generator: a machine with a disk and a network, and what each piece of work costs there.
// The counters are looked at from outside; bench/guest-io/load.c is what runs in the guest, in place of a shell.
import { execFileSync, spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface, type Interface } from 'node:readline';
import { text } from 'node:stream/consumers';
import { fileURLToPath } from 'node:url';
import { prepareGuest } from '../../guests/linux/prepare.js';
import { createDisk } from '../../src/cli/disk-create.js';
import { createVm, type Vm } from '../../src/index.js';
import { threadCpuNanoseconds } from '../../src/kvm/host-thread.js';
import { PORT } from '../../src/memory/layout.js';
import { fileCases } from '../virtio-block.js';
import { netCases } from '../virtio-net.js';
import { enterOwnNetwork, ip, noNetns } from '../../test/support/netns.js';

const MIB = 2 ** 20;
const DISK_BYTES = 64 * MIB;
const WARM_BATCHES = 200;
/** The two ends of the TAP. */
const ADDRESS = { host: '10.90.0.1', guest: '10.90.0.2' } as const;
const TAP = 'bench0';

/** What one piece of work took; times in nanoseconds of a processor. */
export interface Cost {
  readonly owner: number;
  readonly vcpu: number;
  /** The process's other threads: those of the disk, and Node's own. */
  readonly others: number;
  /** Exits to user space at the device's registers. */
  readonly registerExits: number;
  /** All other exits; those of the line over which load and host talk are left out. */
  readonly otherExits: number;
  readonly rings: number;
  /** Wake-ups of the owner by a doorbell. */
  readonly kicks: number;
  readonly interrupts: number;
  /** Requests, or frames with the buffers for them, that the device took. */
  readonly chains: number;
  readonly wallSeconds: number;
}

type Counts = { readonly [name in keyof Cost]: number };

/** COUNT is put in its place. */
export interface Work {
  /** A line of load.c, with COUNT where the amount goes. */
  readonly line: string;
  readonly device: 'disk1' | 'net0';
}

export class LoadGuest {
  /** Why there is no network, or undefined. */
  readonly noNetwork: string | undefined;
  readonly #vm: Vm;
  readonly #folder: string;
  readonly #peer: ChildProcess | undefined;
  readonly #port: number;
  readonly #lines: Interface;
  readonly #heard: string[] = [];
  #wake: () => void = () => undefined;
  #errors: Promise<string>;

  private constructor(
    vm: Vm,
    parts: { folder: string; peer: ChildProcess | undefined; port: number; noNetwork: string | undefined },
  ) {
    this.#vm = vm;
    this.#folder = parts.folder;
    this.#peer = parts.peer;
    this.#port = parts.port;
    this.noNetwork = parts.noNetwork;
    const { exec } = vm;
    if (exec === undefined) throw new Error('the machine has no exec channel');
    this.#errors = Promise.all([text(exec.stderr), text(vm.console.output)]).then((words) =>
      words.join('').slice(-2000),
    );
    this.#lines = createInterface({ input: exec.stdout });
    const hear = (line: string): void => {
      this.#heard.push(line);
      this.#wake();
    };
    this.#lines.on('line', hear);
    this.#lines.on('close', () => hear(''));
  }

  /** Moves this process into a network namespace of its own, when it may. */
  static async start(): Promise<LoadGuest> {
    const guest = await prepareGuest({ flavour: 'small' });
    const folder = mkdtempSync(join(tmpdir(), 'microvisor-bench-'));
    const program = join(folder, 'program', 'load');
    let peer: ChildProcess | undefined;
    try {
      mkdirSync(join(folder, 'program'));
      const source = fileURLToPath(new URL('../../../bench/guest-io/load.c', import.meta.url));
      execFileSync('cc', ['-O2', '-static', '-o', program, source]);
      const tools = join(folder, 'tools');
      const { signal } = new AbortController();
      await createDisk({ path: tools, bytes: 16 * MIB, from: join(folder, 'program'), force: false, signal });
      await warmUp(folder);
      const data = join(folder, 'data');
      // Written, so that it lies in the page cache and has no holes.
      writeFileSync(data, new Uint8Array(DISK_BYTES).fill(0x5a));
      let port = 0;
      if (noNetns === undefined) {
        enterOwnNetwork();
        ip(`tuntap add dev ${TAP} mode tap`);
        ip(`addr add ${ADDRESS.host}/24 dev ${TAP}`);
        ip(`link set ${TAP} up`);
        peer = spawn(program, ['peer', ADDRESS.host], { stdio: ['ignore', 'pipe', 'inherit'] });
        port = Number(await firstLine(peer));
      }
      const vm = await createVm({
        kernel: guest.kernel,
        initrd: guest.initrd,
        cmdline: `${guest.cmdline} microvisor.ip=eth0:${ADDRESS.guest}/24`,
        appendQuirkOptions: true,
        disks: [{ path: tools, readOnly: true }, { path: data }],
        nets: peer === undefined ? [] : [{ backend: { kind: 'tap', name: TAP } }],
        exec: { argv: ['/mnt/vda/load'] },
      });
      await vm.start();
      return new LoadGuest(vm, { folder, peer, port, noNetwork: noNetns });
    } catch (error) {
      peer?.kill();
      rmSync(folder, { recursive: true });
      throw error;
    }
  }

  /** @param count 0 for the cost of the talk itself */
  async cost({ line, device }: Work, count: number): Promise<Cost> {
    const words = line.replace('ADDRESS', `${ADDRESS.host} ${this.#port}`).replace('COUNT', `${count}`);
    await this.#say(words, 'ready');
    const before = this.#counts(device);
    await this.#say('go', 'done');
    const after = this.#counts(device);
    const entries = Object.entries(after) as [keyof Cost, number][];
    return Object.fromEntries(entries.map(([name, value]) => [name, value - before[name]])) as Counts;
  }

  async close(): Promise<void> {
    this.#lines.close();
    await this.#vm.stop();
    if (this.#peer?.exitCode === null) {
      this.#peer.kill();
      await once(this.#peer, 'exit');
    }
    rmSync(this.#folder, { recursive: true });
  }

  async #say(words: string, answer: string): Promise<void> {
    this.#vm.exec?.stdin.write(`${words}\n`);
    for (;;) {
      const line = this.#heard.shift();
      if (line?.startsWith(answer) === true) return;
      if (line !== undefined) throw new Error(`the guest answered "${words}" with "${line}": ${await this.#errors}`);
      await new Promise<void>((resolve) => (this.#wake = resolve));
    }
  }

  #counts(name: string): Counts {
    const { vcpus, virtio } = this.#vm.report();
    const owner = Number(threadCpuNanoseconds());
    const vcpu = this.#vm.vcpus[0]?.cpuNanoseconds ?? Number.NaN;
    const { user, system } = process.cpuUsage();
    const wallSeconds = performance.now() / 1000;
    const [exits] = vcpus;
    const device = virtio.find((row) => row.name === name);
    if (exits === undefined || device === undefined) throw new Error(`the machine has no ${name}`);
    const sum = (rows: readonly { readonly count: number }[]): number =>
      rows.reduce((all, { count }) => all + count, 0);
    const registerExits = sum(exits.mmio.filter((row) => row.device === name));
    const talk = sum(exits.ports.filter(({ port }) => port >= PORT.COM2 && port < PORT.COM2 + 8));
    return {
      owner,
      vcpu,
      others: (user + system) * 1000 - owner - vcpu,
      registerExits,
      otherExits: sum(exits.reasons) - registerExits - talk,
      rings: device.rings,
      kicks: device.kicks,
      interrupts: device.interrupts,
      chains: device.chains,
      wallSeconds,
    };
  }
}

/** A machine that has run for a while has its devices compiled; some hundred requests of a guest do not get there. */
async function warmUp(folder: string): Promise<void> {
  for (const row of fileCases(folder)) await row.measure(row.batches);
  for (const row of netCases) await row.measure(WARM_BATCHES);
}

async function firstLine(child: ChildProcess): Promise<string> {
  if (child.stdout === null) throw new Error('the peer has no output');
  const lines = createInterface({ input: child.stdout });
  const [line] = (await once(lines, 'line')) as [string];
  return line;
}
