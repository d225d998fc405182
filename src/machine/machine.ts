// The parts of a composed machine: what a running VM, its snapshot and its report work on.
// Made by compose.ts.
import type { MmioBack } from '../devices/virtio/mmio-back.js';
import type { VmFd } from '../kvm/vm-fd.js';
import type { GuestMemory } from '../memory/guest-memory.js';
import type { ExitStatistics } from '../vcpu/observe/statistics.js';
import type { Board, BoardFds } from './board.js';
import type { CompleteConfig } from './config.js';
import type { UserDevice } from './user-devices.js';
import type { VcpuThread } from './vcpu-thread.js';

export interface Machine {
  readonly config: CompleteConfig;
  readonly kvm: VmFd;
  readonly memory: GuestMemory;
  /** Ids of the quirks of this host. */
  readonly quirks: readonly string[];
  readonly board: Board;
  readonly fds: BoardFds;
  /** The virtio devices, in the order of their windows. */
  readonly backs: readonly MmioBack[];
  /** One of them threw: what. */
  readonly deviceFailure: Promise<string>;
  /** The user's own devices, in the order of the configuration. */
  readonly user: readonly UserDevice[];
  readonly threads: readonly VcpuThread[];
  readonly statistics: readonly ExitStatistics[];
  readonly assists: readonly SharedArrayBuffer[];
  /** By vCPU; undefined where nothing is traced. */
  readonly traces: readonly (SharedArrayBuffer | undefined)[];
}
