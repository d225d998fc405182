// The processes of the exit benchmark: what is compiled for it, and a subject as lines over its standard input and output.
// ld.so(8), LD_PRELOAD for the KVM that does nothing.
import { execFileSync, spawn, spawnSync, type ChildProcess } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface, type Interface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import type { ExitCase, Feature } from './cases.js';
import { assembleGuest } from './guest.js';
import type { Batch, RigOptions } from './rig.js';
import type { SubjectOptions } from './subject.js';
import type { TierOptions } from './tiers.js';

/** What is made once for a run of the benchmark, in a folder of its own. */
export interface Workshop extends Disposable {
  readonly directory: string;
  readonly guest: Uint8Array;
  readonly guestFile: string;
  /** The C loop. */
  readonly reference: string;
  /** A KVM that does nothing, to be preloaded. */
  readonly nullKvm: string;
}

/** @throws Error with the compiler's words; gcc and GNU binutils are needed */
export function openWorkshop(): Workshop {
  const directory = mkdtempSync(join(tmpdir(), 'microvisor-bench-'));
  const source = (name: string): string => fileURLToPath(new URL(`../../../bench/${name}`, import.meta.url));
  try {
    const reference = join(directory, 'reference');
    const nullKvm = join(directory, 'null-kvm.so');
    const guestFile = join(directory, 'guest.bin');
    execFileSync('gcc', ['-O2', '-pthread', '-o', reference, source('reference.c')]);
    execFileSync('gcc', ['-O2', '-shared', '-fPIC', '-o', nullKvm, source('exits/null-kvm.c')]);
    const guest = assembleGuest();
    writeFileSync(guestFile, guest);
    const dispose = (): void => rmSync(directory, { recursive: true, force: true });
    return { directory, guest, guestFile, reference, nullKvm, [Symbol.dispose]: dispose };
  } catch (error) {
    rmSync(directory, { recursive: true, force: true });
    throw error;
  }
}

/** Which KVM the exits come from: the host's, or none at all. */
export type Substrate = 'kvm' | 'null';

/** A guest that waits for ever must not take the benchmark with it. */
const LONGEST_BATCH_MS = 120_000;

/** One process that runs batches; it is asked one thing at a time. */
export class SubjectProcess implements Disposable {
  readonly #child: ChildProcess;
  readonly #lines: Interface;
  readonly #name: string;
  #waiting: ((line: string) => void) | undefined;
  #failed: ((error: Error) => void) | undefined;
  #words = '';
  /** TSC cycles a millisecond, as the C loop said with its last answer; NaN from others. */
  tscKhz = Number.NaN;

  private constructor(name: string, command: string, args: readonly string[], env: NodeJS.ProcessEnv) {
    this.#name = name;
    this.#child = spawn(command, args, { env, stdio: ['pipe', 'pipe', 'pipe'] });
    this.#child.stderr?.on('data', (data: Buffer) => (this.#words += data.toString()));
    this.#child.on('error', (error) => this.#failed?.(error));
    this.#child.on('close', (status) => {
      const words = this.#words.trim().split('\n').slice(0, 8).join('\n');
      this.#failed?.(new Error(`${this.#name} ended with status ${status}: ${words}`));
    });
    this.#child.stdin?.on('error', () => undefined);
    this.#lines = createInterface({ input: this.#child.stdout ?? process.stdin });
    this.#lines.on('line', (line) => this.#waiting?.(line));
  }

  /** The C loop, with `feature` in place of the case's own where it is given. */
  static reference(
    workshop: Workshop,
    each: ExitCase,
    substrate: Substrate,
    feature: Feature = each.feature,
  ): SubjectProcess {
    const args = [workshop.guestFile, String(each.op), String(each.mode), feature];
    return new SubjectProcess('the C loop', workshop.reference, args, environment(workshop, substrate));
  }

  static microvisor(workshop: Workshop, each: ExitCase, tier: TierOptions, substrate: Substrate): SubjectProcess {
    const { op, mode, feature } = each;
    const options: Omit<SubjectOptions, 'guest'> = { ...tier, op, mode, feature } satisfies Omit<RigOptions, 'guest'> &
      TierOptions;
    const script = fileURLToPath(new URL('./subject.js', import.meta.url));
    const args = [script, JSON.stringify(options), workshop.guestFile];
    return new SubjectProcess('Microvisor', process.execPath, args, environment(workshop, substrate));
  }

  get pid(): number {
    return this.#child.pid ?? 0;
  }

  /** @throws Error with the process's last words when it ended */
  async batch(count: number, stamped: boolean): Promise<Batch> {
    const answer = new Promise<string>((resolve, reject) => {
      this.#waiting = resolve;
      this.#failed = reject;
    });
    const late = new Error(`${this.#name} gave no answer in ${LONGEST_BATCH_MS} ms`);
    const limit = setTimeout(() => this.#failed?.(late), LONGEST_BATCH_MS);
    try {
      this.#child.stdin?.write(`${count} ${stamped ? 1 : 0}\n`);
      if (this.#child.exitCode !== null) this.#child.emit('close', this.#child.exitCode);
      const line = await answer;
      const [cpu = Number.NaN, wall = Number.NaN, preemptions = Number.NaN, p50 = Number.NaN, p99 = Number.NaN, khz] =
        line.split(' ').map(Number);
      this.tscKhz = khz ?? Number.NaN;
      return { cpu, wall, preemptions, p50, p99 };
    } finally {
      clearTimeout(limit);
    }
  }

  [Symbol.dispose](): void {
    this.#failed = undefined;
    this.#lines.close();
    this.#child.kill('SIGKILL');
  }
}

export function environment({ nullKvm }: Workshop, substrate: Substrate): NodeJS.ProcessEnv {
  return substrate === 'null' ? { ...process.env, LD_PRELOAD: nullKvm } : process.env;
}

/** Runs a command to its end. @returns its processor time in nanoseconds and its status */
export function runMeasured(
  { reference }: Workshop,
  command: readonly string[],
): { readonly cpu: number; readonly status: number; readonly words: string } {
  const { stdout, stderr } = spawnSync(reference, ['--', ...command], { encoding: 'utf8' });
  const [cpu = Number.NaN, status = 127] = stdout.trim().split(' ').map(Number);
  return { cpu, status, words: stderr.trim() };
}
