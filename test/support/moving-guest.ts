// A guest of a test that is saved and restored again and again while it works: what it says goes on in one text, whichever
// machine it runs on at the moment. Its work is guest-work/guest-work.c, which is put into the guest's initramfs.
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { writeCpio } from '../../guests/linux/cpio.js';
import { compileInit } from '../../guests/linux/init-program.js';
import { createVm, restoreVm, type RestoreOptions, type Vm, type VmConfig } from '../../src/index.js';

export const WORK_BLOCK = 4096;
/** Processes that write to the disk. */
export const WORK_WRITERS = 4;

/** An initramfs with the program as /bin/work. @returns its path, in `folder` */
export async function initrdWithWork(initrd: string, folder: string): Promise<string> {
  const [program, path] = [join(folder, 'work'), join(folder, 'initrd')];
  await compileInit(fileURLToPath(new URL('../../../test/support/guest-work', import.meta.url)), program, undefined);
  const work = writeCpio([
    { kind: 'directory', path: 'bin', mode: 0o755 },
    { kind: 'file', path: 'bin/work', mode: 0o755, data: await readFile(program) },
  ]);
  // The kernel unpacks one archive after the other (buffer-format.rst).
  await writeFile(path, Buffer.concat([await readFile(initrd), work]));
  return path;
}

/** What the program writes into a block; as guest-work.c has it. */
export function workBlock(block: number, sequence: number): Buffer {
  const words = new Uint32Array(WORK_BLOCK / 4);
  for (let i = 2; i < words.length; i++) words[i] = Math.imul(block, 2_654_435_761) ^ (Math.imul(sequence, 40_503) + i);
  words.set([block, sequence]);
  return Buffer.from(words.buffer);
}

/** What was last written into block `at` of a writer that stopped after `sequence`; 0: nothing. */
export function lastSequence(at: number, share: number, sequence: number): number {
  const round = Math.floor((sequence - at - 1) / share);
  return round < 0 ? 0 : round * share + at + 1;
}

const PROGRESS = /^(disk \d|tcp|registers \d|line) (\d+)\.?\r?$/gm;

export class MovingGuest {
  #vm: Vm | undefined;
  #said = '';
  #console = '';
  #commandHasEnded = false;
  readonly #waiting = new Set<() => void>();

  /** Boots, and runs `script` with sh. */
  static async boot(config: VmConfig, script: string): Promise<MovingGuest> {
    const guest = new MovingGuest();
    const vm = await createVm({ appendQuirkOptions: true, exec: { argv: ['sh', '-c', script] }, ...config });
    guest.#follow(vm);
    await vm.start();
    return guest;
  }

  get vm(): Vm {
    if (this.#vm === undefined) throw new Error('the guest is between two machines');
    return this.#vm;
  }

  /** All that the command has said. */
  get said(): string {
    return this.#said;
  }

  /** All that came on the console. */
  get console(): string {
    return this.#console;
  }

  /** Saves it as it runs, ends its machine before that runs on, and lets a restored one go on in its place. */
  async move(directory: string, options: RestoreOptions = {}): Promise<void> {
    const { vm } = this;
    await vm.pause();
    await vm.snapshot(directory);
    await this.stop();
    const restored = await restoreVm(directory, options);
    this.#follow(restored);
    await restored.resume();
  }

  async stop(): Promise<void> {
    const { vm } = this;
    this.#vm = undefined;
    await vm.stop();
  }

  say(line: string): void {
    this.vm.exec?.stdin.write(`${line}\n`);
  }

  /** @throws Error with everything that was said when the guest ends before, or finds something wrong */
  async until(condition: () => boolean, what: string): Promise<void> {
    while (!condition()) {
      if (this.#commandHasEnded || this.#said.includes('WRONG')) throw this.problem(`no ${what}`);
      await new Promise<void>((resolve) => this.#waiting.add(resolve));
      this.#waiting.clear();
    }
  }

  /** By what is worked on: how far it is. */
  progress(): ReadonlyMap<string, number> {
    const found = new Map<string, number>();
    for (const text of [this.#said, this.#console])
      for (const [, work = '', number] of text.matchAll(PROGRESS)) found.set(work, Number(number));
    return found;
  }

  /** Waits until `works` kinds of work have each come further than they are now. */
  async untilAllAdvance(works: number): Promise<void> {
    const before = this.progress();
    const haveAdvanced = (): boolean => {
      const now = [...this.progress()].filter(([work, number]) => number > (before.get(work) ?? -1));
      return now.length === works;
    };
    await this.until(haveAdvanced, `progress of each of ${works} works beyond ${JSON.stringify([...before])}`);
  }

  problem(what: string): Error {
    return new Error(`${what}:\n${this.#said.slice(-4000)}\n--- console\n${this.#console.slice(-4000)}`);
  }

  #follow(vm: Vm): void {
    this.#vm = vm;
    const wake = (): void => {
      for (const resolve of this.#waiting) resolve();
    };
    vm.exec?.stdout.on('data', (bytes: Buffer) => {
      this.#said += bytes.toString('latin1');
      wake();
    });
    vm.exec?.stderr.on('data', (bytes: Buffer) => (this.#said += bytes.toString('latin1')));
    vm.console.output.on('data', (bytes: Buffer) => {
      this.#console += bytes.toString('latin1');
      wake();
    });
    void vm.outcome.then(() => {
      // Unless it was ended to move.
      if (this.#vm !== vm) return;
      this.#commandHasEnded = true;
      wake();
    });
  }
}
