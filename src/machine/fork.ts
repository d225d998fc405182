// Forks of a machine: its state is taken once, its RAM goes into one file in memory, and each fork maps that copy-on-write.
// memfd_create(2), F_ADD_SEALS: nobody can change or shorten the file any more, so nothing can happen to a fork by it.
import { closeSync } from 'node:fs';
import { rm } from 'node:fs/promises';
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { randomBytes } from '../devices/backend/random-source.js';
import { createMemoryFile, sealMemoryFile } from '../kvm/guest-ram.js';
import { ConfigError } from './config-error.js';
import type { DiskConfig, NetConfig } from './device-config.js';
import { captureState, type CapturedMachine } from './snapshot/capture.js';
import type { OpenSnapshot } from './snapshot/directory.js';
import { holdDevices } from './snapshot/hold.js';
import type { MappedRam } from './snapshot/mapped-ram.js';
import type { SavedConfig } from './snapshot/state.js';

export interface ForkSource extends CapturedMachine {
  readonly restored?: { readonly mapped: MappedRam };
}

/** What a fork has of its own. */
interface OwnParts {
  readonly disks?: readonly DiskConfig[];
  readonly nets?: readonly NetConfig[];
}

const NO_FILE = `ram.${'0'.repeat(16)}`;

/**
 * Forks a paused machine, whose devices stay held.
 * @param make makes one fork of the snapshot that it is given, with the parts that it cannot share
 * @throws ConfigError for a disk or network that cannot be shared; what `make` throws, and no fork is left then
 */
export async function forkMachine<T extends { stop(): Promise<unknown> }>(
  machine: ForkSource,
  count: number,
  make: (snapshot: OpenSnapshot, own: OwnParts) => Promise<T>,
): Promise<T[]> {
  await holdDevices(machine);
  const state = await captureState(machine);
  const { writeRam } = await import('./snapshot/ram-file.js');
  const fd = createMemoryFile('microvisor-fork');
  try {
    const ram = writeRam(fd, machine.memory, machine.restored?.mapped.extents ?? [], { hashes: false });
    sealMemoryFile(fd);
    const snapshot = { state: { ...state, ram: { ...ram, file: NO_FILE } }, path: 'fork', ramPath: 'fork', fd };
    const nets = state.config.nets.map(ownNet);
    const forks = await Promise.allSettled(
      Array.from({ length: count }, async () => {
        const { disks, forget } = await ownDisks(state.config.disks);
        // An overlay lives on without its name, as long as its fork does.
        return make(snapshot, { disks, nets }).finally(forget);
      }),
    );
    const failed = forks.find((fork) => fork.status === 'rejected');
    const made = forks.flatMap((fork) => (fork.status === 'fulfilled' ? [fork.value] : []));
    if (failed === undefined) return made;
    await Promise.all(made.map((fork) => fork.stop()));
    throw failed.reason;
  } finally {
    closeSync(fd);
  }
}

/** Each fork has a user network of its own, to which no port of the host leads. */
function ownNet(net: SavedConfig['nets'][number], index: number): NetConfig {
  if (net.backend?.kind !== 'user')
    throw new ConfigError(
      `nets.${index}`,
      'forks cannot share this network with each other and with their parent, having one address; only user can be forked',
    );
  return { ...net, backend: { kind: 'user', forwards: [] } };
}

/** What is written goes to a copy of the overlay; what is only read is shared. */
async function ownDisks(
  disks: SavedConfig['disks'],
): Promise<{ readonly disks: readonly DiskConfig[]; readonly forget: () => Promise<void> }> {
  const copies: string[] = [];
  const forget = async (): Promise<void> => {
    for (const copy of copies) await rm(copy, { force: true });
  };
  const own: DiskConfig[] = [];
  try {
    for (const [index, { path, readOnly, overlay }] of disks.entries()) {
      if (readOnly) own.push({ path, readOnly, ...(overlay === undefined ? {} : { overlay }) });
      else if (overlay === undefined)
        throw new ConfigError(
          `disks.${index}`,
          `${path} is written by the machine itself; give it an overlay, of which each fork gets a copy, or make it readOnly`,
        );
      else {
        const copy = `${overlay}.fork-${Buffer.from(randomBytes(6)).toString('hex')}`;
        copies.push(copy);
        await copyOverlay(overlay, copy);
        own.push({ path, overlay: copy });
      }
    }
  } catch (error) {
    await forget();
    throw error;
  }
  // The id and the limits are the guest's and stay.
  return { disks: own.map((disk, index) => ({ ...idOf(disks[index]), ...disk })), forget };
}

/** By cp(1), which leaves holes as they are, and shares blocks where the file system can. */
export async function copyOverlay(overlay: string, copy: string): Promise<void> {
  await promisify(execFile)('cp', ['--reflink=auto', '--sparse=always', '--', overlay, copy]);
}

function idOf(disk: SavedConfig['disks'][number] | undefined): Partial<DiskConfig> {
  const { id, bytesPerSecond, operationsPerSecond } = disk ?? {};
  return {
    ...(id === undefined ? {} : { id }),
    ...(bytesPerSecond === undefined ? {} : { bytesPerSecond }),
    ...(operationsPerSecond === undefined ? {} : { operationsPerSecond }),
  };
}
