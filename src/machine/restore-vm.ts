// Makes a machine that goes on where a snapshot was made: the same composition as a new one, and the saved state in it.
// What a snapshot consists of is snapshot/; how its state gets into KVM is snapshot/apply.ts.
import { closeSync } from 'node:fs';
import { System } from '../kvm/system.js';
import { GuestMemory } from '../memory/guest-memory.js';
import { ramRanges } from '../memory/layout.js';
import { kernelOptions, presentQuirks } from '../vcpu/assist/probe.js';
import { composeMachine, openDevices } from './compose.js';
import { completeConfig, type ForkOptions, type VmConfig } from './config.js';
import { connectConsoles } from './consoles.js';
import { forkMachine } from './fork.js';
import { hostQuirks } from './host-quirks.js';
import { Marks } from './marks.js';
import {
  applyState,
  type Clock,
  filesProblem,
  loadRegisters,
  offersProblem,
  replaceAddresses,
  userProblem,
} from './snapshot/apply.js';
import { openSnapshot, type OpenSnapshot } from './snapshot/directory.js';
import { SnapshotError } from './snapshot/error.js';
import { hostProblem } from './snapshot/host-check.js';
import { MappedRam } from './snapshot/mapped-ram.js';
import { withUndo } from './undo.js';
import { loadUserDevices } from './user-devices.js';
import { renewGeneration } from './vm-generation.js';
import { Vm, type VmParts } from './vm.js';

/** What may be said of a machine that is restored: what its host side is, and what the guest cannot tell. */
export type RestoreOptions = Pick<
  VmConfig,
  | 'disks'
  | 'nets'
  | 'virtio'
  | 'devices'
  | 'consoleOverflow'
  | 'mergeable'
  | 'hugePages'
  | 'trace'
  | 'milestones'
  | 'threads'
  | 'signal'
  | 'onWarning'
> & {
  /** Runs this in the default guest, when the snapshot's agent waits for a command. */
  readonly exec?: Exclude<VmConfig['exec'], 'later'>;
  /**
   * The guest's clocks: `catch-up` (the default) lets them jump by the time since the snapshot, as after a suspend, so
   * that its wall clock is right; `resume` lets them go on as if no time had passed; `set` does so, and the agent of the
   * default guest then sets its wall clock, which no timer notices. Where KVM cannot set a guest's TSC (KVM on PVM)
   * clocks that go by the TSC always catch up.
   */
  readonly clock?: Clock;
  /** Reads all of the snapshot's RAM first and compares it with its hashes; default false. */
  readonly verify?: boolean;
};

/**
 * Makes the machine of a snapshot; it is paused, and `resume()` lets it go on.
 * Disks, networks and devices are those of the snapshot unless `options` has others; objects of the program (a network
 * backend, a virtio device, closures) must be given again.
 * @param directory what `Vm.snapshot` has written
 * @throws SnapshotError (no snapshot, damaged, or not for this host), ConfigError, KvmError
 */
export async function restoreVm(directory: string, options: RestoreOptions = {}): Promise<Vm> {
  const snapshot = openSnapshot(directory);
  try {
    if (options.verify === true) await verifyRamOf(snapshot);
    // Disks that are given are the caller's own affair.
    const changed = options.disks === undefined ? await filesProblem(snapshot.state.files) : undefined;
    if (changed !== undefined) throw new SnapshotError(directory, changed);
    return await restoreFrom(snapshot, options);
  } finally {
    // What is mapped of the file stays.
    closeSync(snapshot.fd);
  }
}

/** Reads a whole snapshot. @throws SnapshotError when it is none, or damaged */
export async function verifySnapshot(directory: string): Promise<void> {
  const snapshot = openSnapshot(directory);
  try {
    await verifyRamOf(snapshot);
  } finally {
    closeSync(snapshot.fd);
  }
}

async function verifyRamOf({ fd, ramPath, state }: OpenSnapshot): Promise<void> {
  const { verifyRam } = await import('./snapshot/ram-file.js');
  const problem = verifyRam(fd, state.ram);
  if (problem !== undefined) throw new SnapshotError(ramPath, `the RAM of the snapshot is damaged: ${problem}`);
}

