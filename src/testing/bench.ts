// A guest that is booted once, for as many tests as there are: each gets a machine that goes on from that moment.
// RAM is mapped copy-on-write from one file, and each machine has overlays of its own, so no test sees another's traces.
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { prepareGuest, type GuestFlavour } from '../../guests/linux/prepare.js';
import type { VmConfig } from '../machine/config.js';
import { createVm } from '../machine/create-vm.js';
import type { DiskConfig } from '../machine/device-config.js';
import { copyOverlay } from '../machine/fork.js';
import { restoreVm, type RestoreOptions } from '../machine/restore-vm.js';
import type { Vm } from '../machine/vm.js';
import { describe, Guest } from './guest.js';
import { GuestTestError, tail, Transcript, within } from './wait.js';

/** A boot may take longer than what a test waits for: where KVM emulates kernel code, a minute. */
const BOOT_TIMEOUT_MS = 300_000;

/** What each guest may have for itself. Networks, virtio devices and closures of the program must be given each time. */
export type ForkOptions = Pick<RestoreOptions, 'nets' | 'virtio' | 'devices' | 'trace' | 'threads' | 'onWarning'>;

export interface LinuxBenchConfig extends Partial<Omit<VmConfig, 'exec' | 'signal' | 'gdb'>> {
  /** The default guest whose kernel is booted when the configuration has none; default `small`. */
  readonly guest?: GuestFlavour;
  readonly timeoutMs?: number;
}

export interface KernelBenchConfig extends Omit<VmConfig, 'exec' | 'signal' | 'gdb'> {
  /** What the kernel prints on its console when the tests may begin. */
  readonly until: string | RegExp;
  readonly timeoutMs?: number;
}

/**
 * Boots the default guest, or another kernel with its initrd, until its agent waits for a command.
 * @throws GuestTestError when it does not come that far; what createVm throws
 */
export async function bootLinux({ guest, timeoutMs, ...config }: LinuxBenchConfig = {}): Promise<Bench> {
  const { kernel, initrd, cmdline } = await prepareGuest({ flavour: guest ?? 'small' });
  const whole: VmConfig = {
    kernel,
    initrd,
    cmdline,
    appendQuirkOptions: config.kernel === undefined,
    entropy: true,
    ...config,
    exec: 'later',
  };
  return Bench.boot(whole, (vm) => vm.ready, "the guest's agent waited for a command", timeoutMs);
}

/**
 * Boots a kernel of one's own until it prints a certain text.
 * @throws as bootLinux
 */
export async function bootKernel({ until, timeoutMs, ...config }: KernelBenchConfig): Promise<Bench> {
  const wait = async (_vm: Vm, console: Transcript): Promise<void> =>
    void (await console.until(until, { timeoutMs: timeoutMs ?? BOOT_TIMEOUT_MS }));
  return Bench.boot(config, wait, `the kernel had printed ${String(until)}`, timeoutMs);
}

export class Bench implements AsyncDisposable {
  readonly #folder: string;
  readonly #disks: readonly DiskConfig[];
  /** What the kernel printed while it booted. */
  readonly bootConsole: string;
  #forks = 0;

  private constructor(folder: string, disks: readonly DiskConfig[], bootConsole: string) {
    this.#folder = folder;
    this.#disks = disks;
    this.bootConsole = bootConsole;
  }

  static async boot(
    config: VmConfig,
    isReady: (vm: Vm, console: Transcript) => Promise<void>,
    what: string,
    timeoutMs = BOOT_TIMEOUT_MS,
  ): Promise<Bench> {
    const folder = await mkdtemp(join(tmpdir(), 'microvisor-bench-'));
    try {
      // The disks themselves stay as they are.
      const disks = (config.disks ?? []).map((disk, index) =>
        disk.readOnly === true ? disk : { ...disk, overlay: join(folder, `disk${index}`) },
      );
      const given = (config.disks ?? []).find(({ overlay }) => overlay !== undefined);
      if (given !== undefined)
        throw new GuestTestError(`${given.path}: each guest of a bench gets an overlay of its own; leave overlay out`);
      await using vm = await createVm({ ...config, disks });
      const console = new Transcript(vm.console.output);
      await vm.start();
      const gone = vm.outcome.then((outcome) => {
        throw new GuestTestError(
          `${describe(outcome)} before ${what}; the last on its console:\n${tail(console.text)}`,
        );
      });
      gone.catch(() => undefined);
      await within(Promise.race([isReady(vm, console), gone]), timeoutMs, () => what);
      await vm.snapshot(join(folder, 'snapshot'));
      return new Bench(folder, disks, console.text);
    } catch (error) {
      await rm(folder, { recursive: true, force: true });
      throw error;
    }
  }

  /** A guest of its own, running. It ends with `await using`, or by itself. */
  async fork(options: ForkOptions = {}): Promise<Guest> {
    const name = join(this.#folder, `fork${this.#forks++}-disk`);
    const disks: DiskConfig[] = [];
    const forget = async (): Promise<void> => {
      for (const { overlay } of disks) if (overlay?.startsWith(name) === true) await rm(overlay, { force: true });
    };
    try {
      for (const [index, disk] of this.#disks.entries()) {
        const { overlay } = disk;
        if (overlay === undefined) disks.push(disk);
        else {
          disks.push({ ...disk, overlay: `${name}${index}` });
          await copyOverlay(overlay, `${name}${index}`);
        }
      }
      const vm = await restoreVm(join(this.#folder, 'snapshot'), { ...options, disks, clock: 'set' });
      const guest = new Guest(vm, disks, forget);
      await vm.resume();
      return guest;
    } catch (error) {
      await forget();
      throw error;
    }
  }

  /** Removes what was kept on the host's disk. Guests that live go on. */
  async [Symbol.asyncDispose](): Promise<void> {
    await rm(this.#folder, { recursive: true, force: true });
  }
}
