// One guest of a test: it goes on where its bench has booted to, and is asked what it does.
import { text } from 'node:stream/consumers';
import type { ExecRequest } from '../machine/config.js';
import type { Outcome } from '../machine/outcome.js';
import type { NamedExits } from '../machine/report.js';
import type { Vm } from '../machine/vm.js';
import type { GuestMemory } from '../memory/guest-memory.js';
import { readDisk, type DiskFiles } from './disk.js';
import { DEFAULT_TIMEOUT_MS, GuestTestError, tail, Transcript, within } from './wait.js';

export interface CommandResult {
  /** As a shell gives it: 128 + n for signal n, 126 and 127 when it could not be run. */
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
}

export interface RunOptions {
  /** What the command reads; default: nothing. */
  readonly stdin?: string | Uint8Array;
  readonly env?: ExecRequest['env'];
  readonly cwd?: string;
  readonly timeoutMs?: number;
}

export interface WaitOptions {
  readonly timeoutMs?: number;
}

export class Guest implements AsyncDisposable {
  readonly #console: Transcript;
  readonly #disks: readonly DiskFiles[];
  readonly #forget: () => Promise<void>;
  #seen = 0;

  /** @param vm of a bench, running; @param forget removes what was the guest's own */
  constructor(
    readonly vm: Vm,
    disks: readonly DiskFiles[],
    forget: () => Promise<void>,
  ) {
    this.#console = new Transcript(vm.console.output);
    this.#disks = disks;
    this.#forget = forget;
  }

  /** What the guest has printed on its console since its bench, one character for each byte. */
  get console(): string {
    return this.#console.text;
  }

  /** Guest RAM, live, until the guest has ended. `vm.pause()` keeps the guest from changing it. */
  get memory(): GuestMemory {
    return this.vm.memory;
  }

  /** Exits since the bench, of all vCPUs: by reason, port and address. */
  get exits(): Pick<NamedExits, 'reasons' | 'ports' | 'mmio'> {
    const { vcpus } = this.vm.report();
    return {
      reasons: vcpus.flatMap(({ reasons }) => reasons),
      ports: vcpus.flatMap(({ ports }) => ports),
      mmio: vcpus.flatMap(({ mmio }) => mmio),
    };
  }

  /**
   * Runs a command in the default guest, once: with its end the guest ends. What belongs together is one script, as
   * `run(['sh', '-c', '…'])`.
   * @throws GuestTestError when the guest ends without a status, or takes too long; Error for a guest without an agent
   */
  async run(argv: readonly string[], options: RunOptions = {}): Promise<CommandResult> {
    const { stdin = '', env, cwd, timeoutMs = DEFAULT_TIMEOUT_MS } = options;
    this.vm.execute({ argv, ...(env === undefined ? {} : { env }), ...(cwd === undefined ? {} : { cwd }) });
    const { exec } = this.vm;
    if (exec === undefined) throw new Error('a guest with a command has its streams');
    exec.stdin.end(stdin);
    const ends = Promise.all([text(exec.stdout), text(exec.stderr), this.vm.outcome]);
    const [stdout, stderr, outcome] = await within(ends, timeoutMs, () => `${argv.join(' ')} had ended${this.#last()}`);
    if (outcome.kind === 'command') return { status: outcome.status, stdout, stderr };
    throw new GuestTestError(`the guest ended before ${argv.join(' ')} did: ${describe(outcome)}${this.#last()}`);
  }

  /** Types into the guest's console. */
  send(typed: string): void {
    this.vm.console.input.write(Buffer.from(typed, 'latin1'));
  }

  /**
   * Waits until the console shows this, behind what was waited for before.
   * @throws GuestTestError when the guest ends, or takes too long
   */
  async until(pattern: string | RegExp, options: WaitOptions = {}): Promise<void> {
    this.#seen = await this.#console.until(pattern, { from: this.#seen, ...options });
  }

  /** Waits until the guest has ended. @throws GuestTestError when it takes too long */
  async ended({ timeoutMs = DEFAULT_TIMEOUT_MS }: WaitOptions = {}): Promise<Outcome> {
    return within(this.vm.outcome, timeoutMs, () => `the guest had ended${this.#last()}`);
  }

  /**
   * What the guest has left on a disk, by its number in the bench's `disks`. The guest must have ended, and must have
   * written it: by sync(1), by unmounting, or by the end of its command.
   * @throws Error when there is no such disk, or the guest lives
   */
  async disk(index = 0): Promise<Buffer> {
    const files = this.#disks[index];
    if (files === undefined)
      throw new Error(`the guest has ${this.#disks.length} disks, and none with number ${index}`);
    if (this.vm.state !== 'ended') throw new Error(`disk ${index}: the guest has not ended, and may still write it`);
    return readDisk(files);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.vm.stop();
    await this.#forget();
  }

  #last(): string {
    return this.console === '' ? '' : `; the last on its console:\n${tail(this.console)}`;
  }
}

export function describe(outcome: Outcome): string {
  return outcome.kind === 'failed' ? `${outcome.failure}: ${outcome.message}` : outcome.kind;
}