export async function restoreFrom(source: OpenSnapshot, options: RestoreOptions): Promise<Vm> {
  const { state, path } = source;
  const config = completeConfig(configOf(source, options));
  const bytes = config.memoryMiB * 2 ** 20;
  const user = await loadUserDevices(config.devices, ramRanges(bytes));
  using system = System.open();
  const probed = hostQuirks(system);
  const quirks = presentQuirks(probed);
  const problem = hostProblem(state, quirks) ?? userProblem(state, user);
  if (problem !== undefined) throw new SnapshotError(path, problem);
  // Awaited: the kvm device is closed on return.
  return await withUndo(async (undo) => {
    const memory = GuestMemory.create(bytes);
    const mapped = new MappedRam(memory, { fd: source.fd, content: state.ram, name: source.ramPath });
    undo.push(() => mapped.release());
    const devices = await openDevices(config, memory, user, undo);
    const { virtio, slots } = devices;
    const offers = slots.map(({ offer }) => offer);
    const unlike = offersProblem(state.offers, offers);
    if (unlike !== undefined) throw new SnapshotError(path, unlike);
    const machine = composeMachine(
      { config, system, quirks, memory, devices, load: (board) => loadRegisters(board, state, path) },
      undo,
    );
    const { board, fds, threads, backs } = machine;
    replaceAddresses(board.virtio, offers);
    await Promise.all(threads.map((thread) => thread.ready));
    await applyState(machine, state, { path, clock: options.clock ?? 'catch-up' });
    renewGeneration(machine, state.kernel.placed);
    const marks = new Marks();
    const setsClock = options.clock !== 'resume';
    const exec = state.exec === undefined ? undefined : { saved: state.exec, setsClock };
    const consoles = connectConsoles(board, fds, config, virtio.console, marks, exec);
    for (const back of backs) back.adopt();
    marks.set('created');
    const { kernel, prompt } = state;
    const { signal } = config;
    const parts = { ...machine, kernel, quirkOptions: kernelOptions(probed), consoles, resize: virtio.console };
    const undebugged = { sources: SAVED_SOURCES, stall: undefined, gdb: undefined };
    return new Vm({ ...parts, ...undebugged, marks, signal, fork: forkVm, restored: { mapped, prompt } });
  });
}

/** The files of the saved machine are not looked for: they may have changed, and the guest runs without them. */
const SAVED_SOURCES: VmParts['sources'] = {
  kernel: { name: 'of the snapshot', bytes: new Uint8Array() },
  initrd: undefined,
  symbols: undefined,
};

/** For VmParts. */
export function forkVm(machine: VmParts, count: number, options: ForkOptions): Promise<Vm[]> {
  // No time has passed.
  return forkMachine(machine, count, (snapshot, own) => restoreFrom(snapshot, { ...options, ...own, clock: 'resume' }));
}

/** The configuration of the saved machine, with what `options` says instead. */
function configOf({ state, path }: OpenSnapshot, options: RestoreOptions): VmConfig {
  const { memoryMiB, cpus, firmware, console, entropy, consoleOverflow, disks, nets, ...counts } = state.config;
  const { clock: _clock, verify: _verify, exec, ...given } = options;
  const devices = given.devices ?? [];
  if ((given.virtio ?? []).length !== counts.virtio)
    throw new SnapshotError(
      path,
      `the machine had ${counts.virtio} virtio devices of the program; give as many in virtio`,
    );
  if (devices.length !== counts.devices.length)
    throw new SnapshotError(
      path,
      `the machine had the devices ${counts.devices.join(', ') || 'none'}; give them in devices`,
    );
  if (exec !== undefined && state.exec === undefined)
    throw new SnapshotError(path, "the guest was not booted for commands (exec: 'later'), so none can be run in it");
  const task = state.exec?.task ?? 'awaited';
  if (exec !== undefined && task !== 'awaited')
    throw new SnapshotError(path, `the guest has its ${task} already, which goes on; leave exec out`);
  return {
    // Nothing is loaded.
    kernel: { name: 'snapshot', bytes: new Uint8Array() },
    memoryMiB,
    cpus,
    firmware,
    console,
    entropy,
    consoleOverflow,
    disks: disks.map(defined),
    ...given,
    nets: (given.nets ?? nets).map((net, index) => {
      const saved = nets[index];
      const { backend } = net;
      if (backend === undefined)
        throw new SnapshotError(path, `net${index} had a backend of the program's own; give it again in nets`);
      // The guest has read its address, and keeps it unless it is told another.
      return { ...(saved === undefined ? {} : { mac: saved.mac }), ...net, backend };
    }),
    ...(state.exec === undefined ? {} : { exec: exec ?? 'later' }),
  };
}

/** Optional fields that are there. */
function defined<T extends object>(value: T): Defined<T> {
  return Object.fromEntries(Object.entries(value).filter(([, field]) => field !== undefined)) as Defined<T>;
}
type Defined<T> = { [K in keyof T]: Exclude<T[K], undefined> };
