// A guest of a test that goes on talking: its output as it comes, lines to it, and the end.
import { text } from 'node:stream/consumers';
import { createVm, type Outcome, type Vm, type VmConfig } from '../../src/index.js';

export class GuestSession {
  readonly vm: Vm;
  readonly #console: Promise<string>;
  readonly #errors: Promise<string>;
  readonly #waiting = new Set<() => void>();
  #output = '';
  #hasEnded = false;

  private constructor(vm: Vm) {
    const { exec } = vm;
    if (exec === undefined) throw new Error('the machine has no exec channel');
    this.vm = vm;
    this.#console = text(vm.console.output);
    this.#errors = text(exec.stderr);
    const wake = (): void => {
      for (const check of this.#waiting) check();
    };
    exec.stdout.on('data', (bytes: Buffer) => {
      this.#output += bytes.toString('latin1');
      wake();
    });
    exec.stdout.on('end', () => {
      this.#hasEnded = true;
      wake();
    });
  }

  /** Boots and runs `script` with sh. */
  static async start(config: VmConfig, script: string): Promise<GuestSession> {
    const vm = await createVm({ appendQuirkOptions: true, exec: { argv: ['sh', '-c', script] }, ...config });
    const session = new GuestSession(vm);
    await vm.start();
    return session;
  }

  get output(): string {
    return this.#output;
  }

  /** Waits for output; the match. @throws Error with everything that was said when the guest ends without it */
  async expect(pattern: RegExp): Promise<RegExpExecArray> {
    for (;;) {
      const found = pattern.exec(this.#output);
      if (found !== null) return found;
      if (this.#hasEnded) throw new Error(`the guest ended without ${pattern}: ${await this.#everything()}`);
      await new Promise<void>((resolve) => {
        const check = (): void => {
          this.#waiting.delete(check);
          resolve();
        };
        this.#waiting.add(check);
      });
    }
  }

  /** A line for the script's `read`. */
  say(line: string): void {
    this.vm.exec?.stdin.write(`${line}\n`);
  }

  /** @throws Error with everything that was said, when the script failed */
  async end(): Promise<Outcome> {
    const outcome = await this.vm.outcome;
    if (outcome.kind !== 'command' || outcome.status !== 0)
      throw new Error(`${JSON.stringify(outcome)}: ${await this.#everything()}`);
    return outcome;
  }

  async #everything(): Promise<string> {
    const [errors, onConsole] = await Promise.all([this.#errors, this.#console]);
    return `\n${this.#output}\n--- errors\n${errors}\n--- console\n${onConsole.slice(-2000)}`;
  }
}
