// The default guest without its boot: from a snapshot that an earlier run has kept, or booted, and kept for later ones.
// A kept one is used for exactly the same configuration, on the same host, until that is started again. It is of the
// moment before the agent is told what to run: so a shell and every command share one, and each draws its own random
// numbers, has the right time, and knows its terminal.
import { mkdirSync, readdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { crc32 } from 'node:zlib';
import { defaultCacheDirectory } from '../../guests/linux/cache.js';
import type { VmConfig } from '../machine/config.js';
import { createVm } from '../machine/create-vm.js';
import { checkCommand } from '../machine/exec-protocol.js';
import { restoreVm } from '../machine/restore-vm.js';
import { SnapshotError } from '../machine/snapshot/error.js';
import type { Vm } from '../machine/vm.js';
import type { RunHooks } from './run-options.js';
import { describeError, say } from './sentence.js';

/** Of these many different configurations the last used are kept, some 16 MiB each. */
const KEPT = 4;
const KEY_FILE = 'key';

/** The VM of a warm run: restored, or about to boot. */
export async function warmStart({ exec, ...config }: VmConfig, hooks: RunHooks): Promise<Vm> {
  if (exec === undefined || exec === 'later') throw new Error('only a guest with an agent has a warm start');
  // Now, and not after a boot.
  if (!('shell' in exec)) checkCommand(exec);
  // Nothing comes between a command and its output, so nothing is said of it.
  const tell = 'shell' in exec ? say : (): void => undefined;
  const place = new KeptSnapshot(config);
  const restored = await place.restore({
    ...hooks,
    exec,
    consoleOverflow: config.consoleOverflow ?? 'drop',
    clock: 'set',
  });
  if (restored !== undefined) {
    tell('the guest goes on from a snapshot of its boot; --cold boots it');
    return restored;
  }
  const vm = await createVm({ ...config, ...hooks, exec: 'later' });
  void vm.ready
    .then(() => place.keep(vm))
    .then((isKept) => {
      if (isKept) tell('a snapshot was kept: from now on the guest starts without its boot');
      vm.execute(exec);
    });
  return vm;
}

class KeptSnapshot {
  readonly #folder = join(defaultCacheDirectory(), 'snapshots');
  readonly #key: string;
  readonly #directory: string;

  /** Where its output goes is no matter of the guest's. */
  constructor({ consoleOverflow: _consoleOverflow, ...config }: VmConfig) {
    // The paths of kernel and initrd name their content.
    const host = ['/proc/sys/kernel/random/boot_id', '/proc/version'].map((path) => readFileSync(path, 'latin1'));
    this.#key = JSON.stringify([host, buildOfMicrovisor(), config]);
    this.#directory = join(this.#folder, crc32(this.#key).toString(16).padStart(8, '0'));
  }

  async restore(options: Parameters<typeof restoreVm>[1]): Promise<Vm | undefined> {
    try {
      if (readFileSync(join(this.#directory, KEY_FILE), 'utf8') !== this.#key) return undefined;
    } catch {
      return undefined;
    }
    try {
      return await restoreVm(this.#directory, options);
    } catch (error) {
      // Of a Microvisor that was another, or damaged: the guest boots, and is kept anew.
      if (!(error instanceof SnapshotError)) throw error;
      say(`the kept snapshot cannot be used, so the guest boots: ${describeError(error)}`);
      return undefined;
    }
  }

  /**
   * A cache that cannot be written costs the next run its boot, and this one nothing.
   * @returns whether it could
   */
  async keep(vm: Vm): Promise<boolean> {
    const partial = `${this.#directory}.${process.pid}`;
    try {
      mkdirSync(this.#folder, { recursive: true });
      await vm.snapshot(partial);
      writeFileSync(join(partial, KEY_FILE), this.#key);
      rmSync(this.#directory, { recursive: true, force: true });
      renameSync(partial, this.#directory);
      this.#dropOld();
      return true;
    } catch {
      rmSync(partial, { recursive: true, force: true });
      return false;
    }
  }

  #dropOld(): void {
    const age = (name: string): number => statSync(join(this.#folder, name)).mtimeMs;
    const names = readdirSync(this.#folder).filter((name) => /^[0-9a-f]{8}$/.test(name));
    for (const name of names.toSorted((a, b) => age(b) - age(a)).slice(KEPT))
      rmSync(join(this.#folder, name), { recursive: true, force: true });
  }
}

/** Of the code that runs, and not of when it was compiled: `npm start` compiles each time. Another one may have other devices. */
function buildOfMicrovisor(): number {
  const folder = dirname(fileURLToPath(import.meta.url));
  const files = readdirSync(folder).filter((name) => name.endsWith('.js'));
  return files.toSorted().reduce((sum, name) => crc32(readFileSync(join(folder, name)), sum), 0);
}
